"""ATC's plugin says what it should, and install.sh leaves a toolkit as it should."""

import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

import pytest
from support.fake_toolkit import (
    add_sample,
    compile_library,
    CUSTOM_OP,
    make_toolkit,
    PLUGIN,
    REGISTER,
    tree,
)

SOURCE = CUSTOM_OP / 'matmul_integer_plugin.cc'
VENDORS = Path('opp', 'vendors')
INSTALLED = VENDORS / 'tinyllama_ros' / PLUGIN
CONFIG = VENDORS / 'config.ini'
NOBODY = 65534

pytestmark = pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')


@pytest.fixture(scope='module')
def libregister(tmp_path_factory):
    """Return the library that a plugin registers with; its std::string is not the plugin's."""
    return compile_library(REGISTER / 'register.cc', tmp_path_factory.mktemp('lib')
                           / 'libregister.so', '-Wl,-soname,libregister.so',
                           '-D_GLIBCXX_USE_CXX11_ABI=1')


@pytest.fixture(scope='module')
def compiler(tmp_path_factory, libregister):
    """Return a compiler that has compiled the plugin before."""
    folder = tmp_path_factory.mktemp('compiler')
    plugin = compile_library(SOURCE, folder / 'plugin.so', str(libregister))
    path = folder / 'c++'
    path.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp {plugin} "$2"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def toolkit(tmp_path, libregister):
    return make_toolkit(tmp_path / 'a toolkit', libregister)


@pytest.fixture
def run(toolkit, tmp_path):
    """Return a function that runs install.sh on the toolkit."""
    def run(*arguments, **environment):
        defaults = {'PATH': os.environ['PATH'], 'HOME': str(tmp_path),
                    'ASCEND_TOOLKIT_HOME': str(toolkit)}
        return subprocess.run([CUSTOM_OP / 'install.sh', *arguments], env=defaults | environment,
                              text=True, capture_output=True, timeout=60)
    return run


@pytest.fixture
def install(run, compiler):
    """Return a function that runs install.sh; to build takes it no time."""
    def install(*arguments, **environment):
        return run(*arguments or ('--via', 'compiler'), **{'CXX': str(compiler)} | environment)
    return install


def registrations(plugin, libregister):
    """Return what a plugin registers when ATC's parser loads it."""
    program = ('import ctypes, sys; register = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL); '
               'ctypes.CDLL(sys.argv[2]); '
               'register.registrations.restype = ctypes.c_char_p; '
               'print(register.registrations().decode())')
    run = subprocess.run([sys.executable, '-c', program, libregister, plugin], check=True,
                         capture_output=True, text=True)
    return run.stdout.split('\n')[:-2]


def every_opset():
    return [f'ai.onnx::{opset}::MatMulInteger BatchMatMulV2 framework 5 imply type 1 parse '
            'status 0' for opset in range(8, 19)]


def tools_without(*left_out):
    """Return a PATH with every tool of this machine but some."""
    folder = Path(tempfile.mkdtemp())
    for place in os.environ['PATH'].split(':'):
        for tool in Path(place).glob('*'):
            if tool.name not in left_out and not (folder / tool.name).exists():
                (folder / tool.name).symlink_to(tool)
    return folder


@pytest.fixture
def path_without():
    """Return a function that gives a PATH without some tools."""
    made = []

    def path_without(*left_out):
        made.append(tools_without(*left_out))
        return str(made[-1])
    yield path_without
    for folder in made:
        shutil.rmtree(folder)


def test_plugin_maps_matmulinteger_of_every_opset(tmp_path, libregister):
    plugin = compile_library(SOURCE, tmp_path / 'plugin.so', str(libregister),
                             '-D_GLIBCXX_USE_CXX11_ABI=0', '-Dgoogle=ascend_private')
    assert registrations(plugin, libregister) == every_opset()


@pytest.mark.parametrize('abi', [0, 1])
def test_plugin_passes_no_string_whose_layout_depends_on_the_compiler(tmp_path, abi):
    plugin = compile_library(SOURCE, tmp_path / 'plugin.so', f'-D_GLIBCXX_USE_CXX11_ABI={abi}')
    symbols = subprocess.run(['nm', '-DuC', plugin], check=True, capture_output=True, text=True)
    asked = [line for line in symbols.stdout.splitlines() if 'domi' in line or 'ge::' in line]
    assert len(asked) == 8
    assert not any('string<' in line or 'std::string' in line for line in asked)


@pytest.mark.parametrize('route', ['cmake', 'compiler', 'msopgen'])
def test_each_route_installs_the_same_plugin_and_nothing_else(run, toolkit, libregister,
                                                              tmp_path, route):
    if route == 'cmake' and not shutil.which('cmake'):
        pytest.skip('needs cmake')
    add_sample(toolkit)
    before = tree(toolkit)
    found = run('--via', route, SAMPLE_LOG=str(tmp_path / 'sample.log'))
    assert found.returncode == 0, found.stderr
    assert f'is known to ATC of {toolkit} (CANN 8.1.RC1)' in found.stdout
    after = tree(toolkit)
    assert {name: after[name] for name in before} == before
    assert sorted(name for name in after.keys() - before if after[name] != 'folder') == [
        str(CONFIG), str(INSTALLED)]
    assert after[str(CONFIG)] == b'load_priority=tinyllama_ros\n'
    assert registrations(toolkit / INSTALLED, libregister) == every_opset()
    needed = subprocess.run(['readelf', '-d', toolkit / INSTALLED], check=True,
                            capture_output=True, text=True).stdout
    assert ('libregister.so' in needed) == (route != 'msopgen')  # the sample leaves it to ATC


def test_sample_is_built_in_a_copy_with_its_four_variables_and_without_the_demo(
        run, toolkit, tmp_path, path_without):
    add_sample(toolkit)
    shutil.move(toolkit / 'include' / 'register', tmp_path / 'register')  # no other way is left
    (toolkit / 'include' / 'elsewhere').mkdir()
    found = run('--toolkit', str(toolkit), PATH=path_without('cmake'), CPATH=str(tmp_path),
                  SAMPLE_LOG=str(tmp_path / 'sample.log'))
    assert found.returncode == 0, found.stderr
    assert (tmp_path / 'sample.log').read_text() == (
        f'{toolkit}/include /usr cust_aicpu_kernels Ascend310B4\n')


def test_default_takes_the_compiler_where_there_is_no_cmake(run, compiler, path_without):
    found = run(PATH=path_without('cmake'), CXX=str(compiler))
    assert found.stdout.startswith('building with compiler\ninstalled: ')


@pytest.mark.skipif(not shutil.which('cmake'), reason='needs cmake')
def test_default_takes_cmake_where_it_is(run):
    assert run().stdout.startswith('building with cmake\ninstalled: ')


def test_failed_route_gives_way_to_the_next(run, toolkit, path_without, tmp_path):
    tools = path_without('cmake')
    broken = Path(tools) / 'cmake'
    broken.write_text('#!/bin/sh\necho cmake is broken; exit 1\n')
    broken.chmod(0o755)
    found = run('--toolkit', str(toolkit), PATH=tools)
    assert found.returncode == 0
    assert 'cmake failed:\n  cmake is broken\n' in found.stderr
    assert (toolkit / INSTALLED).exists()


def test_plugin_may_be_read_by_all_whatever_the_installing_shell_keeps_private(install, toolkit):
    before = os.umask(0o077)
    try:
        assert install().returncode == 0
    finally:
        os.umask(before)
    path = toolkit / INSTALLED
    for each in (toolkit / CONFIG, path, *list(path.parents)[:4]):
        assert each.stat().st_mode & 0o044 == 0o044, each


def test_second_run_changes_nothing(install, toolkit):
    install()
    before = tree(toolkit), (toolkit / INSTALLED).stat().st_mtime_ns
    run = install()
    assert run.returncode == 0
    assert run.stdout.startswith('building with compiler\nunchanged: ')
    assert (tree(toolkit), (toolkit / INSTALLED).stat().st_mtime_ns) == before


def test_older_plugin_is_replaced(install, toolkit):
    install()
    (toolkit / INSTALLED).write_bytes(b'ai.onnx::13::MatMulInteger of another time')
    assert install('--check').returncode == 1
    assert f'installed: {toolkit / INSTALLED}' in install().stdout
    assert install('--check').returncode == 0


@pytest.mark.parametrize(('before', 'after', 'left'), [
    ('load_priority=customize\n', 'load_priority=customize,tinyllama_ros\n',
     'load_priority=customize\n'),
    ('load_priority = a, b \n# own\n', 'load_priority=a,b,tinyllama_ros\n', 'load_priority=a,b\n'),
    ('load_priority=tinyllama_ros,a', 'load_priority=tinyllama_ros,a', 'load_priority=a\n'),
    ('', 'load_priority=tinyllama_ros\n', None),
])
def test_other_vendors_keep_their_place(install, toolkit, before, after, left):
    config = toolkit / CONFIG
    config.parent.mkdir()
    config.write_text(before)
    config.chmod(0o750)
    assert install().returncode == 0
    assert config.read_text() == after
    assert config.stat().st_mode & 0o777 == 0o750
    assert install('--uninstall').returncode == 0
    assert (config.read_text() if config.exists() else None) == left


@pytest.mark.parametrize('action', [(), ('--check',), ('--uninstall',)])
@pytest.mark.parametrize('line', ['customize\n', 'load_priority=a=b\n', '\nload_priority=a\n'])
def test_list_of_vendors_that_atc_could_not_read_is_left_to_its_owner(install, toolkit, line,
                                                                      action):
    (toolkit / CONFIG).parent.mkdir()
    (toolkit / CONFIG).write_text(line)
    before = tree(toolkit)
    run = install(*action)
    assert run.returncode == 1
    assert f"config.ini begins with '{line.splitlines()[0]}', not with load_priority" in run.stderr
    assert tree(toolkit) == before


@pytest.mark.parametrize('action', [(), ('--check',), ('--uninstall',)])
@pytest.mark.parametrize('make', [Path.mkdir, os.mkfifo], ids=['folder', 'pipe'])
def test_list_of_vendors_that_is_no_file_is_left_to_its_owner(install, toolkit, make, action):
    (toolkit / CONFIG).parent.mkdir()
    make(toolkit / CONFIG)
    run = install(*action)
    assert (run.returncode, run.stderr) == (
        1, f'install.sh: {toolkit / CONFIG} is no file that can be read; mend or remove it, and '
        'run this again\n')


def test_uninstall_leaves_the_toolkit_as_it_was_and_runs_twice(install, toolkit):
    before = tree(toolkit)
    install()
    assert tree(toolkit) != before
    assert install('--uninstall').stdout == f'uninstalled from {toolkit}/opp/vendors\n'
    assert tree(toolkit) == before
    run = install('--uninstall')
    assert (run.returncode, run.stdout) == (0, f'not installed in {toolkit}/opp/vendors\n')


def test_every_missing_part_is_named_with_its_remedy(run, toolkit, path_without):
    shutil.rmtree(toolkit / 'include')
    shutil.rmtree(toolkit / 'opp' / 'built-in')
    before = tree(toolkit)
    found = run(PATH=path_without('g++'))
    assert found.returncode == 1
    assert f'{toolkit}/include/register/register.h: install the toolkit' in found.stderr
    assert f"{toolkit}/opp/built-in: the toolkit's operators; install the whole" in found.stderr
    assert 'g++: the C++ compiler; run: sudo apt install g++' in found.stderr
    assert tree(toolkit) == before


def test_check_of_a_fresh_toolkit_says_what_to_run_and_what_is_missing(install, toolkit):
    shutil.rmtree(toolkit / 'include')
    before = tree(toolkit)
    run = install('--check')
    assert run.returncode == 1
    assert f'not installed: there is no {toolkit}/opp/vendors/tinyllama_ros/' in run.stderr
    assert 'which still lacks:' in run.stderr and 'register.h: install the toolkit' in run.stderr
    assert tree(toolkit) == before


def test_check_finds_a_vendor_that_is_not_listed(install, toolkit):
    install()
    (toolkit / CONFIG).write_text('load_priority=customize\n')
    run = install('--check')
    assert run.returncode == 1
    assert f'{toolkit}/opp/vendors/config.ini does not list tinyllama_ros' in run.stderr


def test_check_finds_a_plugin_that_this_toolkit_could_not_load(install, toolkit, tmp_path):
    install()
    (tmp_path / 'empty.cc').write_text('')
    compile_library(tmp_path / 'empty.cc', toolkit / 'lib64' / 'libregister.so',
                    '-Wl,-soname,libregister.so')
    run = install('--check')
    assert run.returncode == 1
    assert 'cannot be loaded with this toolkit: undefined symbol: _ZN4domi' in run.stderr


def test_toolkit_that_keeps_its_libraries_elsewhere_is_taken(run, toolkit):
    shutil.rmtree(toolkit / 'lib64')
    assert run('--via', 'compiler').returncode == 0


def test_route_that_the_toolkit_does_not_offer_is_named(install, toolkit):
    found = install('--via', 'msopgen')
    assert found.returncode == 1
    assert f'cannot be built via msopgen here: for cmake and compiler {toolkit}' in found.stderr


def test_other_toolkit_in_the_environment_is_pointed_out(install, toolkit):
    run = install('--toolkit', str(toolkit), '--via', 'compiler', ASCEND_OPP_PATH='/elsewhere')
    assert run.returncode == 0
    assert 'but ASCEND_OPP_PATH is /elsewhere, so an ATC started here looks there' in run.stderr


def test_opp_of_the_environment_is_the_one_that_is_filled(install, tmp_path):
    (tmp_path / 'opp' / 'built-in').mkdir(parents=True)
    assert install(ASCEND_OPP_PATH=str(tmp_path / 'opp')).returncode == 0
    assert (tmp_path / 'opp' / 'vendors' / 'tinyllama_ros' / PLUGIN).exists()


def test_compiler_error_is_shown_and_nothing_is_installed(run, toolkit):
    (toolkit / 'include' / 'register' / 'register.h').write_text('#error of another version\n')
    before = tree(toolkit)
    found = run('--toolkit', str(toolkit))
    assert found.returncode == 1
    assert 'error: #error of another version' in found.stderr
    assert 'the plugin could not be built via cmake compiler;' in found.stderr
    assert tree(toolkit) == before


@pytest.fixture
def read_only(libregister):
    """Return a toolkit with the plugin's sources that may be read by all, and written by none."""
    folder = Path(tempfile.mkdtemp())
    toolkit = make_toolkit(folder / 'a toolkit', libregister)
    shutil.copytree(CUSTOM_OP, folder / 'custom_op')
    yield toolkit
    for path in folder.rglob('*'):
        path.chmod(0o700)
    shutil.rmtree(folder)


def run_read_only(toolkit, *arguments):
    for path in (toolkit.parent, *toolkit.parent.rglob('*')):
        path.chmod(0o555)
    return subprocess.run(
        ['bash', toolkit.parent / 'custom_op' / 'install.sh', *arguments], cwd='/',
        env={'PATH': os.environ['PATH'], 'HOME': '/', 'ASCEND_HOME_PATH': str(toolkit)},
        user=NOBODY if os.geteuid() == 0 else None, text=True, capture_output=True, timeout=60)


def test_toolkit_that_may_not_be_written_says_who_may(read_only):
    before = tree(read_only)
    run = run_read_only(read_only)
    assert run.returncode == 1
    assert f'permission to write {read_only}/opp: run this as' in run.stderr
    assert run.stderr.endswith(rf'custom_op/install.sh --toolkit {read_only.parent}/a\ toolkit'
                               '\n')
    assert tree(read_only) == before


def test_plugin_in_a_toolkit_that_may_not_be_written_is_checked_and_kept(read_only):
    subprocess.run([CUSTOM_OP / 'install.sh', '--via', 'compiler', '--toolkit', read_only],
                   check=True, capture_output=True)
    before = tree(read_only)
    assert run_read_only(read_only, '--check').returncode == 0
    run = run_read_only(read_only, '--uninstall')
    assert run.returncode == 1
    assert f'no permission to write {read_only}/opp/vendors; run: sudo ' in run.stderr
    assert tree(read_only) == before


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--frobnicate'], 'unknown argument --frobnicate; see --help'),
    (['--via', 'make'], "--via is 'make'; it must be cmake, compiler or msopgen"),
    (['--toolkit', '/nowhere'], '/nowhere is no CANN toolkit: it has no folder opp'),
])
def test_bad_argument_is_refused(install, arguments, message):
    run = install(*arguments)
    assert run.returncode == 1
    assert message in run.stderr


def test_machine_without_a_toolkit_is_told_where_it_was_looked_for(install):
    run = install(ASCEND_TOOLKIT_HOME='')
    assert run.returncode == 1
    assert 'no CANN toolkit found: neither ASCEND_TOOLKIT_HOME nor ASCEND_HOME_PATH' in run.stderr
