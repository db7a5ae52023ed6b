"""
Who may come in: hosts, origins, tokens, and how much of anything.

A refusal is an aiohttp HTTP exception with a text that says what to do; paths under /v1/ get it in
the form that OpenAI clients know.

==== ==========================================================================================
400  a request that is no HTTP, or whose headers are too long (aiohttp's own)
401  no token, or another one
403  a page of another origin
408  the request came too slowly
413  the body is too large
415  the body is compressed, which could unfold to anything
421  the Host header names somebody else
429  too many requests of one address
503  too many connections
==== ==========================================================================================
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
import hmac
import ipaddress
import logging
import re
import time

from aiohttp import web

from tinyllama_ros.web.settings import is_address, WebSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COOKIE = 'tinyllama_token'
HOST = re.compile(r'(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d{1,5})?')
MOST_ADDRESSES = 1024
"""Whose requests are counted; the one that was silent longest is forgotten."""
SECURITY_HEADERS = {
    'Content-Security-Policy': (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"),
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Permissions-Policy': 'camera=(), geolocation=(), microphone=()',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
}

log = logging.getLogger(__name__)


class Guard:
    """The middleware through which every request goes, and what it remembers of them."""

    def __init__(self, settings: WebSettings,
                 clock_s: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._rates = Rates(settings.requests_per_second, settings.burst, clock_s)

    def install(self, app: web.Application) -> None:
        """Stand in front of all routes of an application."""
        guard = self

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            guard.check(request)
            if guard.brings_token(request):
                raise guard.welcome(request)
            return await handler(request)

        app.middlewares.append(check)
        app.on_response_prepare.append(_add_headers)

    def check(self, request: web.Request) -> None:
        """Refuse a request, by raising, that is not to be let in; the cheapest checks first."""
        if not self._rates.allow(request.remote or ''):
            raise web.HTTPTooManyRequests(
                text='too many requests; wait a second', headers={'Retry-After': '1'})
        host = request.headers.getall('Host', [])
        if len(host) != 1 or not self._settings.knows_host(host_name(host[0])):
            raise web.HTTPMisdirectedRequest(
                text='the server is not known by this name; use its address, or name it in the '
                'parameter allowed_hosts')
        origin = request.headers.get('Origin')
        if origin is not None and origin not in (f'http://{host[0]}', f'https://{host[0]}'):
            raise web.HTTPForbidden(text='pages of other origins may not talk to this server')
        if request.headers.get('Content-Encoding', 'identity') != 'identity':
            raise web.HTTPUnsupportedMediaType(text='send the body uncompressed')
        most = self._settings.max_body_bytes
        if (request.content_length or 0) > most:
            raise web.HTTPRequestEntityTooLarge(
                most, request.content_length or 0,
                text=f'the body is {request.content_length} bytes; at most {most} are taken')
        if not (self.is_token(_token_of(request)) or self.brings_token(request)):
            raise web.HTTPUnauthorized(
                text='a token is needed: open the address that the server printed when it '
                'started, or send it as "Authorization: Bearer TOKEN" (an API key)',
                headers={'WWW-Authenticate': 'Bearer'})

    def is_token(self, text: str) -> bool:
        """Return whether a text is the token, in a time that tells nothing; none may be needed."""
        token = self._settings.token
        return not token or hmac.compare_digest(text.encode('utf-8', 'surrogateescape'),
                                                token.encode())

    def brings_token(self, request: web.Request) -> bool:
        """Return whether a browser opens the printed address, with the right token in it."""
        return (request.method == 'GET' and request.path == '/' and 'token' in request.query
                and self.is_token(request.query['token']))

    def welcome(self, request: web.Request) -> web.HTTPException:
        """Return what puts the token of the printed address into a cookie, and out of sight."""
        answer = web.HTTPSeeOther('/')
        if self._settings.token:
            answer.set_cookie(COOKIE, self._settings.token, httponly=True, samesite='Strict',
                              max_age=30 * 24 * 3600, path='/')
        return answer


class Rates:
    """
    A bucket of tokens for each address: full it holds a burst, and it fills at the rate.

    The addresses of one IPv6 network (/64) share theirs.
    """

    def __init__(self, per_second: float, burst: int, clock_s: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock_s = clock_s
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # and when that was

    def allow(self, address: str) -> bool:
        """Count a request; return whether it is not one too many."""
        key = _network(address)
        now_s = self._clock_s()
        left, then_s = self._left.pop(key, (float(self._burst), now_s))
        left = min(float(self._burst), left + (now_s - then_s) * self._per_second)
        is_allowed = left >= 1
        self._left[key] = (left - is_allowed, now_s)
        if len(self._left) > MOST_ADDRESSES:
            self._left.popitem(last=False)
        return is_allowed


def host_name(header: str) -> str:
    """Return the name or address in a Host header, '' where it is none."""
    match = HOST.fullmatch(header)
    return (match['v6'] or match['name']) if match else ''


def _token_of(request: web.Request) -> str:
    kind, _, text = request.headers.get('Authorization', '').partition(' ')
    if kind.lower() == 'bearer':
        return text.strip()
    return request.cookies.get(COOKIE, '')


def _network(address: str) -> str:
    if not is_address(address):
        return address
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault('Cache-Control', 'no-store')
