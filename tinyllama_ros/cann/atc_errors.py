"""What ATC's failures mean, and what to do about them."""

import re

_SHAPES = ('the graph and the options that this program gave do not match; build the artifact '
           'again; if that does not help, report it to the project')
_MODULE = ("ATC's compiler runs in Python and could not: it needs one of the versions that CANN "
           'supports, first on PATH, with the packages that it names; run: python3 -m pip install '
           "'numpy<2' attrs decorator scipy psutil cloudpickle tornado synr==0.5.0 sympy absl-py "
           'cffi ml-dtypes')

MEMORY = 'memory'

# A pattern of an output line, and what to do; the first pattern that matches any line is used.
# Codes: https://github.com/hicann/ge, docs/en/user_guides/error_codes; those of CANN 6 to 8 as
# they are quoted in public issues.
FAILURES = (
    (r'(?:E16002|E19010|EZ9010|E13010|E10501|EZ0501|[Nn]o (?:ONNX )?parser is).*MatMulInteger',
     'ATC does not know that operator yet: run custom_op/install.sh of the sources of '
     'tinyllama_ros; if it has run, custom_op/install.sh --check says what is wrong'),
    (r'E16002|E19010|EZ9010|[Nn]o (?:ONNX )?parser is registered|E13010|E10501|EZ0501',
     'this CANN does not have that operator, or the environment mixes two versions of CANN: '
     'source the set_env.sh of one toolkit, 8.0.RC2 or newer, in a new shell'),
    (r'EZ3002|EZ3003|No supported Ops kernel',
     'this CANN has no kernel of that operator for this chip and number type: check '
     "--soc-version and, from CANN 8.5 on, that the chip's ops package is installed; if both are "
     'right, build with --quant fp16, and report it'),
    (r'E16005|has no responding version',
     'the graph imports more than one operator set: build the artifact again'),
    (r'E10001.*soc_version|E10054.*soc_version|soc_version.*(?:invalid|not support)',
     'this CANN does not know that chip: give --soc-version Ascend and the name that '
     'npu-smi info shows, such as Ascend310B4 (8T board) or Ascend310B1 (20T board); from CANN '
     "8.5 on, that chip's ops package must be installed, too"),
    (r'E10001|E10007|E10054', 'this CANN refuses that option; this program was written for '
     '8.0.RC2 to 9.0'),
    (r'E10011|E10049|E10040|E10016', _SHAPES),
    (r'E10009|E10035|E10036|E10038', f'the gears are not what ATC takes: {_SHAPES}'),
    (r'E13001|E13003', 'a file of the graph could not be read; build the artifact again'),
    (r'E13023', 'one section of the .om would exceed 4 GiB: the model is too large; build it with '
     '--quant w8a8, or with fewer slots (--kv-length)'),
    (r'removed in the NumPy 2|compiled using NumPy 1',
     "ATC's compiler takes no NumPy 2: python3 -m pip install 'numpy<2'"),
    (r'E40001|libpython3\.\d+\.so', 'ATC loads Python as a shared library and does not find it: '
     'install the one that the message names (such as sudo apt install libpython3.10), or add its '
     'folder to LD_LIBRARY_PATH'),
    (r'EOFError|task_distribute|main process disappeared|compiler process died', MEMORY),
    (r'E40021|E20001', 'an operator could not be compiled: build the artifact with one chunk '
     'length, as it is by default; if that does not help, with --quant fp16; and report the log '
     'of tinyllama-model atc --log info'),
    (r'E400\d\d|EC0010|No module named', _MODULE),
    (r'libascend_hal\.so', 'that file belongs to the driver, which needs an NPU; without one, use '
     'the stub of the toolkit: export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:'
     '$ASCEND_HOME_PATH/$(uname -m)-linux/devlib'),
    (r'error while loading shared libraries|cannot open shared object',
     'the environment of the toolkit is not set: source its set_env.sh, and try again'),
    (r'No space left|E13025', 'free some space on the disk, and try again'),
    (r'\bKilled\b|out of memory|[Cc]annot allocate memory|MemoryError|bad_alloc|exit abnormally',
     MEMORY),
)


def find_failure(output: str) -> tuple[str, str] | None:
    """Return the line that shows best why ATC failed, and what to do (or MEMORY)."""
    lines = output.splitlines()
    for pattern, remedy in FAILURES:
        for line in lines:
            if re.search(pattern, line):
                return line.strip(), remedy
    return None


def last_line(output: str) -> str:
    """Return the line of an unknown failure that most likely says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    codes = [line for line in lines if re.search(r'\bE[A-Z0-9]\d{4}\b', line)]
    return next(iter([*codes, *reversed(lines)]), 'it printed nothing')
