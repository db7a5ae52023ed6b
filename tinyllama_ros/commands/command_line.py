"""Prepare models for the robot, and measure them."""

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
import json
import logging
import os
from pathlib import Path
import sys
from typing import Any

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import artifacts_folder, default_cache, find_artifact
from tinyllama_ros.engine.backend import BACKENDS, open_backend, OPTIONS
from tinyllama_ros.errors import ArtifactError, TinyLlamaError
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.options import BuildOptions, identity, KV_LENGTH, TARGETS
from tinyllama_ros.workbench.progress import track
from tinyllama_ros.workbench.quantization.quantize import W8A16_CHOICES

DEFAULT_MODELS = {'onnx': 'smollm2-135m-instruct-w8a8', 'acl': 'smollm2-135m-instruct-w8a8-ascend'}

log = logging.getLogger(__name__)


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; results go to stdout, an error is one line on stderr."""
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    try:
        arguments = _parser().parse_args(argv)
        status: int | None = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # who read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except TinyLlamaError as error:
        print(f'tinyllama-model: {error}', file=sys.stderr)
        return 1
    except MemoryError:
        print('tinyllama-model: there is too little memory; close other programs, or do this on '
              'a larger machine', file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f'tinyllama-model: the Python package {error.name} is missing here; '
              f'run: pip install {error.name}', file=sys.stderr)
        return 1
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='tinyllama-model', description=__doc__)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    fetch = commands.add_parser('fetch', help='download a known model and verify it')
    fetch.add_argument('name', help='smollm2-135m-instruct or tinyllama-1.1b-chat')
    fetch.set_defaults(run=_fetch)

    build = commands.add_parser('build', help='make an artifact from a checkpoint')
    build.add_argument('source', help='a known name (fetched if need be), a .gguf file, or a '
                       'Hugging Face folder')
    _add_build_options(build)
    build.add_argument('--smoothing', default='refined', metavar='HOW',
                       help='of w8a8: refined; searched, the best alpha of each linear; one alpha '
                       'in 0..1; none, and then weights are rounded to the nearest, not by GPTQ '
                       '(default: %(default)s)')
    build.add_argument('--text', type=Path, metavar='FILE',
                       help="UTF-8 text to calibrate on (default: the project's own)")
    build.add_argument('--template', type=Path, metavar='FILE',
                       help="chat template (Jinja, UTF-8), for a model that has none, or in place "
                       "of its own (default: the model's own)")
    build.set_defaults(run=_build)

    random = commands.add_parser('random', help='make an artifact with random weights')
    random.add_argument('shape', help='tinyllama-1.1b, smollm2-135m or tiny')
    _add_build_options(random)
    random.set_defaults(run=_random, smoothing='none', text=None)

    adopt = commands.add_parser('adopt', help='make an artifact from an .om that others compiled')
    adopt.add_argument('om', type=Path, metavar='OM', help='the compiled model; it must keep the '
                       'contract of docs/ascend.md')
    adopt.add_argument('out', nargs='?', type=Path, metavar='OUT',
                       help=f'folder of the artifact (default: {artifacts_folder()}/NAME)')
    adopt.add_argument('--tokenizer', type=Path, required=True, metavar='FOLDER',
                       help='Hugging Face folder of the model with config.json, '
                       'tokenizer_config.json and tokenizer.model or tokenizer.json; no weights')
    adopt.add_argument('--kv-length', type=int, metavar='SLOTS', default=KV_LENGTH,
                       help='slots of the cache that it was compiled for (default: %(default)s)')
    adopt.add_argument('--chunks', type=_chunk_sizes, default=(1,), metavar='S,...',
                       help='chunk lengths that it was compiled for, ascending; several are '
                       "ATC's gears (default: 1)")
    adopt.add_argument('--soc-version', metavar='CHIP', default='', help='chip that it was '
                       'compiled for, such as Ascend310B4 (default: not checked)')
    adopt.set_defaults(run=_adopt)

    perplexity = commands.add_parser('perplexity', help='measure how well an artifact predicts '
                                     'a text')
    perplexity.add_argument('model', help='artifact: its folder, or its name in the cache folder')
    perplexity.add_argument('--text', type=Path, required=True, metavar='FILE', help='UTF-8 text')
    perplexity.add_argument('--windows', type=int, metavar='N',
                            help='take so many windows (default: all of the text)')
    perplexity.add_argument('--window', type=int, default=KV_LENGTH, metavar='TOKENS',
                            help='tokens of a window, each read into an empty cache '
                            '(default: %(default)s)')
    perplexity.add_argument('--plot', type=Path, metavar='FILE',
                            help='draw the loss of each position: .png, .svg, .pdf')
    _add_backend_options(perplexity)
    perplexity.set_defaults(run=_perplexity)

    atc = commands.add_parser('atc', help="compile an artifact's graph for an Ascend NPU")
    atc.add_argument('model', help='artifact of the ascend dialect: its folder, or its name in '
                     'the cache folder')
    atc.add_argument('--soc-version', metavar='CHIP',
                     help='what to compile for (default: the 310B that npu-smi shows, else '
                     'Ascend310B4)')
    atc.add_argument('--jobs', type=int, metavar='N',
                     help="operators to compile at once (default: 1 on a machine with 16 GB or "
                     "less, else ATC's own)")
    atc.add_argument('--log', choices=('debug', 'info', 'warning', 'error'),
                     help='let ATC log at this level, too (default: no log)')
    atc.add_argument('--force', action='store_true',
                     help='compile again even if it was compiled with the same command')
    atc.add_argument('--dry-run', action='store_true', help='only print the command')
    atc.set_defaults(run=_atc)

    bench = commands.add_parser('bench', help='measure an artifact on this machine')
    bench.add_argument('model', help='artifact: its folder, or its name in the cache folder')
    _add_backend_options(bench)
    bench.add_argument('--runs', type=int, default=5,
                       help='runs of each measurement (default: %(default)s)')
    bench.add_argument('--json', action='store_true', help='print JSON instead of a table')
    bench.set_defaults(run=_bench)

    doctor = commands.add_parser('doctor', help='say what this machine is and what it lacks')
    doctor.add_argument('model', nargs='?', help='artifact: its folder, or its name in the cache '
                        'folder (default: the default model, for the backend)')
    doctor.add_argument('--backend', choices=DEFAULT_MODELS, default='onnx',
                        help='what must work for the exit status to be 0 (default: %(default)s)')
    doctor.set_defaults(run=_doctor)
    return parser


def _add_build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('out', nargs='?', type=Path, metavar='OUT',
                        help=f'folder of the artifact (default: {artifacts_folder()}/NAME-QUANT, '
                        'or NAME-QUANT-ascend)')
    parser.add_argument('--target', choices=TARGETS, default='cpu',
                        help='what will run it: any CPU, or an Ascend NPU, for which atc compiles '
                        'it (default: %(default)s)')
    parser.add_argument('--quant', choices=sorted({quantization for target in TARGETS.values()
                                                    for quantization in target.quantizations}),
                        default='w8a8',
                        help='numbers of the weights; fp16 is for ascend only, and fp32 there for '
                        'comparisons only: its core does not multiply it (default: %(default)s)')
    parser.add_argument('--chunks', type=_chunk_sizes, default=(), metavar='S,...',
                        help='tokens of a pass, ascending; ascend takes no other, and several '
                        'make its .om larger (default: 1,16,64 for cpu, 1 for ascend)')
    parser.add_argument('--w8a16', '--fine', choices=W8A16_CHOICES, default='',
                        help='of w8a8: products, beside the head, that get activations of 16 '
                        'bits: nearer to fp32; on a CPU, reading a prompt then takes up to a '
                        'fifth longer (down) or 1.3 to 1.6 times as long (all) (default: none for '
                        'cpu, all for ascend)')
    parser.add_argument('--kv-length', type=int, metavar='SLOTS',
                        help=f'slots of the cache (default: {KV_LENGTH}, or what the model was '
                        'trained on where that is less)')
    parser.add_argument('--force', action='store_true',
                        help='build again even if the artifact exists')


def _chunk_sizes(text: str) -> tuple[int, ...]:
    """Return the numbers of a list with commas between them."""
    try:
        return tuple(int(size) for size in text.split(','))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no list of whole numbers such as 1,16') from error


def _add_backend_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--backend', choices=BACKENDS, default=next(iter(BACKENDS)),
                        help='what runs the graph (default: %(default)s)')
    for option in OPTIONS:
        parser.add_argument(f'--{option.name}', type=type(option.default), default=option.default,
                            choices=option.choices or None,
                            help=f'{option.description} (default: %(default)s)')


def _backend_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {option.name: getattr(arguments, option.name) for option in OPTIONS}


def _fetch(arguments: argparse.Namespace) -> None:
    from tinyllama_ros.workbench.checkpoints.fetch import fetch
    print(fetch(arguments.name, default_cache()))


def _build(arguments: argparse.Namespace) -> None:
    from tinyllama_ros.workbench.checkpoints.fetch import KNOWN_MODELS
    from tinyllama_ros.workbench.checkpoints.sources import open_checkpoint
    source = arguments.source
    # A known name goes before a path of the same spelling
    name = source if source in KNOWN_MODELS else name_of(Path(source))
    version = source if source in KNOWN_MODELS else identity(Path(source))
    if arguments.template:
        version += f', template {identity(arguments.template)}'
    _make(arguments, name, version,
          lambda: open_checkpoint(source, default_cache(), arguments.template))


def _random(arguments: argparse.Namespace) -> None:
    from tinyllama_ros.workbench.checkpoints.random_checkpoint import RandomCheckpoint
    name = f'random-{arguments.shape}'
    _make(arguments, name, name, lambda: RandomCheckpoint.named(arguments.shape))


def name_of(path: Path) -> str:
    """
    Return the name of a model from the path that was typed, whatever a link leads to.

    A snapshot in the cache of the Hugging Face hub, models--ORG--NAME/snapshots/COMMIT, is named
    after its repository.
    """
    path = Path(os.path.abspath(path))  # unlike resolve, it follows no link
    if path.parent.name == 'snapshots' and path.parents[1].name.startswith('models--'):
        return path.parents[1].name.rpartition('--')[2]
    return path.name.removesuffix('.gguf')


def _make(arguments: argparse.Namespace, name: str, version: str,
          source: Callable[[], Checkpoint]) -> None:
    """Build an artifact where there is none like it yet, and print its folder."""
    from tinyllama_ros.workbench.make import make_artifact
    options = BuildOptions(
        name, arguments.quant, arguments.target, arguments.kv_length, arguments.chunks,
        arguments.w8a16, arguments.smoothing, arguments.text, version)
    suffix = '' if options.target == 'cpu' else f'-{options.target}'
    folder = arguments.out or artifacts_folder() / f'{name}-{options.quantization}{suffix}'
    if arguments.force or not _holds(folder, options):
        log.info('building %s', folder)
        make_artifact(source(), folder, options)
    print(folder)


def _holds(folder: Path, options: BuildOptions) -> bool:
    """Return whether a folder holds a sound artifact of what is asked for."""
    try:
        return options.describes(Artifact.open(folder).manifest)
    except ArtifactError:
        return False


def _adopt(arguments: argparse.Namespace) -> None:
    from tinyllama_ros.workbench.adopt import adopt
    folder = arguments.out or artifacts_folder() / arguments.om.stem
    adopt(arguments.om, arguments.tokenizer, folder, kv_length=arguments.kv_length,
          chunk_sizes=arguments.chunks, soc_version=arguments.soc_version)
    print(folder)


def _perplexity(arguments: argparse.Namespace) -> None:
    """Print the perplexity of an artifact on a text."""
    from tinyllama_ros.commands.perplexity import measure_loss, text_windows
    if arguments.plot:
        from tinyllama_ros.commands.loss_plot import check_plot, plot
        check_plot(arguments.plot)
    artifact = Artifact.open(find_artifact(arguments.model))
    log.info('loading %s', artifact.folder)
    windows = text_windows(artifact, arguments.text, arguments.window, arguments.windows)
    with closing(open_backend(arguments.backend, artifact, **_backend_options(arguments))
                 ) as backend:
        *_, loss = track(measure_loss(backend, windows), 'perplexity, windows', len(windows))
    print(f'perplexity {loss.perplexity:.4f} (mean loss {loss.mean:.5f} nats over '
          f'{loss.of_positions.size} tokens, {len(windows)} windows of {arguments.window})')
    if arguments.plot:
        plot(loss, f'{artifact.folder.name} on {arguments.text.name}', arguments.plot)


def _atc(arguments: argparse.Namespace) -> None:
    """Print the command that compiles an artifact, run it, and print the artifact's folder."""
    from tinyllama_ros.cann.compiling import compile_artifact, plan
    artifact = Artifact.open(find_artifact(arguments.model))
    conversion, notes = plan(artifact, arguments.soc_version, jobs=arguments.jobs,
                             log=arguments.log)
    for note in notes:
        print(note, file=sys.stderr)
    print(conversion.shell_line, flush=True)
    if not arguments.dry_run:
        compile_artifact(artifact, conversion, force=arguments.force)
        print(artifact.folder)


def _bench(arguments: argparse.Namespace) -> None:
    from tinyllama_ros.commands.measure import as_table, measure
    measurements = measure(find_artifact(arguments.model), backend=arguments.backend,
                           runs=arguments.runs, **_backend_options(arguments))
    print(json.dumps([*map(vars, measurements)], indent=1) if arguments.json
          else as_table(measurements))


def _doctor(arguments: argparse.Namespace) -> int:
    """Print what this machine is and what it lacks; return 0 where the backend works."""
    from tinyllama_ros.commands.doctor import examine, FAULT
    status = 0
    for finding in examine(arguments.backend,
                           arguments.model or DEFAULT_MODELS[arguments.backend]):
        print(finding, flush=True)
        status |= finding.state == FAULT
    return status
