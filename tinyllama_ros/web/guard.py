"""
Checks every request before its handler: rate, host, origin, token and body size.

A request that is refused raises an aiohttp HTTP exception whose text says what to do; the API
server turns it into OpenAI's form.

==== ==========================================================================================
400  a request that is not HTTP, or whose headers are too long (aiohttp sends it)
401  no token, or a wrong one
403  a request of a web page whose origin is not allowed
408  the request came too slowly
413  the body is too large
415  the body is compressed: its size would be known only after it is unpacked
421  the Host header does not name this server
429  too many requests from one address
503  too many connections
==== ==========================================================================================
"""

from collections.abc import Awaitable, Callable
import hmac
import re
import time

from aiohttp import web

from tinyllama_ros.web.limits import RequestRates
from tinyllama_ros.web.settings import is_loopback, WebSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COOKIE = 'tinyllama_token'
HOST = re.compile(r'(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d{1,5})?')
HEADER_NAMES = re.compile(r'[A-Za-z0-9-]+(?:, ?[A-Za-z0-9-]+)*')
PAGE_PATHS = re.compile(r'/|/ws|/static/.*')
"""Paths of the chat page, which only its own origin may use; all others are the API."""
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


class Guard:
    """The middleware that checks requests."""

    def __init__(self, settings: WebSettings,
                 clock_s: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._rates = RequestRates(settings.requests_per_second, settings.burst, clock_s)

    def install(self, app: web.Application) -> None:
        """Check all requests of an application, and add headers to its responses."""
        guard = self

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            guard.check_source(request)
            if guard.is_preflight(request):
                return web.Response(status=204, headers=_preflight_headers(request))
            guard.check_content(request)
            guard.check_token(request)
            if guard.has_token_in_url(request):
                raise guard.redirect_with_cookie()
            return await handler(request)

        app.middlewares.append(check)
        app.on_response_prepare.append(self._add_headers)

    def check_source(self, request: web.Request) -> None:
        """
        Check the request rate of the address, the Host header and the Origin header.

        :raises web.HTTPException: the request is refused.
        """
        address = request.remote or ''
        if not (is_loopback(address) or self._rates.allow(address)):
            raise web.HTTPTooManyRequests(
                text='too many requests; wait a second', headers={'Retry-After': '1'})
        host = request.headers.getall('Host', [])
        if len(host) != 1 or not self._settings.knows_host(host_name(host[0])):
            raise web.HTTPMisdirectedRequest(
                text='the server is not known by this name; use its address, or name it in the '
                'parameter allowed_hosts')
        origin = request.headers.get('Origin')
        if not (origin in (None, f'http://{host[0]}', f'https://{host[0]}')
                or self.allows_origin(request)):
            raise web.HTTPForbidden(
                text=f'web pages of the origin {origin!r:.100} may not use this server; the '
                'parameter allowed_origins names those that may use /v1/')

    def check_content(self, request: web.Request) -> None:
        """
        Check the announced body.

        :raises web.HTTPException: it is compressed or too large.
        """
        if request.headers.get('Content-Encoding', 'identity') != 'identity':
            raise web.HTTPUnsupportedMediaType(text='send the body uncompressed')
        most = self._settings.max_body_bytes
        if (request.content_length or 0) > most:
            raise web.HTTPRequestEntityTooLarge(
                most, request.content_length or 0,
                text=f'the body is {request.content_length} bytes; at most {most} are taken')

    def check_token(self, request: web.Request) -> None:
        """
        Check the token.

        :raises web.HTTPException: there is none, or a wrong one.
        """
        if not (self.is_token(_token_of(request)) or self.has_token_in_url(request)):
            raise web.HTTPUnauthorized(
                text='a token is needed: open the address that the server printed when it '
                'started, or send it as "Authorization: Bearer TOKEN" (an API key)',
                headers={'WWW-Authenticate': 'Bearer'})

    def allows_origin(self, request: web.Request) -> bool:
        """Return whether a request for the API comes from a web page that the settings allow."""
        return (not PAGE_PATHS.fullmatch(request.path)
                and request.headers.get('Origin') in self._settings.allowed_origins)

    def is_preflight(self, request: web.Request) -> bool:
        """Return whether it is a CORS preflight request of an allowed page; it has no token."""
        return (request.method == 'OPTIONS' and self.allows_origin(request)
                and 'Access-Control-Request-Method' in request.headers)

    def is_token(self, text: str) -> bool:
        """Return whether a text is the token, or none is needed; compares in constant time."""
        token = self._settings.token
        return not token or hmac.compare_digest(text.encode('utf-8', 'surrogateescape'),
                                                token.encode())

    def has_token_in_url(self, request: web.Request) -> bool:
        """Return whether the request is for the printed address with the right token in it."""
        return (request.method == 'GET' and request.path == '/' and 'token' in request.query
                and self.is_token(request.query['token']))

    def redirect_with_cookie(self) -> web.HTTPException:
        """Return a redirect to the page: the token is then in a cookie, not in the URL."""
        answer = web.HTTPSeeOther('./')  # relative, because a proxy may add a path in front
        if self._settings.token:
            answer.set_cookie(COOKIE, self._settings.token, httponly=True, samesite='Strict',
                              max_age=30 * 24 * 3600, path='/')
        return answer

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        if self.allows_origin(request):
            response.headers['Access-Control-Allow-Origin'] = request.headers['Origin']
            response.headers['Access-Control-Expose-Headers'] = 'Retry-After, x-should-retry'
            response.headers['Cross-Origin-Resource-Policy'] = 'cross-origin'
        if self._settings.allowed_origins:
            response.headers['Vary'] = 'Origin'
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault('Cache-Control', 'no-store')


def host_name(header: str) -> str:
    """Return the name or address in a Host header, '' where it is none."""
    match = HOST.fullmatch(header)
    return (match['v6'] or match['name']) if match else ''


def _token_of(request: web.Request) -> str:
    kind, _, text = request.headers.get('Authorization', '').partition(' ')
    if kind.lower() == 'bearer':
        return text.strip()
    return request.cookies.get(COOKIE, '')


def _preflight_headers(request: web.Request) -> dict[str, str]:
    """Return the headers that say what an allowed page may send."""
    names = request.headers.get('Access-Control-Request-Headers', '')
    return {'Access-Control-Allow-Methods': 'GET, POST', 'Access-Control-Max-Age': '600',
            'Access-Control-Allow-Private-Network': 'true',
            'Access-Control-Allow-Headers': names if HEADER_NAMES.fullmatch(names) else ''}
