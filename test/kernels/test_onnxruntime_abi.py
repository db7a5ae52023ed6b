"""
What our kernels assume of ONNX Runtime's C interface is what its real header says.

The header is not in ONNX Runtime's wheel. Debian 13 has it in libonnxruntime-dev, and
ONNXRUNTIME_INCLUDE may name a folder with onnxruntime_c_api.h of any other version; places, once
given, are kept for good.
"""

import os
from pathlib import Path
import re
import shutil
import subprocess

import pytest
from support.kernel_sessions import SOURCES

ABI = SOURCES / 'onnxruntime_abi.h'
FUNCTIONS = re.findall(r'^using (\w+) =\s+Entry<', ABI.read_text(), re.MULTILINE)
FIELDS = re.findall(r'^  \S.*?\(\*(\w+)\)\(', ABI.read_text().split('struct CustomOp {')[1],
                    re.MULTILINE)

PROGRAM = """
#include <onnxruntime_c_api.h>
#include "onnxruntime_abi.h"
#include <type_traits>

namespace ours = tinyllama_ros;

// Two types are passed alike: both are pointers (to whatever, as constant on both sides), or both
// are numbers of one size and kind.
template <typename A, typename B>
constexpr bool Alike() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>)
    return std::is_function_v<std::remove_pointer_t<A>> ==
               std::is_function_v<std::remove_pointer_t<B>> &&
           std::is_const_v<std::remove_pointer_t<A>> == std::is_const_v<std::remove_pointer_t<B>>;
  else if constexpr (std::is_void_v<A> || std::is_void_v<B>)
    return std::is_void_v<A> && std::is_void_v<B>;
  else
    return !std::is_pointer_v<A> && !std::is_pointer_v<B> && sizeof(A) == sizeof(B) &&
           std::is_floating_point_v<A> == std::is_floating_point_v<B>;
}

template <typename A, typename B>
struct SameCall : std::false_type {};
template <typename A, typename... As, typename B, typename... Bs>
struct SameCall<A(As...), B(Bs...)> {
  static constexpr bool Compare() {
    if constexpr (sizeof...(As) == sizeof...(Bs))
      return Alike<A, B>() && (Alike<As, Bs>() && ...);
    else
      return false;
  }
  static constexpr bool value = Compare();
};

template <typename Pointer>
struct Called;
template <typename Result, typename... Arguments>
struct Called<Result (*)(Arguments...)> {
  using Function = Result(Arguments...);
};
template <typename Result, typename... Arguments>
struct Called<Result (*)(Arguments...) noexcept> {
  using Function = Result(Arguments...);
};
template <auto member>
struct Member;
template <typename Struct, typename Pointer, Pointer Struct::*member>
struct Member<member> {
  using Function = typename Called<std::remove_const_t<Pointer>>::Function;
};

#define CHECK_FUNCTION(name)                                                              \\
  static_assert(offsetof(OrtApi, name) == ours::api::name::kPlace * sizeof(void *),       \\
                #name " is at another place");                                            \\
  static_assert(SameCall<Member<&OrtApi::name>::Function, ours::api::name::Function>::value, \\
                #name " is of another type");
#define CHECK_FIELD(name)                                                                 \\
  static_assert(offsetof(OrtCustomOp, name) == offsetof(ours::CustomOp, name),            \\
                #name " is at another place");                                            \\
  static_assert(SameCall<Member<&OrtCustomOp::name>::Function,                            \\
                         Member<&ours::CustomOp::name>::Function>::value,                 \\
                #name " is of another type");

%(checks)s

static_assert(offsetof(OrtApiBase, GetApi) == offsetof(ours::ApiBase, GetApi));
static_assert(ORT_API_VERSION >= ours::kApiVersion);
static_assert(ORT_FAIL == 1);
static_assert(int(ours::kFloat) == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
static_assert(int(ours::kUint8) == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
static_assert(int(ours::kInt8) == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8);
static_assert(int(ours::kInt32) == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
static_assert(INPUT_OUTPUT_REQUIRED == 0);  // GetInputCharacteristic
static_assert(OrtMemTypeDefault == 0);      // GetInputMemoryType
"""


def header_folder() -> Path | None:
    """Return where onnxruntime_c_api.h is on this machine."""
    named = os.environ.get('ONNXRUNTIME_INCLUDE')
    if named:
        return Path(named)
    headers = Path('/usr/include').glob('onnxruntime/**/onnxruntime_c_api.h')
    return next((header.parent for header in headers), None)


def compare(abi: Path, include: Path) -> subprocess.CompletedProcess[str]:
    """Compile a program that holds if an interface of ours is the header's."""
    checks = '\n'.join([f'CHECK_FUNCTION({name})' for name in FUNCTIONS]
                       + [f'CHECK_FIELD({name})' for name in FIELDS])
    return subprocess.run(
        ['g++', '-std=c++17', '-fsyntax-only', '-Wno-invalid-offsetof', f'-I{abi.parent}',
         f'-I{include}', '-x', 'c++', '-'], input=PROGRAM % {'checks': checks},
        capture_output=True, text=True)


@pytest.fixture(scope='module')
def include() -> Path:
    if not shutil.which('g++'):
        pytest.skip('needs g++')
    folder = header_folder()
    if not folder:
        pytest.skip('no onnxruntime_c_api.h here: install libonnxruntime-dev')
    return folder


def test_every_function_and_field_is_named():
    text = ABI.read_text()
    assert len(FUNCTIONS) == text.count('Entry<') - text.count('Call<Entry') == 15
    assert len(FIELDS) == 25


def test_interface_is_the_headers(include):
    compared = compare(ABI, include)
    assert compared.returncode == 0, compared.stderr


@pytest.mark.parametrize(('ours', 'wrong', 'message'), [
    ('Entry<274,', 'Entry<275,', 'KernelContext_ParallelFor is at another place'),
    ('Entry<61, Status *(const TensorInfo *, size_t *)>',
     'Entry<61, Status *(const TensorInfo *, size_t)>', 'GetDimensionsCount is of another type'),
    ('  void (*KernelDestroy)(void *);\n', '', 'KernelDestroy'),
    ('Status *(*KernelComputeV2)(void *, Context *)', 'void (*KernelComputeV2)(void *, Context *)',
     'KernelComputeV2 is of another type')], ids=str)
def test_interface_that_is_not_the_headers_is_found(include, tmp_path, ours, wrong, message):
    text = ABI.read_text()
    assert text.count(ours) == 1
    (tmp_path / ABI.name).write_text(text.replace(ours, wrong))
    compared = compare(tmp_path / ABI.name, include)
    assert compared.returncode != 0 and message in compared.stderr
