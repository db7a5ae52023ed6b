"""The web application: the guard in front, the door for OpenAI clients behind it."""

from collections.abc import Awaitable, Callable
import logging

from aiohttp import web

from tinyllama_ros.web import openai
from tinyllama_ros.web.guard import Guard
from tinyllama_ros.web.settings import WebSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


def make_app(settings: WebSettings, door: openai.Door) -> web.Application:
    """
    Return the application, to which more routes may be added; a Listener then serves it.

    :param door: who answers requests that bring their own history.
    """
    app = web.Application(client_max_size=settings.max_body_bytes)
    app.middlewares.append(say_errors)
    Guard(settings).install(app)
    openai.add_routes(app, door, settings)
    return app


@web.middleware
async def say_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with what was raised, in the form that the client of the path expects."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if not _is_door(request):
            raise
        return openai.refusal(error)
    except Exception as error:  # the edge: whatever went wrong, the server lives on
        log.exception('while answering %s %s', request.method, request.path)
        failed = web.HTTPInternalServerError(text='the server failed; its log says why')
        if not _is_door(request):
            raise failed from error
        return openai.refusal(failed)


def _is_door(request: web.Request) -> bool:
    return request.path.startswith('/v1/')
