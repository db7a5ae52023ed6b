"""
A stand-in for pyACL, the Python module `acl` of Ascend's CANN, that runs without an NPU.

It has the signatures, return tuples, codes and rules of the real module, and runs models with
ONNX Runtime. Put the folder above on PYTHONPATH to use it; `acl.simulator` is the tests' side.
"""

import os

os.environ['ORT_DISABLE_TELEMETRY'] = '1'  # read when ONNX Runtime is imported

from acl import mdl, rt, simulator, util  # noqa: E402
from acl.library import (  # noqa: E402
    app_log,
    create_data_buffer,
    destroy_data_buffer,
    finalize,
    get_data_buffer_addr,
    get_data_buffer_size,
    get_data_buffer_size_v2,
    get_recent_err_msg,
    get_soc_name,
    get_version,
    init,
    update_data_buffer,
)

__all__ = [
    'app_log', 'create_data_buffer', 'destroy_data_buffer', 'finalize', 'get_data_buffer_addr',
    'get_data_buffer_size', 'get_data_buffer_size_v2', 'get_recent_err_msg', 'get_soc_name',
    'get_version', 'init', 'mdl', 'rt', 'simulator', 'update_data_buffer', 'util',
]
