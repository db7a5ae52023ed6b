"""A folder laid out as a CANN toolkit, as far as building and finding a plugin goes."""

from pathlib import Path
import shutil
import subprocess

from support.paths import ROOT

CUSTOM_OP = ROOT / 'custom_op'
REGISTER = Path(__file__).parent / 'toolkit_register'
PLUGIN = Path('framework', 'onnx', 'libcust_onnx_parsers.so')
SAMPLE = Path('tools', 'msopgen', 'template', 'custom_operator_sample', 'DSL', 'Onnx')

# Built as the template is: every source of the plugin folder into one library, then packed; the
# demo's plugin cannot be compiled, since it wants protobuf.
SAMPLE_BUILD = """#!/usr/bin/env bash
# export ASCEND_TENSOR_COMPILER_INCLUDE=/usr/local/Ascend/compiler/include
# export TOOLCHAIN_DIR=/usr/local/Ascend/toolkit/toolchain/hcc
export AICPU_KERNEL_TARGET=cust_aicpu_kernels
# export AICPU_SOC_VERSION=Ascend910
if [[ -z $ASCEND_TENSOR_COMPILER_INCLUDE ]]; then
    export ASCEND_TENSOR_COMPILER_INCLUDE=/usr/local/Ascend/compiler/include
else
    :
fi
here=$(cd "$(dirname "$0")" && pwd)
[[ -d $ASCEND_TENSOR_COMPILER_INCLUDE && -d $TOOLCHAIN_DIR ]] || exit 1
echo "$ASCEND_TENSOR_COMPILER_INCLUDE $TOOLCHAIN_DIR $AICPU_KERNEL_TARGET $AICPU_SOC_VERSION" \\
    >"$SAMPLE_LOG"
find "$here" -name '*.py' >>"$SAMPLE_LOG"
out=$here/build_out/makepkg/packages/vendors/customize/framework/onnx
mkdir -p "$out"
g++ -shared -fPIC -I"$ASCEND_TENSOR_COMPILER_INCLUDE" "$here"/framework/onnx_plugin/*.cc \\
    -o "$out/libcust_onnx_parsers.so" || exit 1
echo 'makeself: no such file' >&2
exit 1
"""


def compile_library(source: Path, library: Path, *options: str) -> Path:
    """Compile a C++ file against the stand-in headers, every warning an error."""
    subprocess.run(['g++', '-shared', '-fPIC', '-std=c++11', '-Wall', '-Wextra', '-Werror',
                    f'-I{REGISTER}', str(source), '-o', str(library), *options], check=True)
    return library


def make_toolkit(folder: Path, libregister: Path | None = None, *, version: str = '8.1.RC1'
                 ) -> Path:
    """
    Lay out a toolkit.

    :param libregister: taken over where it is given.
    """
    (folder / 'opp' / 'built-in').mkdir(parents=True)
    shutil.copytree(REGISTER / 'register', folder / 'include' / 'register')
    (folder / 'lib64').mkdir()
    if libregister:
        shutil.copy(libregister, folder / 'lib64' / 'libregister.so')
    (folder / 'compiler').mkdir()
    (folder / 'compiler' / 'version.info').write_text(f'Version=7.7.0\nversion_dir={version}\n')
    return folder


def add_sample(toolkit: Path) -> None:
    """Put the sample project into a toolkit, with the vendor's demo operator."""
    sample = toolkit / SAMPLE
    for name, content in {
            'build.sh': SAMPLE_BUILD,
            'framework/onnx_plugin/CMakeLists.txt': '',
            'framework/onnx_plugin/fill_v2d_plugin.cc': '#include "proto/onnx/ge_onnx.pb.h"\n',
            'tbe/impl/fill_v2d.py': ''}.items():
        (sample / name).parent.mkdir(parents=True, exist_ok=True)
        (sample / name).write_text(content)
        (sample / name).chmod(0o444)


def tree(folder: Path) -> dict[str, str | bytes]:
    """Return every file below a folder with its content, and every folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else 'folder'
            for path in sorted(folder.rglob('*'))}


def add_plugin(folder, content=b'... ai.onnx::13::MatMulInteger ...'):
    (folder / PLUGIN).parent.mkdir(parents=True)
    (folder / PLUGIN).write_bytes(content)
    return folder / PLUGIN
