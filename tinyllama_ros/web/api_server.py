"""
The OpenAI-compatible API: /v1/models and /v1/chat/completions, streamed or not.

A request is parsed (chat_request), waits until its address may have another answer (limits), and
is sent to the language model through the protocol ChatModel. The events that come back become the
response (chat_response). Nothing here depends on ROS.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
import json
import logging
from pathlib import PurePath
import re
import time
from typing import Any, Protocol

from aiohttp import web

from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest
from tinyllama_ros.errors import RequestError
from tinyllama_ros.ros.wire import read_object
from tinyllama_ros.web.chat_request import ChatRequest
from tinyllama_ros.web.chat_response import ApiError, ChatResponse
from tinyllama_ros.web.guard import Guard, PAGE_PATHS
from tinyllama_ros.web.limits import AnswerSlots
from tinyllama_ros.web.settings import WebSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Json = dict[str, Any]

HEADERS_AFTER_S = 0.5
"""After this time a stream sends its headers; an error before has an HTTP status of its own."""
COMMENT_PERIOD_S = 2.0
"""After this time without an event a stream sends a comment, which clients ignore."""
KNOWN_PATHS = re.compile(r'.*?/?(models(?:/.+)?|chat/completions)')

log = logging.getLogger(__name__)


class ChatModel(Protocol):
    """The language model that answers requests."""

    @property
    def model(self) -> str:
        """The name of the model, or its path; '' if no model can answer now."""

    def complete(self, request: CompletionRequest
                 ) -> AsyncGenerator[CompletionEvent | None, None]:
        """
        Yield the events of a request, and None several times a second while there is none.

        The last event is `done` or `error`. Closing the generator earlier cancels the request.
        """


def make_app(settings: WebSettings, model: ChatModel) -> web.Application:
    """
    Return the application: the guard, and behind it the routes below /v1/.

    More routes may be added; a Listener then serves it.

    :param model: answers the requests of API clients.
    """
    # One more, because aiohttp refuses a body of exactly this size
    app = web.Application(client_max_size=settings.max_body_bytes + 1)
    app.middlewares.append(errors_as_json)
    Guard(settings).install(app)
    routes = _Routes(model, settings)
    app.on_shutdown.append(routes.stop)
    app.router.add_get('/v1/models', routes.models)
    app.router.add_get('/v1/models/{model:.+}', routes.model)
    app.router.add_post('/v1/chat/completions', routes.chat_completions)
    return app


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a handler of the API raises into an error response in OpenAI's form."""
    if PAGE_PATHS.fullmatch(request.path):
        return await handler(request)
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except web.HTTPNotFound:
        return ApiError(404, _unknown_path_message(request.path), code='unknown_url').response()
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in ('Allow', 'Retry-After', 'WWW-Authenticate')
                if name in error.headers}
        return ApiError.of_http(error).response(kept)
    except ConnectionError:  # the client has disconnected, or the response ended early
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=499)
    except Exception:  # a bug; the server goes on
        log.exception('while answering %s %s', request.method, request.path)
        return ApiError(500, 'the server failed; its log says why', 'server_error').response()


def _unknown_path_message(path: str) -> str:
    """Return the message for an unknown path; it names the path that was probably meant."""
    match = KNOWN_PATHS.fullmatch(re.sub('/+', '/', path).rstrip('/'))
    if match:
        return f'there is no {path:.200}; ask /v1/{match[1]:.200} (the base URL ends in /v1)'
    return (f'there is no {path:.200}; there are GET /v1/models and POST /v1/chat/completions '
            '(the base URL ends in /v1)')


class _Routes:
    """The handler of each path."""

    def __init__(self, model: ChatModel, settings: WebSettings) -> None:
        self._chat_model = model
        self._settings = settings
        self._slots = AnswerSlots()
        self._start_s = int(time.time())
        self._is_stopping = False

    async def stop(self, _: web.Application) -> None:
        """End the requests under way, which say why."""
        self._is_stopping = True

    async def models(self, _: web.Request) -> web.StreamResponse:
        models = [self._describe(name)] if (name := self._model_name()) else []
        return web.json_response({'object': 'list', 'data': models})

    async def model(self, request: web.Request) -> web.StreamResponse:
        self._check_model(request.match_info['model'])
        return web.json_response(self._describe(self._model_name()))

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, self._settings.slow_s)
        try:
            chat = ChatRequest(body)
        except RequestError as error:
            raise ApiError(400, str(error), param=error.param or None) from error
        self._check_model(chat.model)
        answer = ChatResponse(chat, self._model_name())
        async with aclosing(self._events(request, chat.request)) as events:
            if chat.is_stream:
                return await _stream(request, answer, events)
            async for event in events:
                if event is not None and event.kind == 'done':
                    return web.json_response(answer.whole(event))
        raise AssertionError('the events of a request end with done or error')

    async def _events(self, request: web.Request, completion: CompletionRequest
                      ) -> AsyncGenerator[CompletionEvent | None, None]:
        """
        Yield the events of a request while its client is connected, and None between events.

        :raises ApiError: for an error event.
        :raises ConnectionResetError: the client has gone.
        """
        address = request.remote or ''
        try:
            async for _ in self._slots.wait(address, completion):
                self._check_open(request)
                yield None
            async with aclosing(self._chat_model.complete(completion)) as events:
                async for event in events:
                    self._check_open(request)
                    if event is not None and event.kind == 'error':
                        raise ApiError.of_event(event)
                    yield event
        finally:
            self._slots.release(address, completion)

    def _check_open(self, request: web.Request) -> None:
        if request.transport is None or request.transport.is_closing():
            raise ConnectionResetError('the client has gone')
        if self._is_stopping:
            raise ApiError(503, 'the server is stopping; send it again', 'server_error',
                           code='unavailable')

    def _model_name(self) -> str:
        return PurePath(self._chat_model.model).name

    def _describe(self, name: str) -> Json:
        return {'id': name, 'object': 'model', 'created': self._start_s,
                'owned_by': 'tinyllama_ros'}

    def _check_model(self, name: str | None) -> None:
        model = self._model_name()
        if not model:
            raise ApiError(503, 'no language model is available: start its node, with the same '
                           'ROS_DOMAIN_ID as this server', 'server_error', code='unavailable')
        if name not in (None, model):
            raise ApiError(404, f'the model {name!r:.100} does not exist; there is {model!r}',
                           param='model', code='model_not_found')


async def _stream(request: web.Request, answer: ChatResponse,
                  events: AsyncGenerator[CompletionEvent | None, None]) -> web.StreamResponse:
    """Send an answer as server-sent events, and comments while there is nothing to send."""
    response = web.StreamResponse(headers={'Content-Type': 'text/event-stream; charset=utf-8',
                                           'X-Accel-Buffering': 'no'})
    loop = asyncio.get_running_loop()
    sent_s = loop.time()

    async def send(text: str) -> None:
        nonlocal sent_s
        if not response.prepared:
            await response.prepare(request)
        await response.write(f'{text}\n\n'.encode())
        sent_s = loop.time()

    try:
        async for event in events:
            if event is not None:
                for chunk in answer.chunks(event):
                    await send(f'data: {json.dumps(chunk)}')
            elif loop.time() - sent_s >= (COMMENT_PERIOD_S if response.prepared
                                          else HEADERS_AFTER_S):
                await send(': waiting')
        await send('data: [DONE]')
    except ApiError as error:
        if not response.prepared:
            raise
        await send(f'data: {json.dumps(error.body)}')
    except ConnectionError:
        raise
    except Exception as error:  # a bug; a second response cannot follow in this one
        if not response.prepared:
            raise
        log.exception('while streaming')
        raise ConnectionAbortedError('the response ended early') from error
    return response


async def read_json(request: web.Request, slow_s: float) -> Json:
    """
    Return the JSON object in the body of a request.

    :raises ApiError: it holds none.
    :raises web.HTTPException: it is too large, or comes too slowly.
    """
    if request.content_type != 'application/json':
        raise web.HTTPUnsupportedMediaType(
            text='send JSON, with the header Content-Type: application/json')
    try:
        body = await asyncio.wait_for(request.read(), slow_s)
    except asyncio.TimeoutError as error:
        raise web.HTTPRequestTimeout(
            text=f'the body did not come within {slow_s:g} s') from error
    except web.RequestPayloadError as error:
        raise ApiError(
            400, 'the body is not as Content-Encoding and Content-Length say') from error
    try:
        return read_object(body.decode())
    except (RequestError, UnicodeDecodeError) as error:
        raise ApiError(400, f'the body cannot be read: {error}') from error
