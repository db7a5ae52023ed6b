"""acl.rt: devices, contexts and the form of the board."""

from acl import codes
from acl.errors import Failure
from acl.process import call, Context, current, Device, Process
from acl.streams import Stream


@call('', (0,))
def get_device_count() -> int:
    return len(current().devices)


@call('i')
def set_device(number: int) -> None:
    process = current()
    device = _device(process, number)
    device.count += 1
    if device.default is None:
        device.default = Context(device, is_default=True)
        device.default.handle = process.handles.add(device.default)
    process.thread.context = device.default


@call('', (0,), needs='context')
def get_device() -> int:
    return current().context().device.number


@call('i')
def reset_device(number: int) -> None:
    process = current()
    device = _device(process, number)
    if device.count == 0:
        raise Failure(codes.RT_INVALID_DEVICE, f'device {number} is not set')
    device.count -= 1
    if device.count == 0:
        _reset(process, device)


@call('i')
def reset_device_force(number: int) -> None:
    process = current()
    device = _device(process, number)
    device.count = 0
    _reset(process, device)


@call('i', (0,))
def create_context(number: int) -> int:
    process = current()
    device = _device(process, number)
    if device.lost:
        raise Failure(device.lost, f'device {number} is lost until it is reset')
    context = Context(device, is_default=False)
    context.handle = process.handles.add(context)
    process.thread.context = context
    return context.handle


@call('k')
def destroy_context(handle: int) -> None:
    process = current()
    if handle == 0:
        raise Failure(codes.INVALID_PARAM, 'context is null')
    context = process.handles.find(handle, Context)
    if context is None:
        process.record(f'destroy_context: {process.handles.name(handle)}')
        raise Failure(codes.RT_INVALID_HANDLE, process.handles.name(handle))
    if context.is_default:
        raise Failure(codes.RT_CONTEXT_NULL, 'the default context goes with reset_device')
    _end(process, context, 'destroy_context')


@call('k')
def set_context(handle: int) -> None:
    process = current()
    if handle == 0:
        raise Failure(codes.INVALID_PARAM, 'context is null')
    context = process.handles.find(handle, Context)
    if context is None:
        raise Failure(codes.RT_CONTEXT_NULL, process.handles.name(handle))
    process.thread.context = context


@call('', (0,))
def get_context() -> int:
    return current().context().handle


@call('', (0,))
def get_run_mode() -> int:
    return codes.ACL_DEVICE if current().is_rc else codes.ACL_HOST


@call('i', (0,))
def query_device_status(number: int) -> int:
    return 1 if _device(current(), number).lost else 0


def _device(process: Process, number: int) -> Device:
    device = process.devices.get(number)
    if device is None:
        raise Failure(codes.RT_INVALID_DEVICE,
                      f'there is no device {number}; devices: {sorted(process.devices)}')
    return device


def _end(process: Process, context: Context, use: str) -> None:
    """Destroy a context and what lives in it."""
    for model in [model for model in process.models.values() if model.context is context]:
        process.record(f'{use} before model {model.number} was unloaded')
        model.close()
        del process.models[model.number]
    for handle, stream in process.handles.of(Stream).items():
        if stream.context is context:
            process.record(f'{use} before {stream.name} was destroyed')
            stream.close()
            process.handles.remove(handle, Stream, use)
    if context.default_stream is not None:
        if context.default_stream.has_unwaited():
            process.record(f'{use} before its default stream was synchronized')
        context.default_stream.close()
    process.handles.remove(context.handle, Context, use)


def _reset(process: Process, device: Device) -> None:
    """Release everything on a device."""
    for context in process.handles.of(Context).values():
        if context.device is device:
            if not context.is_default:
                process.record('reset_device before a context was destroyed')
            _end(process, context, 'reset_device')
    live = process.memory.live()
    for made in live:
        process.record(f'reset_device before {made} was freed')
    process.memory.free_all('device')
    if process.is_rc:
        process.memory.free_all('host')
    device.default = None
    device.lost = 0
