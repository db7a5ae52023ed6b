"""Lists the parameters of the speech node."""

from collections.abc import Mapping

from tinyllama_ros.ros.parameters import Parameter

PARAMETERS: Mapping[str, Parameter] = {
    'model_node': Parameter('/tinyllama', "Full name of the language model's node.",
                            is_fixed=True),
    'voice': Parameter('en', 'A voice of espeak-ng (espeak-ng --voices lists them), or the path '
                       'of a voice file of Piper, which ends in .onnx.', is_fixed=True),
    'sink': Parameter('', 'What plays the sound: aplay (ALSA), paplay (PulseAudio, PipeWire), or '
                      'the path of a folder, where each sentence becomes a wav file; empty: '
                      'aplay or else paplay, whichever is installed.', is_fixed=True),
}
"""All are read at the start."""
