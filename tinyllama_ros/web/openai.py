"""
The door for OpenAI clients: /v1/models and /v1/chat/completions, streaming or not.

Knows HTTP and what these clients send and expect; who answers is behind a Protocol, and ROS is
nowhere. What a client asks for and nobody here can do is refused by name, never left out silently.

Format: https://github.com/openai/openai-openapi, CreateChatCompletionRequest and -Response.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
import json
import logging
from pathlib import PurePath
import secrets
import time
from typing import Any, Protocol

from aiohttp import web

from tinyllama_ros.chat.completion import (
    CompletionEvent,
    CompletionRequest,
    MOST_MESSAGES,
    RANGES,
    read_messages,
    read_object,
)
from tinyllama_ros.errors import RequestError
from tinyllama_ros.web.settings import WebSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Json = dict[str, Any]

PREFIX = '/v1/'
WITHOUT_EFFECT: Mapping[str, tuple[object, ...]] = {
    'frequency_penalty': (0,),
    'function_call': ('none', 'auto'),
    'functions': ([],),
    'logit_bias': ({},),
    'logprobs': (False,),
    'modalities': (['text'],),
    'n': (1,),
    'parallel_tool_calls': (True, False),
    'presence_penalty': (0,),
    'response_format': ({'type': 'text'},),
    'service_tier': ('auto', 'default'),
    'store': (False,),
    'tool_choice': ('none', 'auto'),
    'tools': ([],),
    'top_logprobs': (0,),
}
"""What is taken with the values that change nothing, and refused with any other."""
IGNORED = ('metadata', 'prompt_cache_key', 'prompt_cache_retention', 'safety_identifier', 'user')
"""What says nothing about the answer."""
IGNORED_IN_MESSAGES = ('name',)
REFUSALS: Mapping[str, tuple[int, str, str | None]] = {
    'invalid_request': (400, 'invalid_request_error', None),
    'too_long': (400, 'invalid_request_error', 'context_length_exceeded'),
    'busy': (503, 'server_error', 'overloaded'),
    'stopping': (503, 'server_error', 'unavailable'),
    'offline': (503, 'server_error', 'unavailable'),
    'cancelled': (503, 'server_error', 'cancelled'),
    'failed': (500, 'server_error', None),
}
"""Status, type and code for each code of an error event."""
CODES = {401: 'invalid_api_key', 404: 'unknown_url', 429: 'rate_limit_exceeded'}

log = logging.getLogger(__name__)


class Door(Protocol):
    """Who answers requests."""

    @property
    def model(self) -> str:
        """The name of the model that answers, or its path; '' where none does."""

    def complete(self, request: CompletionRequest
                 ) -> AsyncGenerator[CompletionEvent | None, None]:
        """
        Yield what happens to a request, and None whenever nothing does for a while.

        The last is `done` or `error`. Whoever closes the generator before cancels the request.
        """


class Refusal(Exception):
    """A request is not answered, or not to its end."""

    def __init__(self, status: int, message: str, kind: str = 'invalid_request_error', *,
                 param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {'error': {'message': message, 'type': kind, 'param': param, 'code': code}}

    @classmethod
    def of_event(cls, event: CompletionEvent) -> 'Refusal':
        """Return what tells a client of an error event."""
        status, kind, code = REFUSALS.get(event.code, REFUSALS['failed'])
        param = 'messages' if event.code == 'too_long' else event.param or None
        return cls(status, event.text, kind, param=param, code=code)

    @classmethod
    def of_http(cls, error: web.HTTPException) -> 'Refusal':
        """Return what tells a client of what the guard or aiohttp refuses."""
        kind = 'server_error' if error.status >= 500 else 'invalid_request_error'
        return cls(error.status, error.text or error.reason, kind, code=CODES.get(error.status))

    def response(self, headers: Mapping[str, str] | None = None) -> web.Response:
        more = dict(headers or {})
        if self.status == 503:
            more.setdefault('Retry-After', '1')
        if self.body['error']['code'] == 'cancelled':  # somebody meant it
            more['x-should-retry'] = 'false'
        return web.json_response(self.body, status=self.status, headers=more)


def add_routes(app: web.Application, door: Door, settings: WebSettings) -> None:
    """Add the routes below /v1/."""
    routes = _Routes(door, settings)
    app.router.add_get('/v1/models', routes.models)
    app.router.add_get('/v1/models/{model:.+}', routes.model)
    app.router.add_post('/v1/chat/completions', routes.chat_completions)


@web.middleware
async def say_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with what was raised below /v1/, in the form that OpenAI clients know."""
    if not request.path.startswith(PREFIX):
        return await handler(request)
    try:
        return await handler(request)
    except Refusal as refusal:
        return refusal.response()
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in ('Allow', 'Retry-After', 'WWW-Authenticate')
                if name in error.headers}
        return Refusal.of_http(error).response(kept)
    except ConnectionError:  # the client has gone, or is to go; nobody hears this
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=499)
    except Exception:  # the edge: whatever went wrong, the server lives on
        log.exception('while answering %s %s', request.method, request.path)
        return Refusal(500, 'the server failed; its log says why', 'server_error').response()


class _Routes:
    """What each path does."""

    def __init__(self, door: Door, settings: WebSettings) -> None:
        self._door = door
        self._settings = settings
        self._began_s = int(time.time())

    async def models(self, _: web.Request) -> web.StreamResponse:
        models = [self._describe(name)] if (name := self._model()) else []
        return web.json_response({'object': 'list', 'data': models})

    async def model(self, request: web.Request) -> web.StreamResponse:
        self._check_model(request.match_info['model'])
        return web.json_response(self._describe(self._model()))

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        asked = await read_json(request, self._settings.slow_s)
        try:
            chat = ChatRequest(asked)
        except RequestError as error:
            raise Refusal(400, str(error), param=error.param or None) from error
        self._check_model(chat.model)
        answer = _Answer(chat, self._model())
        async with aclosing(_while_connected(request, self._door.complete(chat.request))
                            ) as events:
            if chat.is_stream:
                return await self._stream(request, answer, events)
            async for event in events:
                if event.kind == 'done':
                    return web.json_response(answer.whole(event))
        raise AssertionError('the events of a request end with done or error')

    async def _stream(self, request: web.Request, answer: '_Answer',
                      events: AsyncGenerator[CompletionEvent, None]) -> web.StreamResponse:
        """Send an answer in pieces; its status waits for the first of them."""
        response = web.StreamResponse(headers={'Content-Type': 'text/event-stream; charset=utf-8',
                                               'X-Accel-Buffering': 'no'})
        try:
            async for event in events:
                for chunk in answer.chunks(event):
                    if not response.prepared:
                        await response.prepare(request)
                    await self._send(response, json.dumps(chunk))
        except Refusal as refusal:
            if not response.prepared:
                raise
            await self._send(response, json.dumps(refusal.body))
            return response
        except ConnectionError:
            raise
        except Exception as error:  # the edge: no second response may follow in this one
            log.exception('while streaming')
            raise ConnectionAbortedError('the answer broke off') from error
        await self._send(response, '[DONE]')
        return response

    async def _send(self, response: web.StreamResponse, data: str) -> None:
        """Send a server-sent event, to a client that takes it."""
        try:
            await asyncio.wait_for(response.write(f'data: {data}\n\n'.encode()),
                                   self._settings.slow_s)
        except asyncio.TimeoutError as error:
            raise ConnectionResetError('the client does not take its answer') from error

    def _model(self) -> str:
        return PurePath(self._door.model).name

    def _describe(self, name: str) -> Json:
        return {'id': name, 'object': 'model', 'created': self._began_s,
                'owned_by': 'tinyllama_ros'}

    def _check_model(self, name: str | None) -> None:
        model = self._model()
        if not model:
            raise Refusal(503, 'no language model is there yet; is its node running, and on the '
                          'same ROS_DOMAIN_ID?', 'server_error', code='unavailable')
        if name not in (None, model):
            raise Refusal(404, f'the model {name!r:.100} does not exist; there is {model!r}',
                          param='model', code='model_not_found')


class ChatRequest:
    """What a client asks for."""

    def __init__(self, asked: Json) -> None:
        """
        Read a request's body.

        :raises RequestError: names what is wrong, or what is not supported.
        """
        left = {name: value for name, value in asked.items() if value is not None}
        model = left.pop('model', None)
        if not (model is None or isinstance(model, str)):
            raise RequestError('model must be a text', 'model')
        self.model: str | None = model
        self.is_stream = _pop_flag(left, 'stream')
        self.wants_usage = self._pop_stream_options(left)
        messages = _read_chat(left.pop('messages', None))
        numbers = {name: left.pop(name, None) for name in RANGES}
        if 'max_completion_tokens' in left:  # the newer name
            numbers['max_tokens'] = left.pop('max_completion_tokens')
        if isinstance(numbers['seed'], int) and not isinstance(numbers['seed'], bool):
            numbers['seed'] %= 2**63
        stop = left.pop('stop', [])
        _check_nothing_else(left)
        self.request = CompletionRequest(
            f'chatcmpl-{secrets.token_hex(12)}', read_messages(messages), **numbers,
            stop=tuple([stop] if isinstance(stop, str) else _list(stop, 'stop')))

    def _pop_stream_options(self, left: Json) -> bool:
        options = left.pop('stream_options', {})
        if not isinstance(options, dict):
            raise RequestError('stream_options must be an object', 'stream_options')
        if options and not self.is_stream:
            raise RequestError('stream_options are for stream: true', 'stream_options')
        options = {name: value for name, value in options.items() if value is not None}
        wants_usage = _pop_flag(options, 'include_usage')
        _pop_flag(options, 'include_obfuscation')
        if options:
            raise RequestError(f'{min(options)} of stream_options is not supported',
                               'stream_options')
        return wants_usage


class _Answer:
    """An answer in the format's own words."""

    def __init__(self, chat: ChatRequest, model: str) -> None:
        self._chat = chat
        self._common = {'id': chat.request.id, 'created': int(time.time()), 'model': model}
        self._has_begun = False

    def whole(self, done: CompletionEvent) -> Json:
        """Return the one object of an answer that is not streamed."""
        message = {'role': 'assistant', 'content': done.text, 'refusal': None}
        choice = {'index': 0, 'message': message, 'logprobs': None, 'finish_reason': done.finish}
        return {**self._common, 'object': 'chat.completion', 'choices': [choice],
                'usage': _usage(done)}

    def chunks(self, event: CompletionEvent) -> list[Json]:
        """Return what a stream says of an event."""
        if event.kind not in ('token', 'done'):
            return []
        chunks = []
        if not self._has_begun:
            self._has_begun = True
            chunks.append(self._chunk({'role': 'assistant', 'content': '', 'refusal': None}))
        if event.kind == 'token':
            return [*chunks, self._chunk({'content': event.text})]
        chunks.append(self._chunk({}, event.finish))
        if self._chat.wants_usage:
            chunks.append(self._around([]) | {'usage': _usage(event)})
        return chunks

    def _chunk(self, delta: Json, finish: str | None = None) -> Json:
        return self._around([{'index': 0, 'delta': delta, 'logprobs': None,
                              'finish_reason': finish}])

    def _around(self, choices: list[Json]) -> Json:
        usage = {'usage': None} if self._chat.wants_usage else {}
        return {**self._common, 'object': 'chat.completion.chunk', 'choices': choices, **usage}


async def _while_connected(request: web.Request,
                           events: AsyncGenerator[CompletionEvent | None, None]
                           ) -> AsyncGenerator[CompletionEvent, None]:
    """
    Yield the events of a request while its client is there.

    :raises Refusal: for an error event.
    :raises ConnectionResetError: the client has gone.
    """
    async with aclosing(events):
        async for event in events:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError('the client has gone')
            if event is None:
                continue
            if event.kind == 'error':
                raise Refusal.of_event(event)
            yield event


async def read_json(request: web.Request, slow_s: float) -> Json:
    """
    Return the JSON object in the body of a request.

    :raises Refusal: it holds none.
    :raises web.HTTPException: it is too large, or comes too slowly.
    """
    if request.content_type != 'application/json':
        raise web.HTTPUnsupportedMediaType(
            text='send JSON, and say so: Content-Type: application/json')
    try:
        body = await asyncio.wait_for(request.read(), slow_s)
    except asyncio.TimeoutError as error:
        raise web.HTTPRequestTimeout(
            text=f'the body did not come within {slow_s:g} s') from error
    except web.RequestPayloadError as error:
        raise Refusal(400, 'the body is not what the headers say') from error
    try:
        return read_object(body.decode())
    except (RequestError, UnicodeDecodeError) as error:
        raise Refusal(400, f'the body cannot be read: {error}') from error


def _read_chat(found: object) -> list[Json]:
    """Return messages as the model's node takes them: a role, and one text."""
    messages = _list(found, 'messages')
    if len(messages) > MOST_MESSAGES:
        raise RequestError(f'there are {len(messages)} messages; it may be {MOST_MESSAGES}',
                           'messages')
    return [_read_chat_message(each, f'messages[{index}]') for index, each in enumerate(messages)]


def _read_chat_message(found: object, name: str) -> Json:
    if not isinstance(found, dict):
        raise RequestError(f'{name} must be an object', name)
    # Clients send back what they were sent, with all that was empty in it
    left = {part: value for part, value in found.items()
            if value not in (None, []) and part not in IGNORED_IN_MESSAGES}
    role, content = left.pop('role', None), left.pop('content', '')
    if role in ('tool', 'function'):
        raise RequestError(f'{name}: tools are not supported', name)
    if left:
        raise RequestError(f'{name}.{min(left)} is not supported', f'{name}.{min(left)}')
    text = content if isinstance(content, str) else _join_parts(content, f'{name}.content')
    return {'role': 'system' if role == 'developer' else role, 'content': text}


def _join_parts(found: object, name: str) -> str:
    texts = []
    for part in _list(found, name):
        if not isinstance(part, dict) or part.get('type') != 'text' or not isinstance(
                part.get('text'), str):
            raise RequestError(f'{name} may hold only text, as a text or as parts of type text',
                               name)
        texts.append(part['text'])
    return ''.join(texts)


def _check_nothing_else(left: Json) -> None:
    for name, value in left.items():
        if name in IGNORED:
            continue
        if name not in WITHOUT_EFFECT:
            raise RequestError(f'{name:.100} is not supported', name[:100])
        # 0 is False to Python, and not to JSON
        if not any(type(value) is type(each) and value == each or
                   type(value) is float and type(each) is int and value == each
                   for each in WITHOUT_EFFECT[name]):
            raise RequestError(f'{name} is supported only as '
                               f'{" or ".join(map(json.dumps, WITHOUT_EFFECT[name]))}', name)


def _pop_flag(left: Json, name: str) -> bool:
    value = left.pop(name, False)
    if not isinstance(value, bool):
        raise RequestError(f'{name} must be true or false', name)
    return value


def _list(found: object, name: str) -> list[Any]:
    if not isinstance(found, list):
        raise RequestError(f'{name} must be a list', name)
    return found


def _usage(done: CompletionEvent) -> Json:
    return {'prompt_tokens': done.prompt_tokens, 'completion_tokens': done.completion_tokens,
            'total_tokens': done.prompt_tokens + done.completion_tokens,
            'prompt_tokens_details': {'cached_tokens': done.cached_tokens}}
