"""Runs the web node: a web server in asyncio's thread, and ROS in a thread of its own."""

import asyncio
from collections.abc import Callable, Sequence
import signal
from typing import Any

from tinyllama_ros.ros.client import NodeClient
from tinyllama_ros.ros.parameter_node import ParameterNode
from tinyllama_ros.ros.process import run_in_ros, spinning
from tinyllama_ros.web.chat_page import ChatPage
from tinyllama_ros.web.listener import Listener
from tinyllama_ros.web.log import ConversationLog
from tinyllama_ros.web.node import address, PARAMETERS, web_settings
from tinyllama_ros.web.server import make_app
from tinyllama_ros.web.settings import WebSettings


async def serve(node: ParameterNode, settings: WebSettings, stop: asyncio.Event) -> None:
    """
    Serve until `stop` is set.

    :raises ConfigError: the server cannot listen on the address.
    """
    loop = asyncio.get_running_loop()

    def in_loop(callback: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(callback, *arguments)
        return call

    conversation = ConversationLog(lambda prompt: client.send(prompt))
    client = NodeClient(node, node.value('model_node'), on_event=in_loop(conversation.receive),
                        on_status=in_loop(lambda status: page.on_status(status)))
    page = ChatPage(conversation, client)
    app = make_app(settings, client)
    page.add_routes(app)
    listener = Listener(app, settings)
    try:
        await listener.start()
        with spinning(node):
            print(f'open {address(settings, listener.port)} in a browser', flush=True)
            await stop.wait()
    finally:
        await listener.close()


async def _serve_until_signal(node: ParameterNode) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(node, web_settings(node.values()), stop)


def _run() -> int:
    node = ParameterNode('tinyllama_web', PARAMETERS)
    try:
        asyncio.run(_serve_until_signal(node))
    finally:
        node.destroy_node()
    return 0


def run(args: Sequence[str] | None) -> int:
    """Run the node until SIGINT or SIGTERM; return its exit status."""
    return run_in_ros('tinyllama_web', _run, args)
