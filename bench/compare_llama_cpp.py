r"""
This project and llama.cpp on the same machine, in the same run, in turn.

Each round runs both in a fresh process, one after the other, so that neither a warm cache nor a
busy neighbour favours one of them; the ratios are of the same round. What is compared:

- smollm2-135m: our W8A8 artifact and the very GGUF file that it was built from (Q4_1)
- tinyllama-1.1b: random weights of that shape, W8A8 here, Q8_0 there

llama.cpp comes as llama-cpp-python, which must be importable here. On the machine of
README.md it is built without its AMX path, which crashes there:

    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_VBMI=ON \
        -DGGML_AVX512_BF16=ON -DGGML_AVX_VNNI=ON" .venv/bin/pip install llama-cpp-python

    .venv/bin/python bench/compare_llama_cpp.py [--rounds 5] [smollm2-135m] [tinyllama-1.1b]
"""

import argparse
from collections.abc import Callable
import json
from pathlib import Path
from statistics import median
import subprocess
import sys
import time

import numpy as np
import psutil

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import artifacts_folder, default_cache, find_artifact
from tinyllama_ros.commands.cli import main as tinyllama_model
from tinyllama_ros.engine.backend import open_backend
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.host import physical_cores, prefer_plain_attention
from tinyllama_ros.workbench.checkpoints.random_checkpoint import RandomCheckpoint

KV_LENGTH = 1024
PROMPT = 512
FIRST = 200
DECODE = 64
SHAPES_COMPARED = ('smollm2-135m', 'tinyllama-1.1b')
ENGINES = ('ours', 'llama.cpp')


def prepare_ours(shape: str) -> Path:
    """Return the folder of our artifact, built where it is not there."""
    if shape == 'smollm2-135m':
        assert tinyllama_model(['build', 'smollm2-135m-instruct']) == 0
        return find_artifact('smollm2-135m-instruct-w8a8')
    assert tinyllama_model(['random', shape]) == 0
    return find_artifact(f'random-{shape}-w8a8')


def prepare_theirs(shape: str) -> Path:
    """Return the path of a GGUF file for llama.cpp, written where it is not there."""
    if shape == 'smollm2-135m':
        from tinyllama_ros.workbench.checkpoints.fetch import fetch
        return fetch('smollm2-135m-instruct', default_cache())
    path = artifacts_folder() / f'random-{shape}.Q8_0.gguf'
    if not path.exists():
        write_gguf(RandomCheckpoint.named(shape), path)
    return path


def write_gguf(checkpoint: RandomCheckpoint, path: Path) -> None:
    """Write a checkpoint as Q8_0; its vocabulary is a stand-in, for tokens are fed as numbers."""
    import gguf
    arch = checkpoint.architecture
    part = path.with_suffix('.part')
    writer = gguf.GGUFWriter(part, 'llama', use_temp_file=True)
    writer.add_context_length(arch.context_length)
    writer.add_embedding_length(arch.hidden)
    writer.add_block_count(arch.layers)
    writer.add_feed_forward_length(arch.ffn)
    writer.add_head_count(arch.heads)
    writer.add_head_count_kv(arch.kv_heads)
    writer.add_layer_norm_rms_eps(arch.norm_eps)
    writer.add_rope_freq_base(arch.rope_base)
    writer.add_rope_dimension_count(arch.head_dim)
    writer.add_vocab_size(arch.vocab_size)
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre('gpt-2')
    writer.add_token_list([f'token{index}' for index in range(arch.vocab_size)])
    writer.add_token_types([1] * arch.vocab_size)
    writer.add_token_merges(['t o'])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, arch.layers)
    for name in arch.weight_shapes():
        tensor = checkpoint.tensor(name)
        kind = gguf.GGMLQuantizationType.Q8_0 if tensor.ndim == 2 else None
        data = gguf.quants.quantize(tensor, kind) if kind else tensor
        writer.add_tensor(f'{names.get_name(name.removesuffix(".weight"))}.weight', data,
                          raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)


def run_ours(path: Path, threads: int) -> dict[str, float]:
    """Return what this project does."""
    artifact = Artifact.open(path)
    engine = Engine(lambda: open_backend('onnx', artifact, threads=threads))

    def read(tokens: list[int]) -> None:
        engine.clear()
        for _ in engine.prefill(tokens):
            pass
    return timings(read, engine.decode, artifact.manifest.architecture.vocab_size)


def run_theirs(path: Path, threads: int) -> dict[str, float]:
    """Return what llama.cpp does."""
    import llama_cpp
    model = llama_cpp.Llama(str(path), n_ctx=KV_LENGTH, n_batch=512, n_threads=threads,
                            n_threads_batch=threads, verbose=False)

    def read(tokens: list[int]) -> None:
        model.reset()
        model.eval(tokens)
    return timings(read, lambda token: model.eval([token]), model.n_vocab())


def timings(read: Callable[[list[int]], None], append: Callable[[int], None], vocab_size: int
            ) -> dict[str, float]:
    """Return speeds (tok/s), the time to the first token (s) and resident memory (MB)."""
    tokens = np.random.default_rng(0).integers(256, vocab_size, PROMPT).tolist()

    def seconds(action: Callable[[], None]) -> float:
        began_s = time.perf_counter()
        action()
        return time.perf_counter() - began_s

    def decode() -> None:
        for token in tokens[:DECODE]:
            append(token)
    read(tokens)
    prompt_s = seconds(lambda: read(tokens))
    first_s = seconds(lambda: read(tokens[:FIRST]))
    read(tokens[:16])
    decode_s = seconds(decode)
    return {'decode (tok/s)': DECODE / decode_s, 'prompt (tok/s)': PROMPT / prompt_s,
            f'first token after {FIRST} (s)': first_s,
            'resident (MB)': psutil.Process().memory_info().rss / 1e6}


def compare(shape: str, rounds: int, threads: int) -> None:
    """Print a table of both and the ratio of each round."""
    paths = {'ours': prepare_ours(shape), 'llama.cpp': prepare_theirs(shape)}
    results: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for _ in range(rounds):
        for engine in ENGINES:
            run = subprocess.run(
                [sys.executable, __file__, '--child', engine, str(paths[engine]),
                 '--threads', str(threads)], check=True, stdout=subprocess.PIPE, text=True)
            results[engine].append(json.loads(run.stdout.splitlines()[-1]))
    print(f'{shape}, {threads} threads, {rounds} rounds; median (lowest to highest)')
    print(f'{"":28}{"ours":>10}{"llama.cpp":>12}   ratio')
    for name in results['ours'][0]:
        ours, theirs = ([result[name] for result in results[engine]] for engine in ENGINES)
        # Of seconds and megabytes, less is better
        ratios = [b / a if name.endswith(('(s)', '(MB)')) else a / b
                  for a, b in zip(ours, theirs, strict=True)]
        print(f'{name:28}{median(ours):10.4g}{median(theirs):12.4g}   {median(ratios):.2f} '
              f'({min(ratios):.2f} to {max(ratios):.2f})')


def main() -> int:
    """Compare the shapes named, or be the process that one engine is measured in."""
    prefer_plain_attention()
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('shapes', nargs='*', choices=[*SHAPES_COMPARED, []],
                        help='what to compare (default: both)')
    parser.add_argument('--rounds', type=int, default=5, help='rounds (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=physical_cores(),
                        help='threads of either (default: the physical cores, %(default)s)')
    parser.add_argument('--child', nargs=2, metavar=('ENGINE', 'PATH'), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        engine, path = arguments.child
        run = run_ours if engine == 'ours' else run_theirs
        print(json.dumps(run(Path(path), arguments.threads)))
        return 0
    for shape in arguments.shapes or SHAPES_COMPARED:
        compare(shape, arguments.rounds, arguments.threads)
    return 0


if __name__ == '__main__':
    sys.exit(main())
