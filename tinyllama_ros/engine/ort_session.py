"""Opens sessions of ONNX Runtime; no other module does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyllama_ros.engine.host import turn_off_telemetry
from tinyllama_ros.errors import BackendError, missing_package, reason_of
from tinyllama_ros.kernels import find_library

turn_off_telemetry()  # the import alone would write a device id and start what uploads events
try:
    with missing_package('the CPU backend', BackendError):
        from onnxruntime import InferenceSession, IOBinding, OrtValue, SessionOptions
except ImportError as error:  # too little memory, a library that it needs, another machine's
    raise BackendError(f'ONNX Runtime is installed but cannot be loaded: {reason_of(error)}; '
                       'free memory, or install it again: '
                       'pip install --force-reinstall onnxruntime') from error

__all__ = ['InferenceSession', 'IOBinding', 'open_session', 'OrtValue', 'SessionOptions']


def open_session(graph: Path, *, own_kernels: bool = False, entries: Mapping[str, str] = {},
                 **options: Any) -> InferenceSession:
    """
    Return a session that runs a graph on the CPU.

    :param own_kernels: use this project's kernels if they were compiled; see kernels/.
    :param entries: session configuration entries, by ONNX Runtime's names.
    :param options: attributes of ONNX Runtime's SessionOptions.
    :raises BackendError: the graph could not be loaded.
    """
    session_options = SessionOptions()
    session_options.log_severity_level = 3
    for name, value in options.items():
        setattr(session_options, name, value)
    for name, value in entries.items():
        session_options.add_session_config_entry(name, value)
    library = find_library() if own_kernels else None
    if library and library.instructions:
        session_options.register_custom_ops_library(str(library.path))
    try:
        return InferenceSession(str(graph), session_options, providers=['CPUExecutionProvider'])
    except Exception as error:  # ONNX Runtime's errors share no base class but this
        raise BackendError(f'ONNX Runtime could not load {graph}: {reason_of(error)}') from error
