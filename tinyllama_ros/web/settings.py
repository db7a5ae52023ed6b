"""Settings of the web server: where it listens, who may use it, and its limits."""

from dataclasses import dataclass, field
import ipaddress
from pathlib import Path
import re
import secrets
import socket

from tinyllama_ros.errors import ConfigError

LOOPBACK_NAMES = ('localhost', '127.0.0.1', '::1')
SHORTEST_TOKEN = 16
ORIGIN = re.compile(r'[a-z][a-z0-9+.-]*://[^/\s*?#@]+')


@dataclass(frozen=True)
class WebSettings:
    """All settings; an ordinary client never reaches the limits."""

    host: str = '127.0.0.1'
    """Address to listen on; any but loopback requires a token."""
    port: int = 8080
    """0 takes a free one."""
    token: str = field(default='', repr=False)
    """Every request must carry it; empty means that none is needed."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which clients reach the server, beside its addresses and its own name."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages and desktop programs that may use /v1/, such as app://obsidian.md."""
    max_connections: int = 64
    max_body_bytes: int = 262_144
    """Of a request; about ten times the text that fits a cache of 4096 slots."""
    slow_s: float = 15.0
    """Seconds in which a client must send a request, or read some of its response."""
    requests_per_second: float = 10.0
    """Of one address in the long run; this machine itself is not limited."""
    burst: int = 60
    """Requests that one address may make at once."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f'port is {self.port}; it must be in 0..65535')
        for name in ('max_connections', 'max_body_bytes', 'slow_s', 'requests_per_second',
                     'burst'):
            if not getattr(self, name) > 0:
                raise ConfigError(f'{name} is {getattr(self, name)}; it must be above 0')
        for origin in self.allowed_origins:
            if not ORIGIN.fullmatch(origin):
                raise ConfigError(f'allowed_origins holds {origin!r}, which is no origin: it must '
                                  'be scheme://host or scheme://host:port, without a path')
        if not (self.token or self.is_loopback):
            raise ConfigError(f'host is {self.host!r}, which other machines may reach: that '
                              'requires a token; give one, or listen on 127.0.0.1')
        if self.token and not is_token(self.token):
            raise ConfigError(f'the token must be {SHORTEST_TOKEN} or more visible ASCII '
                              'characters without ; and ,')

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    def knows_host(self, name: str) -> bool:
        """
        Return whether a Host header without its port names us.

        An attacker's page can let its own name resolve to our address (DNS rebinding), but then
        the header holds that name. An address and the machine's own name cannot be used so.
        """
        name = name.lower().rstrip('.')
        if name in LOOPBACK_NAMES or name in map(str.lower, self.allowed_hosts):
            return True
        if self.is_loopback:
            return name == self.host
        own = socket.gethostname().lower()
        return is_address(name) or name in (own, f'{own}.local', self.host.lower())


def is_loopback(host: str) -> bool:
    """Return whether an address or name is this machine's own, which no other can reach."""
    if not is_address(host):
        return host == 'localhost'
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_address(name: str) -> bool:
    """Return whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_token(text: str) -> bool:
    """Return whether a token is long enough, and may be part of a header and of a cookie."""
    return len(text) >= SHORTEST_TOKEN and all(
        '!' <= character <= '~' and character not in '",;\\' for character in text)


def new_token() -> str:
    """Return a random token."""
    return secrets.token_urlsafe(32)


def read_token(path: str) -> str:
    """
    Return the token that a file holds on its only line.

    :raises ConfigError: there is no such file, or no usable token in it.
    """
    try:
        text = Path(path).expanduser().read_text(encoding='ascii').strip()
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise ConfigError(f'token_file {path!r} cannot be read: {error}') from error
    if not is_token(text):
        raise ConfigError(f'token_file {path!r} must hold one line of {SHORTEST_TOKEN} or more '
                          'visible ASCII characters without ; and ,: '
                          'openssl rand -hex 32 writes such a line')
    return text
