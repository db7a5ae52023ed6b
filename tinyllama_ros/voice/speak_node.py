"""Runs the speech node: what its topics say goes to the speaker, and back."""

from collections.abc import Sequence

from tinyllama_ros.ros.parameter_node import ParameterNode
from tinyllama_ros.ros.process import (
    end_in_time,
    run_in_ros,
    SIGNAL_PERIOD_S,
    spinning,
    stop_on_signals,
)
from tinyllama_ros.ros.speech_client import SpeechClient
from tinyllama_ros.voice.parameters import PARAMETERS
from tinyllama_ros.voice.sinks import open_sink
from tinyllama_ros.voice.speaker import Speaker
from tinyllama_ros.voice.synthesis import open_synthesizer


def _run() -> int:
    stop = stop_on_signals()
    node = ParameterNode('tinyllama_speak', PARAMETERS)
    try:
        sink, synthesizer = open_sink(node.value('sink')), open_synthesizer(node.value('voice'))
        client = SpeechClient(node, node.value('model_node'))
        speaker = Speaker(synthesizer, sink, on_speaking=client.set_speaking,
                          on_spoken=client.tell_spoken, on_error=node.get_logger().error)
        client.listen(on_sentence=speaker.say, on_answer_end=speaker.end_answer,
                      on_interrupted=speaker.interrupt)
        with spinning(node):
            while not stop.wait(SIGNAL_PERIOD_S):
                pass
            end_in_time(0, lambda: None)
            speaker.close()
    finally:
        node.destroy_node()
    return 0


def run(args: Sequence[str] | None) -> int:
    """Run the node until SIGINT or SIGTERM; return its exit status."""
    return run_in_ros('tinyllama_speak', _run, args)
