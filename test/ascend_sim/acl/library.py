"""acl: start and end of the library, and data buffers."""

from dataclasses import dataclass
import faulthandler
import json
import logging

from acl import codes
from acl.errors import Failure
from acl.process import call, current

_logger = logging.getLogger('acl')


@dataclass(eq=False)
class DataBuffer:
    """An address and a size; whose memory that is, is the caller's business."""

    address: int
    size: int


@call('|s', needs='nothing')
def init(config_path: str = '') -> None:
    process = current()
    if process.is_initialized:
        raise Failure(codes.REPEAT_INITIALIZE, 'acl.init was called already')
    if config_path:
        try:
            with open(config_path, encoding='utf-8') as config:
                json.load(config)
        except OSError as error:
            raise Failure(codes.INVALID_FILE, str(error)) from None
        except ValueError as error:
            raise Failure(100006, f'{config_path}: {error}') from None
    if not faulthandler.is_enabled():
        faulthandler.enable()  # a program that accesses device memory dies with a traceback
    process.is_initialized = True


@call('', needs='nothing')
def finalize() -> None:
    process = current()
    if not process.is_initialized:
        raise Failure(codes.REPEAT_FINALIZE, 'the library is not initialised')
    for kind, number in process.handles.counts().items():
        process.record(f'finalize with {number} {kind} alive')
    for model in process.models.values():
        process.record(f'finalize with model {model.number} loaded')
    for made in process.memory.live():
        process.record(f'finalize before {made} was freed')
    process.is_initialized = False


@call('', None, needs='nothing')
def get_soc_name() -> str:
    return current().settings.soc


@call('', None, needs='nothing')
def get_recent_err_msg() -> str | None:
    thread = current().thread
    message: str | None = getattr(thread, 'message', None)
    thread.message = None
    return message


@call('', (0, 0, 0), needs='nothing')
def get_version() -> tuple[int, int, int]:
    return 1, 15, 0


@call('is', None, needs='nothing')
def app_log(level: int, message: str) -> None:
    _logger.log(10 * (level + 1), message)  # 0 debug, 1 info, 2 warning, 3 error


@call('kk', None, bare=0)
def create_data_buffer(address: int, size: int) -> int:
    return current().handles.add(DataBuffer(address, size))


@call('k')
def destroy_data_buffer(handle: int) -> None:
    if not handle:
        raise Failure(codes.INVALID_PARAM, 'the data buffer is null')
    current().handles.remove(handle, DataBuffer, 'destroy_data_buffer')


@call('k', None, bare=0)
def get_data_buffer_addr(handle: int) -> int:
    return current().handles.get(handle, DataBuffer, 'get_data_buffer_addr').address


@call('k', None, bare=0)
def get_data_buffer_size(handle: int) -> int:
    return current().handles.get(handle, DataBuffer, 'get_data_buffer_size').size % 2**32


@call('k', None, bare=0)
def get_data_buffer_size_v2(handle: int) -> int:
    return current().handles.get(handle, DataBuffer, 'get_data_buffer_size_v2').size


@call('kkk')
def update_data_buffer(handle: int, address: int, size: int) -> None:
    if not handle:
        raise Failure(codes.INVALID_PARAM, 'the data buffer is null')
    buffer = current().handles.get(handle, DataBuffer, 'update_data_buffer')
    buffer.address, buffer.size = address, size
