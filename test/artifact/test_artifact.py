"""An artifact is whole or refused by name, and nothing but a finished build replaces it."""

from dataclasses import replace
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys

import pytest
from support.paths import ROOT
from support.special_files import put_in_place, SPECIAL_FILES
from support.tiny_models import tiny

from tinyllama_ros.artifact.folder import Artifact, new_artifact, record_held_out, record_om
from tinyllama_ros.artifact.manifest import (
    CompiledGraph,
    GRAPH,
    HeldOutLoss,
    MANIFEST,
    Manifest,
    OM,
    WEIGHTS,
)
from tinyllama_ros.errors import ArtifactError, ModelError

FILES = (GRAPH, WEIGHTS, 'tokenizer.json')
COMPILED = CompiledGraph('Ascend310B4', ('atc', '--model=tiny-llama.onnx'), '8.1.RC1')


@pytest.fixture
def manifest() -> Manifest:
    model = tiny()
    return Manifest(name='tiny', quantization='fp32', recipe='', dialect='cpu', kv_length=64,
                    chunk_sizes=(1, 16), architecture=model.architecture,
                    tokenizer=model.tokenizer.settings, files={})


def write(folder: Path, manifest: Manifest, content: bytes = b'some content') -> Path:
    """Write an artifact whose files all have the same content."""
    with new_artifact(folder, manifest) as partial:
        for name in FILES:
            (partial / name).write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path, manifest) -> Path:
    return write(tmp_path / 'tiny', manifest)


def edit(folder: Path, **fields: object) -> None:
    """Change fields of a manifest; `...` leaves one out."""
    path = folder / MANIFEST
    found = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in found.items()
                                if value is not ...}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_written_artifact_opens(folder, manifest):
    artifact = Artifact.open(folder)
    assert sorted(artifact.manifest.files) == sorted(FILES)
    assert replace(artifact.manifest, files={}) == manifest
    assert artifact.graph == folder / GRAPH
    assert artifact.tokenizer == folder / 'tokenizer.json'


def test_manifest_says_its_version_and_keeps_every_character(folder, manifest):
    fields = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
    assert fields['format_version'] == 1
    named = replace(manifest, name='räksmörgås 🤖')
    assert Manifest.from_json(named.to_json()) == named


@pytest.mark.parametrize('name', FILES)
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf'/{name} is missing.*build the artifact again'):
        Artifact.open(folder)


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('size', [0, 11, 13])
def test_file_of_another_size_is_named(folder, name, size):
    (folder / name).write_bytes(bytes(size))
    with pytest.raises(ArtifactError, match=rf'/{name} has {size} bytes, its manifest says 12'):
        Artifact.open(folder)


@pytest.mark.parametrize('name', FILES)
def test_altered_file_is_named(folder, name):
    (folder / name).write_bytes(b'Some content')
    with pytest.raises(ArtifactError, match=rf'/{name} was altered: its sha256 is \w{{64}}'):
        Artifact.open(folder)


@pytest.mark.parametrize('name', FILES)
def test_file_that_the_manifest_does_not_list_is_named(folder, name):
    files = json.loads((folder / MANIFEST).read_text())['files']
    edit(folder, files={other: record for other, record in files.items() if other != name})
    with pytest.raises(ArtifactError, match=rf'manifest\.json does not list {name}; build'):
        Artifact.open(folder)


def test_artifact_whose_heads_onnx_runtime_cannot_run_is_refused_when_it_is_opened(
        folder, manifest):
    edit(folder, architecture=vars(manifest.architecture) | {'head_dim': 24})
    with pytest.raises(ArtifactError, match=r'head_dim is 24; .* multiples of 16: build for'):
        Artifact.open(folder)


@pytest.mark.parametrize('kind', SPECIAL_FILES)
@pytest.mark.parametrize('name', [*FILES, MANIFEST])
def test_what_is_no_regular_file_is_refused_by_name_and_never_opened(folder, name, kind):
    put_in_place(kind, folder / name)
    with pytest.raises(ArtifactError, match=rf'/{name} .*(cannot be read|missing)'):
        Artifact.open(folder)


@pytest.mark.parametrize('name', ['../secret', '/etc/hostname', 'sub/file', '..', '.', '',
                                  'nul\0byte'], ids=ascii)
def test_manifest_that_names_what_is_not_in_its_folder_is_refused(folder, name):
    files = json.loads((folder / MANIFEST).read_text())['files']
    edit(folder, files=files | {name: files[GRAPH]})
    with pytest.raises(ArtifactError, match='which lies outside its folder|cannot be read'):
        Artifact.open(folder)


def test_folder_without_manifest_is_no_artifact(tmp_path):
    with pytest.raises(ArtifactError, match=rf'{tmp_path} is not an artifact; make one with'):
        Artifact.open(tmp_path)


@pytest.mark.parametrize('content', [b'', b'{"format_ver', b'[]', b'null', b'{}', b'\xff\xfe',
                                     b'[' * 100000], ids=lambda content: str(content[:9]))
def test_manifest_that_is_none_is_refused(folder, content):
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=r'manifest\.json (is not a valid|cannot be read)'):
        Artifact.open(folder)


@pytest.mark.parametrize('version', [0, 2, '1', 'two', True, None, 1.0])
def test_unknown_version_is_refused(folder, version):
    edit(folder, format_version=version)
    with pytest.raises(ArtifactError, match=rf'has format version {version!r}; .* version 1'):
        Artifact.open(folder)


SHAPE, SETTINGS = vars(tiny().architecture), vars(tiny().tokenizer.settings)


@pytest.mark.parametrize('fields', [
    pytest.param({name: ...}, id=f'no_{name}') for name in (
        'name', 'kv_length', 'chunk_sizes', 'architecture', 'tokenizer', 'files')] + [
    pytest.param({'speed': 3}, id='unknown_field'),
    pytest.param({'dialect': 'latin'}, id='unknown_dialect'),
    pytest.param({'om': {}}, id='om_without_its_command'),
    pytest.param({'om': vars(COMPILED)}, id='om_of_the_cpu_dialect'),
    pytest.param({'kv_length': 1}, id='one_slot'),
    pytest.param({'kv_length': 513}, id='more_slots_than_positions'),
    pytest.param({'kv_length': '64'}, id='text_for_a_number'),
    pytest.param({'kv_length': True}, id='truth_for_a_number'),
    pytest.param({'kv_length': 64.0}, id='fraction_for_a_number'),
    pytest.param({'name': 3}, id='number_for_a_text'),
    pytest.param({'chunk_sizes': 16}, id='number_for_a_list'),
    pytest.param({'chunk_sizes': []}, id='no_chunk_size'),
    pytest.param({'chunk_sizes': [16, 1]}, id='descending_chunk_sizes'),
    pytest.param({'chunk_sizes': [0, 16]}, id='chunk_of_none'),
    pytest.param({'chunk_sizes': [1, 10 ** 9]}, id='chunk_of_more_than_there_are_positions'),
    pytest.param({'architecture': SHAPE | {'rope_base': 10 ** 400}}, id='endless_base'),
    pytest.param({'architecture': SHAPE | {'norm_eps': float('nan')}}, id='no_number'),
    pytest.param({'tokenizer': SETTINGS | {'control_tokens': {'<|im_end|>': 10 ** 9}}},
                 id='token_beyond_the_embedding'),
    pytest.param({'tokenizer': SETTINGS | {'control_tokens': {'<|im_end|>': -1}}},
                 id='token_below_zero'),
    pytest.param({'tokenizer': SETTINGS | {'control_tokens': {'<|im_end|>': 2, '<' * 2000: 3}}},
                 id='endless_control_token'),
    pytest.param({'architecture': SHAPE | {'heads': 3}}, id='heads_do_not_share_evenly'),
    pytest.param({'architecture': SHAPE | {'rope_scaling': 2}}, id='unknown_shape'),
    pytest.param({'tokenizer': SETTINGS | {'kind': 'words'}}, id='unknown_tokenizer'),
    pytest.param({'files': [GRAPH]}, id='list_for_files'),
    pytest.param({'files': {GRAPH: {'size': 3}}}, id='file_without_sha256')])
def test_missing_or_wrong_field_is_refused(folder, fields):
    edit(folder, **fields)
    with pytest.raises(ArtifactError, match=r'manifest\.json has a missing or wrong field \(.+\)'):
        Artifact.open(folder)


@pytest.mark.parametrize('layers', [1001, 10 ** 6, 10 ** 9])
def test_more_layers_than_any_model_has_are_refused(folder, layers):
    edit(folder, architecture=SHAPE | {'layers': layers})
    with pytest.raises(ArtifactError, match=rf'layers is {layers}; it must be .* at most 1000'):
        Artifact.open(folder)


@pytest.mark.parametrize(('kv_length', 'message'), [
    (1, 'kv_length is 1; a cache needs at least 2 slots'),
    (513, 'kv_length is 513; tiny was trained on at most 512 positions')])
def test_unfit_length_of_the_cache_is_refused(manifest, kv_length, message):
    with pytest.raises(ModelError, match=message):
        replace(manifest, kv_length=kv_length)


def test_new_artifact_replaces_the_old(folder, manifest):
    write(folder, replace(manifest, name='new'), b'new content')
    assert Artifact.open(folder).manifest.name == 'new'
    assert os.listdir(folder.parent) == [folder.name]


def test_folders_above_are_made(tmp_path, manifest):
    Artifact.open(write(tmp_path / 'one' / 'two' / 'tiny', manifest))


@pytest.mark.parametrize('error', [ValueError('oh'), KeyboardInterrupt(), ModelError('bad')],
                         ids=repr)
def test_failed_build_leaves_the_old_artifact(folder, manifest, error):
    before = contents(folder)
    with pytest.raises(type(error)), new_artifact(folder, manifest) as partial:
        (partial / GRAPH).write_bytes(b'half')
        raise error
    assert contents(folder) == before
    assert os.listdir(folder.parent) == [folder.name]


def test_first_build_that_fails_leaves_nothing(tmp_path, manifest):
    with pytest.raises(ValueError, match='oh'), new_artifact(tmp_path / 'tiny', manifest):
        raise ValueError('oh')
    assert os.listdir(tmp_path) == []


def build_and_be_killed(folder: Path, manifest: Manifest) -> None:
    """Write half an artifact in another process that kills itself."""
    program = f"""
import os, pathlib, signal, sys
from tinyllama_ros.artifact.folder import new_artifact
from tinyllama_ros.artifact.manifest import Manifest
with new_artifact(pathlib.Path(sys.argv[1]), Manifest.from_json(sys.stdin.read())) as partial:
    (partial / {GRAPH!r}).write_bytes(b'half')
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, '-c', program, str(folder)], text=True,
                           input=manifest.to_json(), cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL


def test_killed_build_leaves_the_old_artifact_and_the_next_clears_up(folder, manifest):
    before = contents(folder)
    build_and_be_killed(folder, manifest)
    assert contents(folder) == before
    Artifact.open(write(folder, manifest, b'new content'))
    assert os.listdir(folder.parent) == [folder.name]


def test_first_build_that_is_killed_leaves_nothing_under_the_name(tmp_path, manifest):
    build_and_be_killed(tmp_path / 'tiny', manifest)
    assert not (tmp_path / 'tiny').exists()
    Artifact.open(write(tmp_path / 'tiny', manifest))
    assert os.listdir(tmp_path) == ['tiny']


def test_what_a_build_killed_at_its_end_put_aside_is_cleared(folder, manifest):
    shutil.copytree(folder, folder.with_name('.tiny.replaced'))
    write(folder, manifest, b'new content')
    assert Artifact.open(folder).graph.read_bytes() == b'new content'
    assert os.listdir(folder.parent) == ['tiny']


def test_artifact_that_a_killed_build_put_aside_is_brought_back(folder, manifest):
    before = contents(folder)
    folder.rename(folder.with_name('.tiny.replaced'))
    with pytest.raises(ValueError, match='oh'), new_artifact(folder, manifest):
        raise ValueError('oh')
    assert contents(folder) == before


def test_full_disk_is_told_and_leaves_the_old_artifact(folder, manifest):
    before = contents(folder)
    with pytest.raises(ArtifactError, match=rf'no space left for {folder}; free some and'):
        with new_artifact(folder, manifest) as partial:
            (partial / WEIGHTS).symlink_to('/dev/full')
            (partial / WEIGHTS).write_bytes(b'content')
    assert contents(folder) == before
    assert os.listdir(folder.parent) == [folder.name]



def test_missing_permission_is_told(manifest):
    # Not even root makes files in sysfs
    with pytest.raises(ArtifactError, match=r'no permission to write /sys/.*TINYLLAMA_ROS_CACHE'):
        write(Path('/sys/tinyllama'), manifest)


def test_path_below_a_file_is_told(tmp_path, manifest):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ArtifactError, match=r'/file/tiny could not be written: .*file'):
        write(tmp_path / 'file' / 'tiny', manifest)


def test_two_builds_at_once_do_not_meet(folder, manifest):
    with new_artifact(folder, replace(manifest, name='first')) as partial:
        with pytest.raises(ArtifactError, match='another process is writing .*; wait'):
            write(folder, replace(manifest, name='second'))
        for name in FILES:
            (partial / name).write_bytes(b'first')
    assert Artifact.open(folder).manifest.name == 'first'


def test_builds_of_other_artifacts_go_on_side_by_side(folder, manifest):
    with new_artifact(folder, manifest) as partial:
        write(folder.with_name('other'), manifest)
        for name in FILES:
            (partial / name).write_bytes(b'first')
    assert sorted(os.listdir(folder.parent)) == ['other', 'tiny']


@pytest.fixture
def ascend(tmp_path, manifest) -> Artifact:
    return Artifact.open(write(tmp_path / 'ascend', replace(manifest, dialect='ascend')))


@pytest.fixture
def om(tmp_path) -> Path:
    path = tmp_path / 'scratch' / 'tiny-llama.om'
    path.parent.mkdir()
    path.write_bytes(b'an offline model')
    return path


def test_om_is_moved_into_the_artifact_and_recorded(ascend, om):
    recorded = record_om(ascend, om, COMPILED)
    assert Artifact.open(ascend.folder) == recorded
    assert recorded.manifest.om == COMPILED
    assert recorded.om.read_bytes() == b'an offline model'
    assert not om.exists()
    assert sorted(os.listdir(ascend.folder)) == sorted([*FILES, MANIFEST, OM])


def test_om_takes_the_place_of_an_older_one(ascend, om):
    recorded = record_om(ascend, om, COMPILED)
    om.write_bytes(b'another one')
    record_om(recorded, om, replace(COMPILED, toolkit=''))
    assert Artifact.open(ascend.folder).om.read_bytes() == b'another one'
    assert Artifact.open(ascend.folder).manifest.om.toolkit == ''


def test_artifact_is_sound_at_each_instant_of_recording_another_om(ascend, om, monkeypatch):
    recorded = record_om(ascend, om, COMPILED)
    om.write_bytes(b'another one')
    seen, replace_path = [], Path.replace

    def look() -> None:
        compiled = Artifact.open(ascend.folder).manifest.om
        seen.append(compiled and compiled.toolkit)

    def watched(path: Path, target: Path) -> Path:
        look()
        try:
            return replace_path(path, target)
        finally:
            look()
    monkeypatch.setattr(Path, 'replace', watched)
    record_om(recorded, om, replace(COMPILED, toolkit='new'))
    assert (seen[0], seen[-1]) == (COMPILED.toolkit, 'new')
    assert set(seen[1:-1]) == {None}


@pytest.mark.parametrize('content', [None, b'altered'], ids=['deleted', 'altered'])
def test_compiled_artifact_does_without_the_files_it_was_compiled_from(ascend, om, content):
    record_om(ascend, om, COMPILED)
    for path in (ascend.graph, ascend.folder / WEIGHTS):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    artifact = Artifact.open(ascend.folder)
    with pytest.raises(ArtifactError, match=f'/{GRAPH} (is missing|has 7 bytes)'):
        artifact.verify_graph()


def test_graph_of_a_compiled_artifact_can_be_verified(ascend, om):
    record_om(ascend, om, COMPILED).verify_graph()


@pytest.mark.parametrize('content', [None, b'cut', b'an Offline model'],
                         ids=['missing', 'cut_short', 'altered'])
def test_unsound_om_is_named(ascend, om, content):
    record_om(ascend, om, COMPILED).om.unlink()
    if content is not None:
        ascend.om.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf'/{OM} (is missing|has 3 bytes|was altered)'):
        Artifact.open(ascend.folder)


def test_om_that_the_manifest_does_not_list_is_named(ascend):
    edit(ascend.folder, om=vars(COMPILED))
    with pytest.raises(ArtifactError, match=f'does not list {OM}'):
        Artifact.open(ascend.folder)


def test_om_is_no_part_of_the_cpu_dialect(folder, om):
    before = contents(folder)
    with pytest.raises(ModelError, match='cannot come from the cpu dialect'):
        record_om(Artifact.open(folder), om, COMPILED)
    assert contents(folder) == before and om.exists()


def test_missing_om_is_told_and_changes_nothing(ascend, om):
    before = contents(ascend.folder)
    om.unlink()
    with pytest.raises(ArtifactError, match=r'could not be written: .*tiny-llama\.om'):
        record_om(ascend, om, COMPILED)
    assert contents(ascend.folder) == before


def test_what_is_recorded_of_an_artifact_does_not_undo_what_was(ascend, om):
    record_held_out(record_om(ascend, om, COMPILED), HeldOutLoss(3.0, 3.1, 40))
    manifest = Artifact.open(ascend.folder).manifest
    assert (manifest.om, manifest.held_out) == (COMPILED, HeldOutLoss(3.0, 3.1, 40))


def test_manifest_that_knows_nothing_of_an_om_is_read(ascend):
    edit(ascend.folder, om=..., held_out=...)
    assert Artifact.open(ascend.folder).manifest.om is None
