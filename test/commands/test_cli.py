import json
import os
from pathlib import Path
import subprocess
import sys

import pytest
from support.paths import ROOT
from support.tiny_models import tiny, write_gguf

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import WEIGHTS
from tinyllama_ros.commands import command_line, measure as bench
from tinyllama_ros.commands.cli import main
from tinyllama_ros.commands.command_line import name_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('TINYLLAMA_ROS_CACHE', str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    monkeypatch.setattr(bench, 'MEMORY', 1 << 20)


def test_artifact_is_built_under_its_default_name_and_printed(cache, capsys):
    assert main(['random', 'tiny']) == 0
    folder = cache / 'artifacts' / 'random-tiny-w8a8'
    assert capsys.readouterr().out == f'{folder}\n'
    assert Artifact.open(folder).manifest.kv_length == 512  # what the shape was "trained" on


def test_artifact_for_ascend_has_a_name_of_its_own(cache, capsys):
    assert main(['random', 'tiny', '--target', 'ascend', '--quant', 'fp16']) == 0
    folder = cache / 'artifacts' / 'random-tiny-fp16-ascend'
    assert capsys.readouterr().out == f'{folder}\n'
    manifest = Artifact.open(folder).manifest
    assert (manifest.dialect, manifest.quantization, manifest.chunk_sizes) == (
        'ascend', 'fp16', (1,))


KINDS = {
    '': ('cpu', 'w8a8', 'none', 512, (1, 16, 64)),
    '--chunks 1,8': ('cpu', 'w8a8', 'none', 512, (1, 8)),
    '--w8a16 down': ('cpu', 'w8a8', 'down', 512, (1, 16, 64)),
    '--kv-length 64': ('cpu', 'w8a8', 'none', 64, (1, 16, 64)),
    '--quant fp32': ('cpu', 'fp32', '', 512, (1, 16, 64)),
    '--target ascend': ('ascend', 'w8a8', 'all', 512, (1,)),
    '--target ascend --chunks 1,16': ('ascend', 'w8a8', 'all', 512, (1, 16)),
    '--target ascend --w8a16 down': ('ascend', 'w8a8', 'down', 512, (1,)),
    '--target ascend --quant fp16': ('ascend', 'fp16', '', 512, (1,)),
}
"""Options, and the artifact that they make."""


@pytest.mark.parametrize('options', KINDS)
def test_artifact_is_what_is_asked_for_whatever_was_there(cache, options):
    for other in ('', '--target ascend', options):
        assert main(['random', 'tiny', str(cache / 'out'), *other.split()]) == 0
        for asked in (options, other):
            assert main(['random', 'tiny', str(cache / 'out'), *asked.split()]) == 0
            made = Artifact.open(cache / 'out').manifest
            assert KINDS[asked] == (made.dialect, made.quantization, made.w8a16, made.kv_length,
                                    made.chunk_sizes)


@pytest.mark.parametrize('options', KINDS)
def test_sound_artifact_is_not_built_again(cache, options):
    build = ['random', 'tiny', str(cache / 'out'), *options.split()]
    path = cache / 'out' / WEIGHTS
    main(build)
    before = path.stat().st_mtime_ns
    assert main(build) == 0
    assert path.stat().st_mtime_ns == before
    assert main([*build, '--force']) == 0
    assert path.stat().st_mtime_ns > before


@pytest.mark.parametrize('text', ['', '1,', 'one', '1;16', '1.5'])
def test_chunks_that_are_no_numbers_are_refused(capsys, text):
    with pytest.raises(SystemExit):
        main(['random', 'tiny', '--chunks', text])
    assert f'--chunks: {text!r} is no list of whole numbers such as 1,16' in (
        capsys.readouterr().err)


def test_another_model_in_the_folder_is_not_taken_for_this_one(cache):
    main(['random', 'tiny', str(cache / 'out')])
    write_gguf(cache / 'other.gguf', tiny())
    assert main(['build', str(cache / 'other.gguf'), str(cache / 'out'), '--smoothing', 'none',
                 '--kv-length', '512']) == 0
    assert Artifact.open(cache / 'out').manifest.name == 'other'


def test_changed_checkpoint_is_built_anew_and_the_same_one_is_not(cache):
    build = ['build', str(cache / 'model.v0.3.gguf'), '--smoothing', 'none', '--kv-length', '64']
    path = cache / 'artifacts' / 'model.v0.3-w8a8' / WEIGHTS
    stamps = []
    for layers in (1, 1, 2):
        if not stamps or layers == 2:
            write_gguf(cache / 'model.v0.3.gguf', tiny(layers=layers))
        assert main(build) == 0
        stamps.append(path.stat().st_mtime_ns)
    assert stamps[0] == stamps[1] < stamps[2]


def test_gguf_without_a_template_is_refused_until_one_is_given(cache, capsys):
    write_gguf(cache / 'base.gguf', tiny(), tokenizer__chat_template=None)
    build = ['build', str(cache / 'base.gguf'), str(cache / 'out'), '--smoothing', 'none']
    assert main(build) == 1
    assert 'has no chat template' in capsys.readouterr().err
    template = cache / 'template.jinja'
    stamps = []
    for text in ('{{ messages[0].content }}', '{{ messages[0].content }}', 'Hi!'):
        if not stamps or text == 'Hi!':
            template.write_text(text)
        assert main([*build, '--template', str(template)]) == 0
        manifest = Artifact.open(cache / 'out').manifest
        assert manifest.tokenizer.chat_template == text
        stamps.append((cache / 'out' / WEIGHTS).stat().st_mtime_ns)
    assert stamps[0] == stamps[1] < stamps[2]


def test_damaged_artifact_is_built_anew(cache):
    main(['random', 'tiny', str(cache / 'out')])
    (cache / 'out' / WEIGHTS).write_bytes(b'')
    assert main(['random', 'tiny', str(cache / 'out')]) == 0
    Artifact.open(cache / 'out')


@pytest.mark.parametrize(('arguments', 'message'), [
    (['fetch', 'gpt-5'], "model 'gpt-5' is unknown; known: smollm2-135m-instruct"),
    (['build', 'no-such-model'], "there is no model 'no-such-model'"),
    (['random', 'huge'], "shape 'huge' is unknown; known: tinyllama-1.1b"),
    (['random', 'tiny', '--kv-length', '4096'], 'kv_length is 4096; random-tiny was trained on'),
    (['random', 'tiny', '--chunks', '16,1'], 'chunk_sizes are (16, 1); they must ascend from'),
    (['random', 'tiny', '--quant', 'fp16'], "quantization 'fp16' is unknown for the target cpu"),
    (['random', 'tiny', '--kv-length', '0'], 'kv_length is 0; a cache needs at least 2 slots'),
    (['random', 'tiny', '--kv-length', '1'], 'kv_length is 1; a cache needs at least 2 slots'),
    (['bench', 'nothing'], "there is no artifact 'nothing'"),
], ids=' '.join)
def test_error_is_one_line_and_status_1(capsys, arguments, message):
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ''
    assert captured.err.startswith(f'tinyllama-model: {message}')
    assert captured.err.count('\n') == 1


def test_reader_who_has_seen_enough_is_no_fault():
    reader, writer = os.pipe()
    os.close(reader)
    command = 'import sys; from tinyllama_ros.commands.cli import main; sys.exit(main(["doctor"]))'
    done = subprocess.run([sys.executable, '-c', command], stdout=writer, stderr=subprocess.PIPE,
                          text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, '')


def test_bench_measures_what_the_readme_says(capsys):
    main(['random', 'tiny'])
    capsys.readouterr()
    assert main(['bench', 'random-tiny-w8a8', '--runs', '1', '--json']) == 0
    found = {row['name']: row for row in json.loads(capsys.readouterr().out)}
    assert {'verify', 'load', 'resident memory', 'of that, outside the graph',
            'time to first token, 20 tokens', 'time to first token, 200 tokens',
            'read bandwidth', 'read bandwidth used at fill 0',
            'chunk 1 at fill 0', 'chunk 64 at fill 448'} <= found.keys()
    assert all(row['lowest'] <= row['median'] <= row['highest'] for row in found.values())
    assert all(row['median'] > 0 for row in found.values())


@pytest.mark.parametrize(('slots', 'chunks'), [
    (2, {'1 at fill 0', '1 at fill 1'}),
    (48, {'1 at fill 0', '1 at fill 24', '1 at fill 32', '16 at fill 0', '16 at fill 24',
          '16 at fill 32'}),
    (64, {'1 at fill 0', '16 at fill 0', '64 at fill 0'}),
    (100, {f'{size} at fill {fill}' for size in (1, 16, 64) for fill in (0, 36)}),
], ids=lambda value: value if isinstance(value, int) else '')
def test_bench_of_a_short_cache_leaves_out_what_does_not_fit(cache, capsys, slots, chunks):
    main(['random', 'tiny', str(cache / 'short'), '--kv-length', str(slots)])
    capsys.readouterr()
    assert main(['bench', str(cache / 'short'), '--runs', '1', '--json']) == 0
    names = {row['name'] for row in json.loads(capsys.readouterr().out)}
    assert {name.removeprefix('chunk ') for name in names if name.startswith('chunk ')} == chunks


def test_bench_without_runs_is_refused(capsys):
    main(['random', 'tiny'])
    assert main(['bench', 'random-tiny-w8a8', '--runs', '0']) == 1
    assert capsys.readouterr().err.endswith('tinyllama-model: runs is 0; it must be 1 or above\n')


def test_bench_prints_a_table_with_units(capsys):
    main(['random', 'tiny'])
    assert main(['bench', 'random-tiny-w8a8', '--runs', '1']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith('load ') and line.endswith('  s') for line in lines)


@pytest.mark.parametrize(('typed', 'name'), [
    ('models/robot.gguf', 'robot'),
    ('models/../other', 'other'),
    ('hub/models--org--Tiny-Chat/snapshots/0123abcd', 'Tiny-Chat'),
    ('hub/models--org--Tiny-GGUF/snapshots/0123abcd/tiny-q4.gguf', 'tiny-q4'),
    ('link.gguf', 'link'),
])
def test_model_is_named_after_what_was_typed_or_after_its_repository(
        tmp_path, monkeypatch, typed, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'blobs').mkdir()
    (tmp_path / 'blobs' / ('e3b0' * 16)).touch()
    (tmp_path / 'link.gguf').symlink_to(tmp_path / 'blobs' / ('e3b0' * 16))
    assert name_of(Path(typed)) == name


@pytest.mark.parametrize(('arguments', 'lines'), [
    ('bench random-tiny-w8a8 --runs 1', ['verifying and loading', 'speed, runs: 0 of 1',
                                         'read bandwidth, runs: 0 of 1', 'answer, runs: 0 of 2']),
    ('perplexity random-tiny-w8a8 --text text.txt --window 8 --windows 2',
     ['loading', 'perplexity, windows: 0 of 2']),
    ('build model.gguf out', ['building', 'reading the weights', 'calibrate: 0 of ',
                              'smooth: 0 of 9', 'write model: 0 of 4', 'measure the loss: 0 of ']),
], ids=['bench', 'perplexity', 'build'])
def test_long_command_says_what_it_does_where_stderr_is_no_terminal(cache, monkeypatch, arguments,
                                                                    lines):
    monkeypatch.chdir(cache)
    main(['random', 'tiny'])
    write_gguf(cache / 'model.gguf', tiny())
    (cache / 'text.txt').write_text('A robot is a machine that can do many things. ' * 9)
    program = ('import sys; from tinyllama_ros.commands.cli import main; '
               'sys.exit(main(sys.argv[1:]))')
    done = subprocess.run([sys.executable, '-c', program, *arguments.split()], text=True,
                          capture_output=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    rest = iter(done.stderr.splitlines())
    for line in lines:
        assert any(text.startswith(line) for text in rest), (line, done.stderr)


def test_command_that_finds_too_little_memory_is_an_error_in_one_line(monkeypatch, capsys):
    def fail(model):
        raise MemoryError
    monkeypatch.setattr(command_line, 'find_artifact', fail)
    assert command_line.run(['bench', 'm']) == 1
    assert capsys.readouterr().err.startswith('tinyllama-model: there is too little memory; ')
