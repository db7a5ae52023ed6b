"""Lists the parameters of the web node, and turns their values into the server's settings."""

from collections.abc import Mapping
import socket
from typing import Any

from tinyllama_ros.ros.parameters import Parameter
from tinyllama_ros.web.settings import is_loopback, new_token, read_token, WebSettings

PARAMETERS: Mapping[str, Parameter] = {
    'model_node': Parameter('/tinyllama', "Full name of the language model's node.",
                            is_fixed=True),
    'host': Parameter('127.0.0.1', 'Address to listen on; any but loopback requires a token. '
                      '0.0.0.0 is every address of this machine.', is_fixed=True),
    'port': Parameter(8080, 'Port to listen on; 0 takes a free one.', (0, 65535), is_fixed=True),
    'token_file': Parameter('', 'File that holds the token; where a token is needed and this is '
                            'empty, a new one is made and printed at each start.', is_fixed=True),
    'allowed_hosts': Parameter('', 'Names, separated by commas, under which clients reach this '
                               'machine, beside its addresses and its own name.', is_fixed=True),
    'allowed_origins': Parameter('', 'Origins, separated by commas, of web pages and desktop '
                                 'programs that may use /v1/, such as app://obsidian.md.',
                                 is_fixed=True),
    'max_connections': Parameter(64, 'Connections at once; one address may have three quarters of '
                                 'them.', (1, 10_000), is_fixed=True),
    'max_body_bytes': Parameter(262_144, 'Most bytes of the body of a request.', (1, 100_000_000),
                                is_fixed=True),
    'slow_s': Parameter(15.0, 'Seconds in which a client must send a request, or read some of '
                        'its response.', (0.1, 3600),
                        is_fixed=True),
    'requests_per_second': Parameter(10.0, 'Requests of one address in the long run; this '
                                     'machine itself is not limited.',
                                     (0.1, 100_000), is_fixed=True),
    'burst': Parameter(60, 'Requests that one address may make at once.', (1, 100_000),
                       is_fixed=True),
}
"""All are read at the start."""
LIMITS = ('max_connections', 'max_body_bytes', 'slow_s', 'requests_per_second', 'burst')


def web_settings(values: Mapping[str, Any]) -> WebSettings:
    """
    Return the settings of the server.

    :param values: of every parameter by name.
    :raises ConfigError: names the value that is out of range.
    """
    token = ''
    if values['token_file']:
        token = read_token(values['token_file'])
    elif not is_loopback(values['host']):
        token = new_token()
    hosts, origins = (tuple(filter(None, map(str.strip, values[name].split(','))))
                      for name in ('allowed_hosts', 'allowed_origins'))
    return WebSettings(host=values['host'], port=values['port'], token=token,
                       allowed_hosts=hosts, allowed_origins=origins,
                       **{name: values[name] for name in LIMITS})


def address(settings: WebSettings, port: int) -> str:
    """Return the URL to open in a browser, on this machine or, where allowed, on others."""
    host = own_address() if settings.host in ('0.0.0.0', '::') else settings.host
    host = f'[{host}]' if ':' in host else host
    token = f'?token={settings.token}' if settings.token else ''
    return f'http://{host}:{port}/{token}'


def own_address() -> str:
    """Return this machine's address in the network; loopback without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(('192.0.2.1', 9))  # chooses a route; a datagram socket sends nothing
        except OSError:
            return '127.0.0.1'
        return str(probe.getsockname()[0])
