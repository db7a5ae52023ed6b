"""
Opens and writes artifacts (folders with one prepared model), and verifies their files.

::

    manifest.json          architecture, kv_length, tokenizer, sha256 of every other file
    decoder.onnx           the static graph
    decoder.onnx.data      its weights, at page boundaries, so that they can be mapped
    decoder.om             the static graph as ATC compiled it; only in the Ascend dialect
    tokenizer.json | tokenizer.model

If there is a decoder.om, the ONNX files are needed only to compile again: they may be deleted, and
opening the artifact does not read them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
import os
from pathlib import Path
import shutil
from typing import Any

from tinyllama_ros.artifact.disk import (
    digest_of,
    disk_errors,
    open_file,
    read_file,
    replacing,
    scratch_beside,
    sha256_of,
    Stamp,
    stamp_of,
    sync,
)
from tinyllama_ros.artifact.manifest import (
    CompiledGraph,
    FileRecord,
    GRAPH,
    HeldOutLoss,
    MANIFEST,
    Manifest,
    OM,
    WEIGHTS,
)
from tinyllama_ros.errors import ArtifactError, model_command


@dataclass(frozen=True)
class Artifact:
    """A folder whose files have the sizes and checksums of its manifest."""

    folder: Path
    manifest: Manifest
    stamps: dict[str, Stamp] = field(default_factory=dict, compare=False)
    """Stamps of the files, by name, when they were verified."""

    @classmethod
    def open(cls, folder: Path) -> 'Artifact':
        """
        Return the artifact in a folder, after verifying every file that is needed to run it.

        :raises ArtifactError: names the file that is missing, cut short or altered.
        """
        path = folder / MANIFEST
        try:
            manifest = Manifest.from_json(read_file(path).decode())
        except FileNotFoundError as error:
            raise ArtifactError(f'{path} is missing, so {folder} is not an artifact; make one '
                                f'with {model_command()} build') from error
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f'{path} cannot be read ({error})') from error
        except ArtifactError as error:
            raise ArtifactError(f'{path} {error}; build the artifact again') from error
        artifact = cls(folder, manifest)
        sources = {GRAPH, WEIGHTS}
        artifact._require({manifest.tokenizer.file_name} | ({OM} if manifest.om else sources))
        not_needed = sources if manifest.om else set()
        for name in manifest.files:
            if name not in not_needed:
                artifact._verify(name)
        return artifact

    def verify_graph(self) -> None:
        """
        Verify the ONNX files, which `open` skips in a compiled artifact.

        :raises ArtifactError: names the file that is missing, cut short or altered.
        """
        self._require({GRAPH, WEIGHTS})
        for name in (GRAPH, WEIGHTS):
            self._verify(name)

    def _verify(self, name: str) -> None:
        path, record = self.folder / name, self.manifest.files[name]
        if path.parent != self.folder or '\0' in name:
            raise ArtifactError(f'{self.folder / MANIFEST} names {name!r}, which lies outside its '
                                'folder')
        try:
            with open_file(path) as file:
                self.stamps[name], size = stamp_of(file), os.fstat(file.fileno()).st_size
                sha256 = digest_of(file) if size == record.size else ''
        except OSError as error:
            raise ArtifactError(f'{path} is missing or cannot be read ({error.strerror}); build '
                                'the artifact again') from error
        if size != record.size:
            raise ArtifactError(f'{path} has {size} bytes, its manifest says '
                                f'{record.size}; it was cut short or altered: build the artifact '
                                'again')
        if sha256 != record.sha256:
            raise ArtifactError(f'{path} was altered: its sha256 is {sha256}, its manifest says '
                                f'{record.sha256}; build the artifact again')

    def _require(self, names: set[str]) -> None:
        if missing := names - self.manifest.files.keys():
            raise ArtifactError(f'{self.folder / MANIFEST} does not list {min(missing)}; '
                                'build the artifact again')

    @property
    def graph(self) -> Path:
        """Path of the static graph in ONNX."""
        return self.folder / GRAPH

    @property
    def om(self) -> Path:
        """Path of the static graph as ATC compiled it; the file need not exist."""
        return self.folder / OM

    @property
    def tokenizer(self) -> Path:
        """Path of the tokenizer's file."""
        return self.folder / self.manifest.tokenizer.file_name


def record_held_out(artifact: Artifact, loss: HeldOutLoss) -> None:
    """Write into an artifact's manifest what its quantisation lost."""
    _rewrite(artifact, held_out=loss)


def record_om(artifact: Artifact, om_path: Path, compiled: CompiledGraph) -> Artifact:
    """
    Move a compiled .om into an artifact, replace an earlier one, and record it in the manifest.

    A process that is killed meanwhile leaves the artifact as it was, or as one that is not
    compiled yet.

    :return: the artifact as it is now.
    :raises ModelError: the artifact is of the CPU dialect.
    :raises ArtifactError: no space; no permission; there is no such .om.
    """
    replace(artifact.manifest, om=compiled)  # refused before anything is moved
    with disk_errors(artifact.folder), replacing(artifact.om) as part:
        shutil.move(om_path, part)
        record = _record(part)
        if artifact.manifest.om:
            without = {name: file for name, file in artifact.manifest.files.items() if name != OM}
            artifact = _rewrite(artifact, om=None, files=without)
    return _rewrite(artifact, om=compiled, files={**artifact.manifest.files, OM: record})


def _rewrite(artifact: Artifact, **changes: Any) -> Artifact:
    """Return an artifact with fields of its manifest changed, there and on disk."""
    changed = replace(artifact, manifest=replace(artifact.manifest, **changes))
    path = artifact.folder / MANIFEST
    with disk_errors(path), replacing(path) as part:
        part.write_text(changed.manifest.to_json(), encoding='utf-8')
    return changed


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, sha256_of(path))


def refuse_other(folder: Path) -> None:
    """Raise ArtifactError if a path exists and is neither an artifact nor an empty folder."""
    with disk_errors(folder):
        is_something = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if is_something and not (folder / MANIFEST).exists():
            raise ArtifactError(f'{folder} exists and is not an artifact, so it is not '
                                'overwritten; choose another folder')


@contextmanager
def new_artifact(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """
    Give an empty folder to write an artifact's files into, and rename it when they are complete.

    A build that fails or is killed leaves the artifact that was there before. If it is killed
    between the two renames at its end, the next build restores that artifact. The next build also
    deletes what a killed one has left.

    :param manifest: its files are recorded here, from what was written.
    :raises ArtifactError: another build of this artifact is under way; no space; no permission.
    """
    folder = folder.absolute()
    with scratch_beside(folder, 'partial') as scratch:
        _recover(folder)
        partial = scratch / folder.name
        partial.mkdir()
        yield partial
        files = {path.name: _record(path) for path in sorted(partial.iterdir())}
        text = replace(manifest, files=files).to_json()
        (partial / MANIFEST).write_text(text, encoding='utf-8')
        _put_in_place(partial, folder)


def _put_in_place(partial: Path, folder: Path) -> None:
    for path in partial.iterdir():
        sync(path)
    replaced = _replaced(folder)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _replaced(folder: Path) -> Path:
    """Return the name that an artifact has while another one replaces it."""
    return folder.with_name(f'.{folder.name}.replaced')


def _recover(folder: Path) -> None:
    """Restore the artifact that a killed build had renamed, or delete it where it was replaced."""
    if folder.exists():
        shutil.rmtree(_replaced(folder), ignore_errors=True)
    elif _replaced(folder).exists():
        _replaced(folder).rename(folder)
