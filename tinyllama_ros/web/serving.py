"""Runs the web node: a web server in asyncio's thread, and ROS in a thread of its own."""

import asyncio
from collections.abc import Callable, Sequence
import signal
from threading import Thread
from typing import Any

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from tinyllama_ros.ros.client import Link, Status
from tinyllama_ros.ros.process import declare_parameters, run_in_ros
from tinyllama_ros.web.chat_page import ChatPage
from tinyllama_ros.web.door_link import DoorLink
from tinyllama_ros.web.listener import Listener
from tinyllama_ros.web.log import ConversationLog
from tinyllama_ros.web.node import address, PARAMETERS, web_settings
from tinyllama_ros.web.server import make_app
from tinyllama_ros.web.settings import WebSettings


class WebNode(Node):  # type: ignore[misc]
    """Holds the parameters."""

    def __init__(self, **options: Any) -> None:
        super().__init__('tinyllama_web', automatically_declare_parameters_from_overrides=True,
                         **options)
        declare_parameters(self, PARAMETERS, is_read_only=True)

    def values(self) -> dict[str, Any]:
        """Return the value of every parameter by name."""
        return {name: self.get_parameter(name).value for name in PARAMETERS}


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


def run(args: Sequence[str] | None) -> int:
    """Run the node until SIGINT or SIGTERM; return its exit status."""
    return run_in_ros('tinyllama_web', _run, args)
