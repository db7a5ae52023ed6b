"""
An artifact: a folder with one prepared model, and the manifest that vouches for it.

::

    manifest.json          architecture, kv_length, tokenizer, sha256 of every other file
    decoder.onnx           the static graph
    decoder.onnx.data      its weights, at page boundaries, so that they can be mapped
    decoder.om             the static graph as ATC compiled it; only in the Ascend dialect
    tokenizer.json | tokenizer.model

Once there is a decoder.om, the two files that it was compiled from are only needed to compile
again: they may be deleted, and opening the artifact does not read them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
import errno
import fcntl
import hashlib
from itertools import pairwise
import json
import os
from pathlib import Path
import shutil
from typing import Any

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.errors import ArtifactError, ModelError

FORMAT_VERSION = 1
MANIFEST = 'manifest.json'
GRAPH = 'decoder.onnx'
WEIGHTS = 'decoder.onnx.data'
OM = 'decoder.om'
DIALECTS = ('cpu', 'ascend')


@dataclass(frozen=True)
class FileRecord:
    """What a file of the artifact must be."""

    size: int
    """bytes"""
    sha256: str


@dataclass(frozen=True)
class HeldOutLoss:
    """Negative log-likelihood (nats per token) of text that was not calibrated on."""

    fp32: float
    quantized: float
    tokens: int


@dataclass(frozen=True)
class CompiledGraph:
    """How a decoder.om was compiled."""

    soc_version: str
    """The chip that it is for, such as ``Ascend310B4``; empty where nobody said."""
    command: tuple[str, ...]
    """What compiled it; empty where nobody said."""
    toolkit: str
    """Version of CANN; empty where it could not be read."""


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself."""

    name: str
    quantization: str
    """``fp32``, ``fp16`` (only in the Ascend dialect) or ``w8a8``."""
    recipe: str
    """What it was made from and how, to tell whether it has to be made again."""
    dialect: str
    """``cpu``: what the ONNX Runtime backend runs; ``ascend``: what ATC compiles."""
    kv_length: int
    """Slots of the cache."""
    chunk_sizes: tuple[int, ...]
    """
    Chunk lengths, ascending: of the CPU dialect those that the graph runs well; of the Ascend
    dialect the only ones that it is compiled for, as gears where there are several.
    """
    architecture: Architecture
    tokenizer: TokenizerSettings
    files: Mapping[str, FileRecord]
    w8a16: str = ''
    """Of w8a8: linears, out of quantize.W8A16_CHOICES, whose activations have nearly 16 bits."""
    held_out: HeldOutLoss | None = None
    """What the quantisation lost where the build measured it."""
    om: CompiledGraph | None = None
    """How decoder.om was compiled, where there is one."""

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise ModelError(f'dialect is {self.dialect!r}; known: {", ".join(DIALECTS)}')
        if self.om and self.dialect != 'ascend':
            raise ModelError(f'a compiled graph cannot come from the {self.dialect} dialect, only '
                             'from ascend')
        if self.kv_length < 2:
            raise ModelError(f'kv_length is {self.kv_length}; a cache needs at least 2 slots')
        if self.kv_length > self.architecture.context_length:
            raise ModelError(f'kv_length is {self.kv_length}; {self.name} was trained on at most '
                             f'{self.architecture.context_length} positions')
        steps = pairwise((0, *self.chunk_sizes))
        if not self.chunk_sizes or any(low >= high for low, high in steps):
            raise ModelError(f'chunk_sizes are {self.chunk_sizes}; they must ascend from above 0')

    def to_json(self) -> str:
        """Return the manifest as it stands in its file."""
        return json.dumps({'format_version': FORMAT_VERSION} | asdict(self), indent=1,
                          ensure_ascii=False) + '\n'

    @classmethod
    def from_json(cls, text: str) -> 'Manifest':
        """
        Return the manifest that a file holds.

        :raises ArtifactError: the file is of another version, or a field is missing or wrong.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            version = fields.pop('format_version')
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(f'is no manifest ({error!r})') from error
        if version != FORMAT_VERSION:
            raise ArtifactError(f'has format version {version}; this program reads version '
                                f'{FORMAT_VERSION}')
        if 'fine' in fields:  # what w8a16 was called until version 0.1
            fields['w8a16'] = fields.pop('fine')
        try:
            return cls(**fields | {
                'chunk_sizes': tuple(fields['chunk_sizes']),
                'architecture': Architecture(**fields['architecture']),
                'tokenizer': TokenizerSettings(**fields['tokenizer']),
                'files': {name: FileRecord(**record) for name, record in fields['files'].items()},
                'held_out': _held_out(fields.get('held_out')),
                'om': _compiled(fields.get('om')),
            })
        except (KeyError, TypeError, AttributeError, ModelError) as error:
            raise ArtifactError(f'has a missing or wrong field ({error})') from error


@dataclass(frozen=True)
class Artifact:
    """A folder whose files are what its manifest says."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> 'Artifact':
        """
        Return the artifact in a folder, every file of it that is needed to run verified.

        :raises ArtifactError: names the file that is missing, cut short or altered.
        """
        path = folder / MANIFEST
        try:
            manifest = Manifest.from_json(path.read_text(encoding='utf-8'))
        except FileNotFoundError as error:
            raise ArtifactError(f'{path} is missing; {folder} is no artifact: make one with '
                                'tinyllama-model build') from error
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f'{path} cannot be read ({error})') from error
        except ArtifactError as error:
            raise ArtifactError(f'{path} {error}; build the artifact again') from error
        artifact = cls(folder, manifest)
        sources = {GRAPH, WEIGHTS}
        artifact._require({manifest.tokenizer.file_name} | ({OM} if manifest.om else sources))
        spared = sources if manifest.om else set()
        for name, record in manifest.files.items():
            if name not in spared:
                _verify(folder, name, record)
        return artifact

    def verify_graph(self) -> None:
        """
        Verify the ONNX files, which opening a compiled artifact has spared.

        :raises ArtifactError: names the file that is missing, cut short or altered.
        """
        self._require({GRAPH, WEIGHTS})
        for name in (GRAPH, WEIGHTS):
            _verify(self.folder, name, self.manifest.files[name])

    def _require(self, names: set[str]) -> None:
        if missing := names - self.manifest.files.keys():
            raise ArtifactError(f'{self.folder / MANIFEST} does not vouch for {min(missing)}; '
                                'build the artifact again')

    @property
    def graph(self) -> Path:
        """Path of the static graph in ONNX."""
        return self.folder / GRAPH

    @property
    def om(self) -> Path:
        """Path of the static graph as ATC compiled it, whether there is one or not."""
        return self.folder / OM

    @property
    def tokenizer(self) -> Path:
        """Path of the tokenizer's file."""
        return self.folder / self.manifest.tokenizer.file_name


def _held_out(fields: dict[str, Any] | None) -> HeldOutLoss | None:
    return None if fields is None else HeldOutLoss(**fields)


def _compiled(fields: dict[str, Any] | None) -> CompiledGraph | None:
    return None if fields is None else CompiledGraph(
        **fields | {'command': tuple(fields['command'])})


def record_held_out(artifact: Artifact, loss: HeldOutLoss) -> None:
    """Write into an artifact's manifest what its quantisation lost."""
    _rewrite(artifact, held_out=loss)


def record_om(artifact: Artifact, om_path: Path, compiled: CompiledGraph) -> Artifact:
    """
    Move a finished .om into an artifact, in place of the one that was there, and vouch for it.

    Should it be killed meanwhile, the artifact is as it was, or one that is not compiled yet.

    :return: the artifact as it is now.
    :raises ModelError: the artifact is of the CPU dialect.
    :raises ArtifactError: no space; no permission; there is no such .om.
    """
    replace(artifact.manifest, om=compiled)  # refused before anything is moved
    part = artifact.om.with_name(f'{OM}.part')
    with disk_errors(artifact.folder):
        try:
            shutil.move(om_path, part)
            _sync(part)
            record = _record(part)
            if artifact.manifest.om:
                without = {name: file for name, file in artifact.manifest.files.items()
                           if name != OM}
                artifact = _rewrite(artifact, om=None, files=without)
            part.replace(artifact.om)
        finally:
            part.unlink(missing_ok=True)
    return _rewrite(artifact, om=compiled, files={**artifact.manifest.files, OM: record})


def _rewrite(artifact: Artifact, **changes: Any) -> Artifact:
    """Return an artifact with fields of its manifest changed, there and on disk."""
    changed = replace(artifact, manifest=replace(artifact.manifest, **changes))
    path = artifact.folder / MANIFEST
    part = path.with_name(f'{MANIFEST}.part')
    with disk_errors(path):
        part.write_text(changed.manifest.to_json(), encoding='utf-8')
        _sync(part)
        part.replace(path)
    return changed


def _verify(folder: Path, name: str, record: FileRecord) -> None:
    path = folder / name
    if path.parent != folder or '\0' in name:
        raise ArtifactError(f'{folder / MANIFEST} names {name!r}, which lies outside its folder')
    try:
        found = _record(path)
    except OSError as error:
        raise ArtifactError(f'{path} is missing or cannot be read ({error.strerror}); build the '
                            'artifact again') from error
    if found.size != record.size:
        raise ArtifactError(f'{path} has {found.size} bytes, its manifest says {record.size}; it '
                            'was cut short or altered: build the artifact again')
    if found.sha256 != record.sha256:
        raise ArtifactError(f'{path} was altered: its sha256 is {found.sha256}, its manifest says '
                            f'{record.sha256}; build the artifact again')


def _record(path: Path) -> FileRecord:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with path.open('rb', buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return FileRecord(path.stat().st_size, digest.hexdigest())


def refuse_other(folder: Path) -> None:
    """Raise ArtifactError where a folder is in use, but not as an artifact."""
    with disk_errors(folder):
        is_something = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if is_something and not (folder / MANIFEST).exists():
            raise ArtifactError(f'{folder} is or holds something that is no artifact; choose '
                                'another folder')


@contextmanager
def new_artifact(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """
    Give a folder to write an artifact's files into; it becomes the artifact when all went well.

    A build that fails or is killed leaves what was there before; should it be killed between the
    two renames that end it, the next build brings that back. Left-overs are cleared then, too.

    :param manifest: its files are recorded here, from what was written.
    :raises ArtifactError: another build of this artifact is under way; no space; no permission.
    """
    folder = folder.absolute()
    partial = folder.with_name(f'.{folder.name}.partial')
    with disk_errors(folder):
        partial.mkdir(parents=True, exist_ok=True)
        with locked(partial):
            _recover(folder)
            try:
                _empty(partial)
                yield partial
                files = {path.name: _record(path) for path in sorted(partial.iterdir())}
                text = replace(manifest, files=files).to_json()
                (partial / MANIFEST).write_text(text, encoding='utf-8')
                _put_in_place(partial, folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into an ArtifactError that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(_explain(error, path)) from error


@contextmanager
def locked(partial: Path) -> Iterator[None]:
    """Hold the folder that is being filled, so that two builds never write the same artifact."""
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), partial.stat()):
            raise BlockingIOError  # it was put in place while we reached for it
        yield
    except BlockingIOError as error:
        raise ArtifactError(f'another build is filling {partial}; wait for it to end') from error
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _put_in_place(partial: Path, folder: Path) -> None:
    for path in partial.iterdir():
        _sync(path)
    replaced = _replaced(folder)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    with path.open('rb') as file:
        os.fsync(file.fileno())


def _replaced(folder: Path) -> Path:
    """Return where an artifact lies while another takes its place."""
    return folder.with_name(f'.{folder.name}.replaced')


def _recover(folder: Path) -> None:
    """Mend what a build that was killed while it put its artifact in place has left."""
    if folder.exists():
        shutil.rmtree(_replaced(folder), ignore_errors=True)
    elif _replaced(folder).exists():
        _replaced(folder).rename(folder)


def _explain(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f'no space left for {folder}; free some, or choose another folder'
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (f'no permission to write {error.filename or folder}; choose another folder, for '
                'example with TINYLLAMA_ROS_CACHE')
    return f'{folder} could not be written: {error}'
