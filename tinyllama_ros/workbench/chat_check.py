"""
Checks tokenizer and chat template at the start of a build, before the weights are read.

The node loads the same tokenizer and renders the same template, so an error that would occur there
is found here, before minutes of work.
"""

from tinyllama_ros.chat.message import Message
from tinyllama_ros.chat.template import ChatTemplate
from tinyllama_ros.chat.tokenizer import load_tokenizer, Tokenizer
from tinyllama_ros.errors import ModelError, PromptError
from tinyllama_ros.workbench.checkpoints.checkpoint import TokenizerFile

_SAMPLES = tuple(tuple(Message(role, 'Hello, robot.') for role in roles) for roles in (
    ('user',), ('user', 'assistant', 'user'), ('system', 'user')))
"""Sample conversations; a template may refuse the last one, which has a system prompt."""


def open_tokenizer(file: TokenizerFile) -> Tokenizer:
    """
    Return the tokenizer of a checkpoint, ready to use.

    :raises ModelError: it cannot be used.
    """
    try:
        return load_tokenizer(file.content, file.settings)
    except ModelError as error:
        raise ModelError(f'the tokenizer of the model cannot be used: {error}; use the one that '
                         'the model was trained with') from error


def check_chat(file: TokenizerFile, vocab_size: int) -> None:
    """
    Load a tokenizer and render its chat template with sample conversations.

    :param vocab_size: tokens that the model has.
    :raises ModelError: the node could not use the tokenizer or the template.
    """
    if not file.settings.chat_template:
        raise ModelError('the model has no chat template; use its instruct or chat form, or give '
                         'one: tinyllama-model build --template FILE, or chat_template.jinja in '
                         'a Hugging Face folder')
    tokenizer = open_tokenizer(file)
    if tokenizer.vocab_size > vocab_size:
        raise ModelError(f'the tokenizer has {tokenizer.vocab_size} tokens, but the model '
                         f'has {vocab_size}; use the tokenizer that the model was trained with')
    template = ChatTemplate(file.settings, tokenizer)
    for messages in _SAMPLES:
        try:
            template.encode(messages)
        except PromptError as error:
            if messages[0].role != 'system':
                roles = ', '.join(message.role for message in messages)
                raise ModelError(f'the chat template of the model refuses a conversation of '
                                 f'{roles}: {error}; give another one with --template FILE'
                                 ) from error
