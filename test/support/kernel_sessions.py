"""Builds libraries of our kernels, and sessions that run one operator by them."""

from dataclasses import dataclass
from pathlib import Path
import platform
import subprocess

from numpy.typing import NDArray
from onnx import helper, numpy_helper, TensorProto
import onnxruntime as ort

from support.paths import ROOT
from tinyllama_ros.workbench.graphs.cpu_functions import cpu_functions, OPSETS, OURS

SOURCES = ROOT / 'tinyllama_ros' / 'kernels'
EMULATION = ROOT / 'test' / 'kernels' / 'emulation'
THREADS = 2


@dataclass(frozen=True)
class Variant:
    """The kernels of one instruction set, on processors that also have a better one."""

    function: str
    """Which returns them, in kernels.h."""
    needs: frozenset[str]
    """Flags of /proc/cpuinfo."""
    native: frozenset[str] = frozenset()
    """More flags, without which an emulation stands in."""
    emulation: str = ''


_AVX512 = frozenset({'avx512_vnni', 'avx512vl', 'avx512dq', 'avx512bw', 'avx512f'})
VARIANTS = {
    'AVX2': Variant('Avx2Kernels', frozenset({'avx2', 'fma'})),
    'AVX2 VNNI': Variant('AvxVnniKernels', frozenset({'avx2', 'fma'}), frozenset({'avx_vnni'}),
                         'vnni.h'),
    'AMX': Variant('Avx512Kernels', _AVX512, frozenset({'no processor, as yet'}), 'amx.h')}


def processor_flags() -> frozenset[str]:
    """Return the instruction sets of this processor, as Linux names them."""
    return frozenset(Path('/proc/cpuinfo').read_text().split())


def best_instructions() -> str:
    """Return the name of the kernels that this processor should run; empty if it runs none."""
    flags = processor_flags()
    if platform.machine() != 'x86_64' or not {'avx2', 'fma'} <= flags:
        return ''
    if flags >= _AVX512:
        return 'AMX' if {'amx_tile', 'amx_int8'} <= flags else 'AVX-512 VNNI'
    return 'AVX2 VNNI' if 'avx_vnni' in flags else 'AVX2'


def compile_library(path: Path, variant: Variant) -> None:
    """Compile a library that has the kernels of one variant only; a warning is an error."""
    choice = path.with_name('choose_kernels.cc')
    choice.write_text('#include "kernels.h"\n\nconst tinyllama_ros::Kernels '
                      f'*tinyllama_ros::ChooseKernels() {{ return {variant.function}(); }}\n')
    sources = [source for source in SOURCES.glob('*.cc') if source.name != choice.name]
    emulated = bool(variant.emulation) and not variant.native <= processor_flags()
    subprocess.run(['g++', '-std=c++17', '-O1', '-ffp-contract=off', '-Wall', '-Wextra', '-Werror',
                    '-Wno-maybe-uninitialized',  # of the compiler's own headers
                    '-fPIC', '-shared', f'-I{SOURCES}',
                    *(['-include', EMULATION / variant.emulation] if emulated else []),
                    choice, *sources, '-o', path], check=True)


def open_session(op: str, inputs: dict[str, tuple[int, list]], outputs: list[str],
                 weights: dict[str, NDArray], library: Path | None, **attributes: float
                 ) -> ort.InferenceSession:
    """Return one operator of ours, run by a library, or as the function that it is."""
    graph = helper.make_graph(
        [helper.make_node(op, [*inputs, *weights], outputs, domain=OURS, **attributes)], op,
        [helper.make_tensor_value_info(name, kind, shape)
         for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()])
    model = helper.make_model(graph, ir_version=8, functions=cpu_functions(), opset_imports=[
        helper.make_opsetid(domain, version) for domain, version in OPSETS.items()])
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    options.add_session_config_entry('session.x64quantprecision', '1')
    if library:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options)


def open_gate(width: int, library: Path | None) -> ort.InferenceSession:
    return open_session('Gate', {'both': (TensorProto.FLOAT, [1, 'S', 2 * width])}, ['gated'], {},
                        library)
