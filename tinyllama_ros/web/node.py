"""The node tinyllama_web: a web server beside the language model's node, wherever that runs."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
import signal
import socket
from threading import Thread
from typing import Any

from tinyllama_ros.ros.parameters import Parameter

try:
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.node import Node

    from tinyllama_ros.ros.process import declare_parameters, run_in_ros
except ImportError as missing:
    raise SystemExit(f'{missing}: source a ROS 2 (source /opt/ros/jazzy/setup.bash), or install '
                     "its wheels: pip install -e '.[ros]'") from missing
try:
    from tinyllama_ros.ros.client import Link, Status
    from tinyllama_ros.web.chat_page import ChatPage
    from tinyllama_ros.web.door_link import DoorLink
    from tinyllama_ros.web.listener import Listener
    from tinyllama_ros.web.log import ConversationLog
    from tinyllama_ros.web.server import make_app
    from tinyllama_ros.web.settings import is_loopback, new_token, read_token, WebSettings
except ImportError as missing:
    raise SystemExit(f'{missing}: pip install aiohttp') from missing

PARAMETERS: Mapping[str, Parameter] = {
    'model_node': Parameter('/tinyllama', "Full name of the language model's node.",
                            is_fixed=True),
    'host': Parameter('127.0.0.1', 'Address to listen at; any but loopback is guarded by a token. '
                      '0.0.0.0 is every address of this machine.', is_fixed=True),
    'port': Parameter(8080, 'Port to listen at; 0 takes a free one.', (0, 65535), is_fixed=True),
    'token_file': Parameter('', 'File that holds the token; empty makes a new one at each start, '
                            'where one is needed, and prints it.', is_fixed=True),
    'allowed_hosts': Parameter('', 'Names, separated by commas, under which browsers reach this '
                               'machine, beside those that it knows itself.', is_fixed=True),
    'allowed_origins': Parameter('', 'Origins, separated by commas, of web pages and desktop '
                                 'programs that may use /v1/, such as app://obsidian.md.',
                                 is_fixed=True),
    'max_connections': Parameter(64, 'Connections at once.', (1, 10_000), is_fixed=True),
    'max_body_bytes': Parameter(262_144, 'Bytes of the body of a request.', (1, 100_000_000),
                                is_fixed=True),
    'slow_s': Parameter(15.0, 'Seconds that a client may take to send a request.', (0.1, 3600),
                        is_fixed=True),
    'requests_per_second': Parameter(10.0, 'Requests of one address in the long run; this '
                                     'machine itself is not limited.',
                                     (0.1, 100_000), is_fixed=True),
    'burst': Parameter(60, 'Requests that one address may make at once.', (1, 100_000),
                       is_fixed=True),
}
"""All are read at the start."""
LIMITS = ('max_connections', 'max_body_bytes', 'slow_s', 'requests_per_second', 'burst')


class WebNode(Node):  # type: ignore[misc]
    """Holds the parameters; the rest is the link's."""

    def __init__(self, **options: Any) -> None:
        super().__init__('tinyllama_web', automatically_declare_parameters_from_overrides=True,
                         **options)
        declare_parameters(self, PARAMETERS, is_read_only=True)

    def values(self) -> dict[str, Any]:
        """Return the value of every parameter by name."""
        return {name: self.get_parameter(name).value for name in PARAMETERS}


def web_settings(values: Mapping[str, Any]) -> WebSettings:
    """
    Return what the server is told.

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
    """Return what to open in a browser, of this machine or, where they may, of others."""
    host = own_address() if settings.host in ('0.0.0.0', '::') else settings.host
    host = f'[{host}]' if ':' in host else host
    token = f'?token={settings.token}' if settings.token else ''
    return f'http://{host}:{port}/{token}'


def own_address() -> str:
    """Return the address under which the network knows this machine; loopback without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(('192.0.2.1', 9))  # chooses a route; a datagram socket sends nothing
        except OSError:
            return '127.0.0.1'
        return str(probe.getsockname()[0])


async def serve(node: WebNode, settings: WebSettings, stop: asyncio.Event) -> None:
    """
    Serve until told to stop.

    :raises ConfigError: the address cannot be listened at.
    """
    loop = asyncio.get_running_loop()
    conversation = ConversationLog(lambda prompt: link.send(prompt))

    def in_loop(callback: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(callback, *arguments)
        return call

    def on_status(status: Status) -> None:
        chat_model.tell_status(status)
        page.on_status(status)

    target = node.values()['model_node'].rstrip('/')
    chat_model = DoorLink(node, target)
    link = Link(node, target, on_line=in_loop(conversation.hear),
                on_piece=in_loop(conversation.piece), on_status=in_loop(on_status))
    page = ChatPage(conversation, link)
    app = make_app(settings, chat_model)
    page.add_routes(app)
    listener = Listener(app, settings)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    spinner = Thread(target=_spin, args=(executor,))
    try:
        await listener.start()
        spinner.start()
        print(f'open {address(settings, listener.port)} in a browser', flush=True)
        await stop.wait()
    finally:
        await listener.close()
        executor.shutdown()
        if spinner.is_alive():
            spinner.join()


def _spin(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except ExternalShutdownException:
        pass


async def _serve_until_signal(node: WebNode) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(node, web_settings(node.values()), stop)


def _run() -> int:
    node = WebNode()
    try:
        asyncio.run(_serve_until_signal(node))
    finally:
        node.destroy_node()
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 1 where it could not start."""
    return run_in_ros('tinyllama_web', _run, args)
