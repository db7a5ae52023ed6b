"""
The door for OpenAI clients: /v1/models and /v1/chat/completions.

Knows HTTP and what these clients expect; who answers is behind a Protocol, and ROS is nowhere.
"""

from typing import Protocol

from aiohttp import web

from tinyllama_ros.web.settings import WebSettings


class Door(Protocol):
    """Who answers requests."""

    @property
    def model(self) -> str:
        """The name of the model that answers, '' where none does."""


def add_routes(app: web.Application, door: Door, settings: WebSettings) -> None:
    """Add the routes below /v1/."""


def refusal(error: web.HTTPException) -> web.Response:
    """Return an HTTP error in the form that OpenAI clients know."""
    return web.json_response(
        {'error': {'message': error.text, 'type': 'invalid_request_error', 'param': None,
                   'code': None}},
        status=error.status, headers={name: value for name, value in error.headers.items()
                                      if name not in ('Content-Type', 'Content-Length')})
