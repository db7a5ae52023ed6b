"""
Answers and errors as the JSON of OpenAI's API.

Format: https://github.com/openai/openai-openapi, CreateChatCompletionResponse, its stream form and
ErrorResponse.
"""

from collections.abc import Mapping
import time
from typing import Any

from aiohttp import web

from tinyllama_ros.chat.completion import CompletionEvent
from tinyllama_ros.web.chat_request import ChatRequest

Json = dict[str, Any]

ERRORS: Mapping[str, tuple[int, str, str | None]] = {
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


class ApiError(Exception):
    """A request is not answered, or not to its end."""

    def __init__(self, status: int, message: str, kind: str = 'invalid_request_error', *,
                 param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {'error': {'message': message, 'type': kind, 'param': param, 'code': code}}

    @classmethod
    def of_event(cls, event: CompletionEvent) -> 'ApiError':
        """Return what a client is told of an error event."""
        status, kind, code = ERRORS.get(event.code, ERRORS['failed'])
        param = 'messages' if event.code == 'too_long' else event.param or None
        return cls(status, event.text, kind, param=param, code=code)

    @classmethod
    def of_http(cls, error: web.HTTPException) -> 'ApiError':
        """Return what a client is told of an error that the guard or aiohttp raised."""
        kind = 'server_error' if error.status >= 500 else 'invalid_request_error'
        return cls(error.status, error.text or error.reason, kind, code=CODES.get(error.status))

    def response(self, headers: Mapping[str, str] | None = None) -> web.Response:
        """Return the HTTP response; it says whether trying again can help."""
        more = dict(headers or {})
        if self.status == 503:
            more.setdefault('Retry-After', '1')
        if self.body['error']['code'] == 'cancelled':  # somebody meant it
            more['x-should-retry'] = 'false'
        return web.json_response(self.body, status=self.status, headers=more)


class ChatResponse:
    """The answer to one request, as one object or as the chunks of a stream."""

    def __init__(self, chat: ChatRequest, model: str) -> None:
        self._wants_usage = chat.wants_usage
        self._common = {'id': chat.request.id, 'created': int(time.time()), 'model': model}
        self._has_begun = False

    def whole(self, done: CompletionEvent) -> Json:
        """Return the one object of an answer that is not streamed."""
        message = {'role': 'assistant', 'content': done.text, 'refusal': None}
        choice = {'index': 0, 'message': message, 'logprobs': None, 'finish_reason': done.finish}
        return {**self._common, 'object': 'chat.completion', 'choices': [choice],
                'usage': _usage(done)}

    def chunks(self, event: CompletionEvent) -> list[Json]:
        """Return the chunks that a stream sends for an event."""
        if event.kind not in ('token', 'done'):
            return []
        chunks = []
        if not self._has_begun:
            self._has_begun = True
            chunks.append(self._chunk({'role': 'assistant', 'content': '', 'refusal': None}))
        if event.kind == 'token':
            return [*chunks, self._chunk({'content': event.text})]
        chunks.append(self._chunk({}, event.finish))
        if self._wants_usage:
            chunks.append(self._with_choices([]) | {'usage': _usage(event)})
        return chunks

    def _chunk(self, delta: Json, finish: str | None = None) -> Json:
        return self._with_choices([{'index': 0, 'delta': delta, 'logprobs': None,
                                    'finish_reason': finish}])

    def _with_choices(self, choices: list[Json]) -> Json:
        usage = {'usage': None} if self._wants_usage else {}
        return {**self._common, 'object': 'chat.completion.chunk', 'choices': choices, **usage}


def _usage(done: CompletionEvent) -> Json:
    return {'prompt_tokens': done.prompt_tokens, 'completion_tokens': done.completion_tokens,
            'total_tokens': done.prompt_tokens + done.completion_tokens,
            'prompt_tokens_details': {'cached_tokens': done.cached_tokens}}
