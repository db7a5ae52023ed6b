"""Runs the web node: a web server in asyncio's thread, and ROS in a thread of its own."""

import asyncio
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

from tinyllama_ros.ros.client import NodeClient
from tinyllama_ros.ros.parameter_node import ParameterNode
from tinyllama_ros.ros.process import (
    end_in_time,
    run_in_ros,
    SIGNAL_PERIOD_S,
    spinning,
    stop_on_signals,
)
from tinyllama_ros.web.api_server import make_app
from tinyllama_ros.web.chat_page import ChatPage
from tinyllama_ros.web.listener import Listener
from tinyllama_ros.web.log import ConversationLog
from tinyllama_ros.web.parameters import address, PARAMETERS, web_settings
from tinyllama_ros.web.settings import WebSettings


async def serve(node: ParameterNode, settings: WebSettings, stop: Event) -> None:
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
            while not stop.is_set():
                await asyncio.sleep(SIGNAL_PERIOD_S)
            end_in_time(0, lambda: None)
    finally:
        await listener.close()


def _run() -> int:
    stop = stop_on_signals()
    node = ParameterNode('tinyllama_web', PARAMETERS)
    try:
        asyncio.run(serve(node, web_settings(node.values()), stop))
    finally:
        node.destroy_node()
    return 0


def run(args: Sequence[str] | None) -> int:
    """Run the node until SIGINT or SIGTERM; return its exit status."""
    return run_in_ros('tinyllama_web', _run, args)
