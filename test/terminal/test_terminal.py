from contextlib import nullcontext
import io
import os
import re
import signal
from threading import Event as ThreadEvent, Thread
from types import SimpleNamespace
import unicodedata

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from hypothesis import given, strategies
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String
from std_srvs.srv import Trigger

from tinyllama_ros.terminal import cli, conversation, link as terminal_link, screen
from tinyllama_ros.terminal.answer_text import AnswerText
from tinyllama_ros.terminal.conversation import COMMANDS, Conversation
from tinyllama_ros.terminal.keyboard import Keyboard
from tinyllama_ros.terminal.link import Event, EVENTS, LATCHED, Link, NodeError
from tinyllama_ros.terminal.screen import printable, Screen

PIECES = strategies.lists(strategies.text(min_size=1, max_size=4), min_size=1, max_size=8)


class FakeNode:
    """Speaks the node's topics; `answers` says what each prompt brings."""

    def __init__(self, context, name='/fake', state='idle', is_configured=True):
        self.node = rclpy.create_node(name[1:], context=context)
        self.answers = {}
        self.prompts = []
        self.calls = []
        self.cancelled = ThreadEvent()
        self.heard = ThreadEvent()
        self.publishers = {
            kind: self.node.create_publisher(String, f'{name}/{kind}',
                                             LATCHED if kind == 'state' else EVENTS)
            for kind in ('token', 'response', 'cache_reset', 'error', 'state')}
        if is_configured:
            self.node.create_subscription(String, f'{name}/prompt', self.on_prompt, EVENTS)
        for service in ('reset', 'cancel'):
            self.node.create_service(Trigger, f'{name}/{service}',
                                     lambda _, reply, name=service: self.on_call(name, reply))
        self.diagnostics = self.node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.say('state', state)

    def diagnose(self, values_by_status):
        message = DiagnosticArray(status=[
            DiagnosticStatus(name=name, values=[
                KeyValue(key=key, value=value) for key, value in values.items()])
            for name, values in values_by_status.items()])
        self.node.create_timer(0.05, lambda: self.diagnostics.publish(message))

    def say(self, kind, text):
        self.publishers[kind].publish(String(data=text))

    def on_prompt(self, message):
        self.prompts.append(message.data)
        self.heard.set()
        for kind, text in self.answers[message.data]:
            self.say(kind, text)

    def on_call(self, service, reply):
        self.calls.append(service)
        if service == 'cancel':
            self.say('response', 'One')
            self.say('state', 'idle')
        reply.success, reply.message = True, f'{service} done'
        return reply


@pytest.fixture
def context():
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()


@pytest.fixture
def make_fake(context):
    executor = SingleThreadedExecutor(context=context)
    thread = Thread(target=executor.spin, daemon=True)
    nodes = []

    def make(**options):
        fake = FakeNode(context, **options)
        nodes.append(fake.node)
        executor.add_node(fake.node)
        if not thread.is_alive():
            thread.start()
        return fake

    yield make
    executor.shutdown()
    if thread.is_alive():
        thread.join()
    for node in nodes:
        node.destroy_node()


@pytest.fixture
def fake(make_fake):
    fake = make_fake()
    fake.answers = {
        'Hi': [('token', 'Hel'), ('token', 'lo.'), ('response', 'Hello.')],
        'Bye': [('response', 'Good bye.'), ('token', 'Good'), ('token', ' bye.')],
        'full': [('token', 'a'), ('cache_reset', 'full'), ('token', 'b'), ('response', 'ab')],
        'bad': [('error', 'the prompt is blank; say something')],
        'broken': [('state', 'answering'), ('token', 'x'), ('error', 'out of memory'),
                   ('response', 'x'), ('state', 'idle')],
        'failing': [('state', 'reading'), ('error', 'out of memory'), ('response', ''),
                    ('state', 'error')],
        'count': [('state', 'answering'), ('token', 'One')],
    }
    return fake


def chat(*arguments):
    return cli.main(['--node', '/fake', '--wait', '10', *arguments])


def talk(link, answers):
    return Conversation(link, Screen(answers, io.StringIO()), Keyboard(io.StringIO(), []))


def pipe(monkeypatch, text):
    monkeypatch.setattr('sys.stdin', io.StringIO(text))


@given(PIECES, strategies.data())
def test_answer_is_whole_wherever_the_response_overtakes_tokens(pieces, data):
    on_time = data.draw(strategies.integers(0, len(pieces)))
    answer = AnswerText()
    shown = [answer.token(piece) for piece in pieces[:on_time]]
    shown.append(answer.response(''.join(pieces)))
    late = [answer.token(piece) for piece in pieces[on_time:]]
    assert ''.join(shown) == ''.join(pieces)
    assert set(late) <= {''}


@given(PIECES, PIECES)
def test_late_tokens_do_not_leak_into_the_next_answer(first, second):
    answer = AnswerText()
    answer.response(''.join(first))
    shown = [answer.token(piece) for piece in first + second]
    assert ''.join(shown) + answer.response(''.join(second)) == ''.join(second)


def test_answer_joined_midway_is_not_repeated():
    answer = AnswerText()
    assert answer.token('world') == 'world'
    assert answer.response('Hello world') == ''
    assert answer.token('Next') == 'Next'


@pytest.mark.parametrize(('prompt', 'answer', 'notes'), [
    ('Hi', 'Hello.\n', ''),
    ('Bye', 'Good bye.\n', ''),
    ('full', 'ab\n', '[the memory was cleared: full]\n'),
], ids=['in order', 'response first', 'reset inside'])
def test_once_prints_the_answer_alone_on_stdout(fake, capsys, prompt, answer, notes):
    assert chat('--once', prompt) == 0
    assert fake.prompts == [prompt]
    assert capsys.readouterr() == (answer, notes)


@pytest.mark.parametrize(('prompt', 'answer', 'error'), [
    ('bad', '', '[error: the prompt is blank; say something]\n'),
    ('broken', 'x\n', '[error: out of memory]\n'),
])
def test_failed_prompt_is_an_error_and_a_status(fake, capsys, prompt, answer, error):
    assert chat('--once', prompt) == 1
    assert capsys.readouterr() == (answer, error)


@pytest.mark.parametrize('order', [('error', 'response'), ('response', 'error')], ids='-'.join)
def test_cut_answer_counts_as_failed_wherever_its_error_comes(order):
    events = iter([*(Event(kind, 'Half') for kind in order), None])
    link = SimpleNamespace(state='answering', send=lambda prompt: None, waiting_events=list,
                           events=lambda: events)
    answers = io.StringIO()
    assert not talk(link, answers).ask('Hi')
    assert answers.getvalue() == 'Half\n'


def test_piped_lines_are_prompts_in_order(fake, capsys, monkeypatch):
    pipe(monkeypatch, 'Hi\n\n  Bye \n/quit\nHi\n')
    assert chat() == 0
    assert fake.prompts == ['Hi', 'Bye']
    assert capsys.readouterr().out == ('> Hi\nHello.\n> \n>   Bye\nGood bye.\n> /quit\n')


def test_refused_prompt_does_not_shift_the_answers(fake, capsys, monkeypatch):
    pipe(monkeypatch, 'broken\nbad\nHi\n')
    assert chat() == 0
    assert capsys.readouterr().out == '> broken\nx\n> bad\n> Hi\nHello.\n'


def test_reset_calls_the_service_and_shows_its_word(fake, capsys, monkeypatch):
    pipe(monkeypatch, '/reset\n')
    assert chat() == 0
    assert fake.calls == ['reset']
    assert capsys.readouterr().err == '[reset done]\n'


def test_stop_between_answers_stops_whatever_the_robot_says(fake, capsys, monkeypatch):
    pipe(monkeypatch, '/stop\n')
    assert chat() == 0
    assert fake.calls == ['cancel']
    assert capsys.readouterr().err == '[cancel done]\n'


def test_stats_shows_the_diagnostics_of_this_node_in_columns(fake, capsys, monkeypatch):
    pipe(monkeypatch, '/stats\n')
    fake.diagnose({'/fake: language model': {'fill (slots)': '7', 'answers': '12'},
                   '/other: language model': {'fill (slots)': '9'}})
    assert chat() == 0
    assert capsys.readouterr().err == 'fill (slots)  7\nanswers       12\n'


def test_stats_of_a_node_without_diagnostics_is_an_error(fake, capsys, monkeypatch):
    monkeypatch.setattr(terminal_link, 'REPLY_S', 0.2)
    pipe(monkeypatch, '/stats\n')
    assert chat() == 1
    assert '/fake said nothing on /diagnostics within' in capsys.readouterr().err


def test_help_lists_every_command(fake, capsys, monkeypatch):
    pipe(monkeypatch, '/help\n')
    assert chat() == 0
    assert re.findall('^/[a-z]+', capsys.readouterr().err, re.MULTILINE) == list(COMMANDS)


def test_unknown_command_is_no_prompt_and_a_path_is_one(fake, capsys, monkeypatch):
    fake.answers['/etc/motd'] = [('response', 'A file.')]
    pipe(monkeypatch, '/rest\n/etc/motd\n')
    assert chat() == 0
    assert fake.prompts == ['/etc/motd']
    assert capsys.readouterr().err == '[there is no /rest; /help lists what there is]\n'


def test_stop_waits_until_the_node_has_taken_the_prompt():
    said, keys = [], iter([True, False, False])
    link = SimpleNamespace(state='idle', send=lambda prompt: None, waiting_events=list,
                           request_cancel=lambda: said.append(link.state))

    def events():
        yield Event('cache_reset', 'full')
        link.state = 'reading'
        yield Event('state', 'reading')
        yield Event('response', '')
        yield None

    link.events = events
    keyboard = SimpleNamespace(watched=nullcontext, wants_stop=lambda: next(keys))
    Conversation(link, Screen(io.StringIO(), io.StringIO()), keyboard).ask('Hi')
    assert said == ['reading']


def test_what_was_said_before_the_prompt_is_no_sign_that_it_is_read(monkeypatch):
    monkeypatch.setattr(screen, 'columns', lambda stream: 40)
    shown = io.StringIO()
    link = SimpleNamespace(state='idle', send=lambda prompt: None,
                           waiting_events=lambda: [Event('state', 'reading')],
                           events=lambda: iter([Event('response', 'x'), None]))
    Conversation(link, Screen(io.StringIO(), shown), Keyboard(io.StringIO(), [])).ask('Hi')
    assert 'reading' not in shown.getvalue()


def test_interrupt_stops_the_answer_not_the_conversation(fake, capsys, monkeypatch):
    pipe(monkeypatch, 'count\n')

    def press() -> None:
        fake.heard.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=press, daemon=True).start()
    assert chat() == 0
    assert fake.calls == ['cancel']
    assert capsys.readouterr().out == '> count\nOne\n'


def test_no_node_says_what_to_start(capsys):
    assert cli.main(['--node', '/nobody', '--wait', '0.2']) == 1
    assert 'no node answers on /nobody/state within 0.2 s; start it' in capsys.readouterr().err


def test_loading_node_is_not_mistaken_for_none(make_fake, context):
    make_fake(state='loading')
    link = Link('/fake', context)
    with pytest.raises(NodeError, match='/fake is still loading after 1 s; wait longer'):
        link.wait_until_ready(1)
    link.close()


def test_node_that_cannot_be_configured_is_reported_at_once(make_fake, context, monkeypatch):
    monkeypatch.setattr(terminal_link, 'DISCOVERY_S', 0.2)
    make_fake(state='error', is_configured=False)
    link = Link('/fake', context)
    with pytest.raises(NodeError, match='/fake is in state error and takes no prompts: its log'):
        link.wait_until_ready(60)
    link.close()


def test_conversation_goes_on_after_a_failed_answer(fake, capsys, monkeypatch):
    pipe(monkeypatch, 'failing\nHi\n')
    assert chat() == 0
    assert fake.prompts == ['failing', 'Hi']
    assert capsys.readouterr() == ('> failing\n> Hi\nHello.\n', '[error: out of memory]\n')


def test_conversation_begins_with_a_node_whose_last_answer_failed(fake, capsys):
    fake.say('state', 'error')
    assert chat('--once', 'Hi') == 0
    assert capsys.readouterr().out == 'Hello.\n'


@given(strategies.text())
def test_nothing_that_is_printed_controls_the_terminal(text):
    shown = printable(text)
    assert len(shown) == len(text)
    for character, original in zip(shown, text, strict=True):
        is_control = unicodedata.category(original) == 'Cc' and original not in '\n\t'
        assert character == ('\ufffd' if is_control else original)


def test_controls_are_shown_as_replaced_in_answers_and_notes(fake, capsys):
    fake.answers['ring'] = [('token', '\x1b[2J'), ('error', 'b\x07\x9b\x7fd\t!'),
                            ('response', '\x1b[2J\r\n!')]
    assert chat('--once', 'ring') == 1
    assert capsys.readouterr() == ('\ufffd[2J\ufffd\n!\n',
                                   '[error: b\ufffd\ufffd\ufffdd\t!]\n')


def test_silent_node_is_noticed(fake, context, monkeypatch):
    monkeypatch.setattr(conversation, 'REPLY_S', 0.3)
    fake.answers['deaf'] = []
    link = Link('/fake', context)
    with pytest.raises(NodeError, match='/fake is idle and did not take the prompt'):
        talk(link, io.StringIO()).ask('deaf')
    link.close()


def test_node_that_dies_in_its_answer_is_noticed(fake, context):
    fake.answers['die'] = [('state', 'answering'), ('token', 'x')]
    Thread(target=lambda: fake.heard.wait(10) and fake.node.destroy_node(), daemon=True).start()
    link = Link('/fake', context)
    link.wait_until_ready(10)
    with pytest.raises(NodeError, match='/fake went away before it answered'):
        talk(link, io.StringIO()).ask('die')
    link.close()


def test_reader_that_has_seen_enough_ends_the_talk(fake, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, 'w') as stdout:
        monkeypatch.setattr('sys.stdout', stdout)
        assert chat('--once', 'Hi') == 141


def test_piped_bytes_that_are_no_text_are_replaced(fake, monkeypatch):
    fake.answers['a\ufffd'] = [('response', 'b')]
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(b'a\xff\n'), 'utf-8'))
    assert chat() == 0
    assert fake.prompts == ['a\ufffd']


@pytest.mark.parametrize('is_terminal', [True, False], ids=['typed', 'piped'])
def test_node_that_stays_away_ends_only_a_piped_conversation(is_terminal, monkeypatch):
    def wait_until_ready(timeout_s):
        raise NodeError('no node answers')

    shown = io.StringIO()
    link = SimpleNamespace(target='/fake', wait_until_ready=wait_until_ready)
    keyboard = SimpleNamespace(is_terminal=is_terminal,
                               lines=lambda: iter(['Hi', '/help']))
    with nullcontext() if is_terminal else pytest.raises(NodeError, match='no node answers'):
        Conversation(link, Screen(io.StringIO(), shown), keyboard).converse(1)
    assert shown.getvalue().startswith('[error: no node answers]\n/reset') == is_terminal
