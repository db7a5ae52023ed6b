"""The web application: the guard in front, the door for OpenAI clients behind it."""

from aiohttp import web

from tinyllama_ros.web import openai
from tinyllama_ros.web.guard import Guard
from tinyllama_ros.web.settings import WebSettings


def make_app(settings: WebSettings, door: openai.Door) -> web.Application:
    """
    Return the application, to which more routes may be added; a Listener then serves it.

    :param door: who answers requests that bring their own history.
    """
    app = web.Application(client_max_size=settings.max_body_bytes + 1)  # some refuse the limit
    app.middlewares.append(openai.say_errors)
    Guard(settings).install(app)
    openai.add_routes(app, door, settings)
    return app
