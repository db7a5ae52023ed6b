"""Puts the web application together: the guard in front, and the OpenAI-compatible API."""

from aiohttp import web

from tinyllama_ros.web import api_server
from tinyllama_ros.web.guard import Guard
from tinyllama_ros.web.settings import WebSettings


def make_app(settings: WebSettings, model: api_server.ChatModel) -> web.Application:
    """
    Return the application, to which more routes may be added; a Listener then serves it.

    :param model: answers the requests of API clients.
    """
    # One more, because aiohttp refuses a body of exactly this size
    app = web.Application(client_max_size=settings.max_body_bytes + 1)
    app.middlewares.append(api_server.errors_as_json)
    Guard(settings).install(app)
    api_server.add_routes(app, model, settings)
    return app
