"""
Reads the body of POST /v1/chat/completions into a request for the language model's node.

Fields that are empty are treated as absent: clients send back all that they were sent. Fields that
do not change the answer are ignored. Any other field that is not supported is refused by name, so
that a misspelt field is not silently replaced by its default.

Format: https://github.com/openai/openai-openapi, CreateChatCompletionRequest.
"""

from collections.abc import Mapping
import json
import secrets
from typing import Any

from tinyllama_ros.chat.completion import CompletionRequest, MOST_MESSAGES, RANGES
from tinyllama_ros.errors import RequestError
from tinyllama_ros.ros.wire import read_messages

Json = dict[str, Any]

NEUTRAL_VALUES: Mapping[str, tuple[object, ...]] = {
    'frequency_penalty': (0,),
    'function_call': ('none', 'auto'),
    'functions': (),
    'logit_bias': (),
    'logprobs': (False,),
    'modalities': (['text'],),
    'n': (1,),
    'parallel_tool_calls': (True, False),
    'presence_penalty': (0,),
    'response_format': ({'type': 'text'},),
    'service_tier': ('auto', 'default'),
    'store': (False,),
    'tool_choice': ('none', 'auto'),
    'tools': (),
    'top_logprobs': (0,),
}
"""Fields that are not supported, and their values that change nothing; empty changes nothing."""
IGNORED = ('metadata', 'prompt_cache_key', 'prompt_cache_retention', 'safety_identifier', 'user')
"""Fields whose value never changes the answer."""
IGNORED_IN_MESSAGES = ('cache_control', 'name', 'provider_specific_fields')
EMPTY: tuple[object, ...] = (None, '', [], {})


class ChatRequest:
    """What a client asks for."""

    def __init__(self, body: Json) -> None:
        """
        Read a request's body.

        :raises RequestError: names the field that is wrong or not supported.
        """
        fields = {name: value for name, value in body.items()
                  if value not in EMPTY or name == 'messages'}
        model = fields.pop('model', None)
        if not (model is None or isinstance(model, str)):
            raise RequestError('model must be a text', 'model')
        self.model: str | None = model
        self.is_stream = _pop_flag(fields, 'stream')
        self.wants_usage = self._pop_stream_options(fields)
        messages = _read_chat(fields.pop('messages', None))
        numbers = {name: fields.pop(name, None) for name in RANGES}
        if 'max_completion_tokens' in fields:  # the newer name
            numbers['max_tokens'] = fields.pop('max_completion_tokens')
        if isinstance(numbers['seed'], int) and not isinstance(numbers['seed'], bool):
            numbers['seed'] %= 2**63
        stop = fields.pop('stop', [])
        _check_neutral(fields)
        self.request = CompletionRequest(
            f'chatcmpl-{secrets.token_hex(12)}', read_messages(messages), **numbers,
            stop=tuple([stop] if isinstance(stop, str) else _list(stop, 'stop')))

    def _pop_stream_options(self, fields: Json) -> bool:
        options = fields.pop('stream_options', {})
        if not isinstance(options, dict):
            raise RequestError('stream_options must be an object', 'stream_options')
        if options and not self.is_stream:
            raise RequestError('stream_options are for stream: true', 'stream_options')
        options = {name: value for name, value in options.items() if value is not None}
        wants_usage = _pop_flag(options, 'include_usage')
        _pop_flag(options, 'include_obfuscation')
        if options:
            raise RequestError(f'{min(options):.100} of stream_options is not supported',
                               'stream_options')
        return wants_usage


def _read_chat(value: object) -> list[Json]:
    """Return messages as the model's node takes them: a role, and one text."""
    messages = _list(value, 'messages')
    if len(messages) > MOST_MESSAGES:
        raise RequestError(f'there are {len(messages)} messages; at most {MOST_MESSAGES} are '
                           'taken', 'messages')
    return [_read_chat_message(message, f'messages[{index}]')
            for index, message in enumerate(messages)]


def _read_chat_message(value: object, name: str) -> Json:
    if not isinstance(value, dict):
        raise RequestError(f'{name} must be an object', name)
    fields = {field: inner for field, inner in value.items()
              if inner not in EMPTY and field not in IGNORED_IN_MESSAGES}
    role, content = fields.pop('role', None), fields.pop('content', '')
    if role in ('tool', 'function'):
        raise RequestError(f'{name}: tools are not supported', name)
    if fields:
        field = f'{name}.{min(fields):.100}'
        raise RequestError(f'{field} is not supported', field)
    text = content if isinstance(content, str) else _join_parts(content, f'{name}.content')
    return {'role': 'system' if role == 'developer' else role, 'content': text}


def _join_parts(value: object, name: str) -> str:
    """Return the parts of a content as one text, each part beginning on a line of its own."""
    texts = []
    for part in _list(value, name):
        if not isinstance(part, dict) or part.get('type') != 'text' or not isinstance(
                part.get('text'), str):
            raise RequestError(f'{name} may hold only text, as a text or as parts of type text',
                               name)
        texts.append(part['text'])
    return '\n'.join(texts)


def _check_neutral(fields: Json) -> None:
    """Refuse by name each field that is not supported and could change the answer."""
    for name, value in fields.items():
        if name in IGNORED:
            continue
        if name not in NEUTRAL_VALUES:
            raise RequestError(f'{name:.100} is not supported', name[:100])
        # 0 is False to Python, and not to JSON
        if not any(type(value) is type(neutral) and value == neutral or
                   type(value) is float and type(neutral) is int and value == neutral
                   for neutral in NEUTRAL_VALUES[name]):
            values = ' or '.join(map(json.dumps, NEUTRAL_VALUES[name])) or 'empty'
            raise RequestError(f'{name} is supported only as {values}', name)


def _pop_flag(fields: Json, name: str) -> bool:
    value = fields.pop(name, False)
    if not isinstance(value, bool):
        raise RequestError(f'{name} must be true or false', name)
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise RequestError(f'{name} must be a list', name)
    return value
