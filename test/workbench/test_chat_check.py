"""A build refuses a tokenizer or a chat template that the chat on the robot could not use."""

from dataclasses import replace

import pytest
from support.tiny_models import bpe_tokenizer, sentencepiece_tokenizer

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.chat_check import check_chat, open_tokenizer
from tinyllama_ros.workbench.checkpoints.checkpoint import TokenizerFile

SIZE = 1000
TOKENIZERS = {'bpe': bpe_tokenizer(), 'sentencepiece': sentencepiece_tokenizer()}
ANSWERS = '{% for message in messages %}{{ message.content }}{% endfor %}'


def with_template(template):
    file = bpe_tokenizer()
    return TokenizerFile(replace(file.settings, chat_template=template), file.content)


@pytest.mark.parametrize('tokenizer', TOKENIZERS.values(), ids=TOKENIZERS)
def test_tokenizer_and_template_of_a_chat_model_are_taken(tokenizer):
    check_chat(tokenizer, SIZE)


@pytest.mark.parametrize(('template', 'message'), [
    ('', 'has no chat template; use its instruct or chat form, or give one: .* --template FILE'),
    ('{% frobnicate %}', 'is not valid Jinja: .*frobnicate'),
    ('{{ messages | frobnicate }}', 'is not valid Jinja: .*frobnicate'),
    ('{{ frobnicate(messages) }}', "template of the model fails: 'frobnicate' is undefined"),
    ('{% if messages | length > 1 %}{{ 1 / 0 }}{% endif %}', 'fails: division by zero'),
    ("{% if messages[0].role == 'system' %}{{ 1 / 0 }}{% endif %}", 'fails: division by zero'),
    ("{{ raise_exception('Only documents') }}",
     r'refuses a conversation of user: .*Only documents; give another one with --template FILE'),
    ("{% if messages | length > 2 %}{{ raise_exception('One turn') }}{% endif %}",
     r'refuses a conversation of user, assistant, user: .*One turn'),
], ids=['missing', 'tag', 'filter', 'function', 'second_turn', 'system', 'refused',
        'second_turn_refused'])
def test_template_that_the_chat_could_not_use_is_refused(template, message):
    with pytest.raises(ModelError, match=message):
        check_chat(with_template(template), SIZE)


def test_template_may_refuse_a_system_prompt():
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    check_chat(with_template(refusal + ANSWERS), SIZE)


def test_tokenizer_with_more_tokens_than_the_model_is_refused():
    size = open_tokenizer(bpe_tokenizer()).vocab_size
    check_chat(bpe_tokenizer(), size)
    with pytest.raises(ModelError, match=f'has {size} tokens, but the model has {size - 1}; use'):
        check_chat(bpe_tokenizer(), size - 1)


def test_tokenizer_that_cannot_be_read_is_refused():
    file = bpe_tokenizer()
    with pytest.raises(ModelError, match='tokenizer of the model cannot be used: .*; use the one'):
        check_chat(TokenizerFile(file.settings, file.content[:100]), SIZE)
