"""Build and install the package; written for setuptools 59 (ROS 2 Humble) and newer."""

from glob import glob
import os
from xml.etree import ElementTree

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

PACKAGE = 'tinyllama_ros'
MANIFEST = ElementTree.parse('package.xml').getroot()

RUN_TIME = [
    'aiohttp',  # serves the chat page and the OpenAI-compatible API
    'jinja2',  # renders the model's own chat template, sandboxed
    'numpy',  # logits, sampling
    'onnxruntime>=1.23',  # runs the static graph on the CPU; 1.19 attends wrongly beyond slot 0
    'prompt_toolkit>=3.0.24',  # edits prompts in the terminal, and reads pasted text whole
    'psutil',  # resident memory in the diagnostics
    'pyyaml',  # finds out for which nodes a parameter file is
    'sentencepiece',  # Llama vocabularies
    'tokenizers',  # byte-level BPE vocabularies
    'tqdm',  # progress of a compilation on the board, and of a build
    'wcwidth',  # cells of a character in the terminal
]
EXTRAS = {
    # What prepares a model; a robot that is handed a finished artifact needs none of it.
    'workbench': [
        'gguf',  # reads GGUF checkpoints
        'huggingface_hub',  # fetches checkpoints: resumes, verifies, knows mirrors
        'matplotlib',  # draws the loss over the positions of a window
        'ml_dtypes',  # bfloat16 in numpy, for safetensors; onnx needs it, too
        'onnx',  # writes the static graph
        'protobuf',  # reads and writes SentencePiece vocabularies; onnx needs it, too
        'safetensors',  # reads checkpoints; keeps what calibration gathered
    ],
    'voice': ['piper-tts'],  # voices better than espeak-ng's; it has a licence of its own, GPL 3
    # ROS 2 Jazzy for a machine without ROS. Pinned together: these versions are one release.
    'ros': [
        'ros-jazzy-diagnostic-msgs==5.3.6',  # /diagnostics
        'ros-jazzy-rclpy==7.1.6',  # nodes
        'ros-jazzy-rmw-fastrtps-cpp==8.4.3',  # the middleware below them
        'ros-jazzy-std-msgs==5.3.6',  # String, Bool, Empty
        'ros-jazzy-std-srvs==5.3.6',  # Trigger
    ],
    'test': [
        'catkin_pkg',  # checks package.xml as the ROS tools do
        'colcon-core',  # builds the package in a scratch workspace
        'colcon-ros',  # teaches colcon ament_python packages
        'hypothesis',  # property tests
        'mypy',  # checks types
        'openai',  # the real client of the API server
        'pytest',  # runs the tests
        'pytest-xdist',  # runs them on every processor of the machine
        'ruff',  # checks style
        'selenium',  # drives a real browser over the page
    ],
}


class BuildKernels(build_ext):
    """Names the library so that Python does not take it for a module."""

    def get_ext_filename(self, name):
        return os.path.join(*name.split('.')) + '.so.1'


# ONNX Runtime loads it; a machine without a compiler does without it.
KERNELS = Extension(
    f'{PACKAGE}.kernels.library',
    sources=glob(f'{PACKAGE}/kernels/*.cc'), depends=glob(f'{PACKAGE}/kernels/*.h'),
    extra_compile_args=['-std=c++17', '-O3', '-ffp-contract=off', '-fvisibility=hidden'],
    optional=True)

setup(
    name=PACKAGE,
    version=MANIFEST.findtext('version'),
    description='A small language model on the robot itself, as a ROS 2 node',
    license='Apache-2.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    ext_modules=[KERNELS],
    cmdclass={'build_ext': BuildKernels},
    package_data={f'{PACKAGE}.workbench.quantization': ['calibration.txt'],
                  f'{PACKAGE}.web': ['static/*', 'static/vendor/*']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        (f'share/{PACKAGE}/launch', glob('launch/*.launch.py')),
        (f'share/{PACKAGE}/config', glob('config/*.yaml')),
    ],
    python_requires='>=3.10',
    install_requires=RUN_TIME,
    extras_require=EXTRAS,
    zip_safe=False,
    entry_points={
        'console_scripts': [
            'tinyllama_node = tinyllama_ros.ros.node:main',
            'tinyllama_web = tinyllama_ros.web.node:main',
            'tinyllama_speak = tinyllama_ros.voice.speak:main',
            'tinyllama-model = tinyllama_ros.commands.cli:main',
            'chat = tinyllama_ros.terminal.cli:main',
        ],
    },
)
