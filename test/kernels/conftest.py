"""The libraries that the tests of the kernels run."""

from pathlib import Path
import shutil

import pytest
from support.kernel_sessions import best_instructions, compile_library, processor_flags, VARIANTS

from tinyllama_ros import kernels


@pytest.fixture(scope='session')
def installed() -> Path:
    """Return the library that was installed."""
    library = kernels.find_library()
    if not library or not best_instructions():
        pytest.skip('no kernel of ours runs on this processor, or nothing compiled them')
    assert library.instructions == best_instructions()
    return library.path


@pytest.fixture(scope='session')
def variants(tmp_path_factory):
    """Return a function that compiles the library of a variant, once."""
    compiled: dict[str, Path] = {}

    def find(name: str) -> Path:
        variant = VARIANTS[name]
        if not variant.needs <= processor_flags():
            pytest.skip(f'this processor lacks {", ".join(variant.needs - processor_flags())}')
        if not shutil.which('g++'):
            pytest.skip('needs g++')
        if name not in compiled:
            path = tmp_path_factory.mktemp('variant') / 'library.so.1'
            compile_library(path, variant)
            assert kernels._instructions(path) == name
            compiled[name] = path
        return compiled[name]
    return find


@pytest.fixture(params=['installed', *VARIANTS])
def library(request) -> Path:
    """Return each library that runs on this processor: the installed one, and its variants."""
    if request.param == 'installed':
        return request.getfixturevalue('installed')
    return request.getfixturevalue('variants')(request.param)
