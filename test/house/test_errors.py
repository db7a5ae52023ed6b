"""Whatever an error is given to say, its message is one line that can be printed."""

import pytest

from tinyllama_ros.errors import LONGEST_MESSAGE, reason_of, RequestError, TinyLlamaError


@pytest.mark.parametrize(('given', 'message'), [
    ('plain: caf\u00e9 \U0001f916', 'plain: caf\u00e9 \U0001f916'),
    ('two\nlines\tand a tab', 'two lines and a tab'),
    ('bell \a, null \0, escape \x1b[31m', r'bell \x07, null \x00, escape \x1b[31m'),
    ('right to left \u202e', r'right to left \u202e'),
    ('half a character \ud800', r'half a character \ud800')])
def test_message_is_one_line_that_can_be_printed(given, message):
    assert str(TinyLlamaError(given)) == message
    assert str(RequestError(given)) == message


def test_long_message_keeps_its_beginning_and_its_remedy():
    message = str(TinyLlamaError('what is wrong: ' + 'x' * 50_000 + '; what to do'))
    assert message.startswith('what is wrong') and message.endswith('what to do')
    assert len(message) < LONGEST_MESSAGE + 10


@pytest.mark.parametrize(('error', 'reason'), [
    (MemoryError(), 'MemoryError'), (ValueError(' \n'), 'ValueError'), (OSError('full'), 'full')])
def test_error_without_a_text_is_named(error, reason):
    assert reason_of(error) == reason
