"""Two small programs in the style of public pyACL samples, to be run on the stand-in."""

import acl
import numpy as np

HUGE_FIRST, HOST_TO_DEVICE, DEVICE_TO_HOST = 0, 1, 2
NUMPY_TYPES = {0: 11, 1: 23, 2: 1, 3: 5, 9: 7}
DTYPES = {0: np.float32, 1: np.float16, 2: np.int8, 3: np.int32, 9: np.int64}


def check(result):
    """Return what a call gave besides its return code."""
    *values, code = result if isinstance(result, tuple) else (result,)
    assert code == 0, (code, acl.get_recent_err_msg())
    return values[0] if len(values) == 1 else tuple(values)


class Program:
    """Device, model and buffers; `run` is what the two programs differ in."""

    def __init__(self, path: str) -> None:
        check(acl.init())
        check(acl.rt.set_device(0))
        self.context = check(acl.rt.create_context(0))
        self.stream = check(acl.rt.create_stream())
        self.model = check(acl.mdl.load_from_file(path))
        self.description = acl.mdl.create_desc()
        check(acl.mdl.get_desc(self.description, self.model))
        self.inputs, self.input_buffers = self._dataset(
            acl.mdl.get_num_inputs, acl.mdl.get_input_size_by_index)
        self.outputs, self.output_buffers = self._dataset(
            acl.mdl.get_num_outputs, acl.mdl.get_output_size_by_index)

    def _dataset(self, count, size_of):
        dataset, buffers = acl.mdl.create_dataset(), []
        for index in range(count(self.description)):
            size = size_of(self.description, index)
            address = check(acl.rt.malloc(size, HUGE_FIRST))
            buffer = acl.create_data_buffer(address, size)
            check(acl.mdl.add_dataset_buffer(dataset, buffer))
            buffers.append((address, size, buffer))
        return dataset, buffers

    def close(self) -> None:
        check(acl.mdl.unload(self.model))
        check(acl.mdl.destroy_desc(self.description))
        for dataset, buffers in ((self.inputs, self.input_buffers),
                                 (self.outputs, self.output_buffers)):
            for address, _, buffer in buffers:
                check(acl.destroy_data_buffer(buffer))
                check(acl.rt.free(address))
            check(acl.mdl.destroy_dataset(dataset))
        check(acl.rt.destroy_stream(self.stream))
        check(acl.rt.destroy_context(self.context))
        check(acl.rt.reset_device(0))
        check(acl.finalize())


class CopyingProgram(Program):
    """Copies everything in and out; runs in both forms."""

    def run(self, arrays):
        for (address, size, _), array in zip(self.input_buffers, arrays, strict=False):
            data = array.tobytes()
            check(acl.rt.memcpy(address, size, acl.util.bytes_to_ptr(data), len(data),
                                HOST_TO_DEVICE))
        check(acl.mdl.execute(self.model, self.inputs, self.outputs))
        return [self._read(index) for index in range(len(self.output_buffers))]

    def _read(self, index):
        address, size, _ = self.output_buffers[index]
        dims = check(acl.mdl.get_cur_output_dims(self.description, index))['dims']
        dtype = DTYPES[acl.mdl.get_output_data_type(self.description, index)]
        host = check(acl.rt.malloc_host(size))
        check(acl.rt.memcpy(host, size, address, size, DEVICE_TO_HOST))
        data = acl.util.ptr_to_bytes(host, size)
        check(acl.rt.free_host(host))
        return np.frombuffer(data, dtype)[:np.prod(dims)].reshape(dims)


class ViewingProgram(Program):
    """Works on views of device memory, and waits for a stream; runs in RC form."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.views = [
            [acl.util.ptr_to_numpy(address, tuple(check(dims(self.description, index))['dims']),
                                   NUMPY_TYPES[kind(self.description, index)])
             for index, (address, _, _) in enumerate(buffers)]
            for buffers, dims, kind in (
                (self.input_buffers, acl.mdl.get_input_dims, acl.mdl.get_input_data_type),
                (self.output_buffers, acl.mdl.get_output_dims, acl.mdl.get_output_data_type))]

    def run(self, arrays):
        for view, array in zip(self.views[0], arrays, strict=False):
            view[:] = array
        check(acl.mdl.execute_async(self.model, self.inputs, self.outputs, self.stream))
        check(acl.rt.synchronize_stream(self.stream))
        return self.views[1]
