"""
Opens files that others gave, writes files atomically, locks folders, and explains I/O errors.

Whatever writes a file that another process may read, or reads one that comes from elsewhere, uses
these helpers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
import errno
import fcntl
import hashlib
from io import BufferedReader, BytesIO, TextIOWrapper
import logging
import os
from pathlib import Path
import shutil
import stat

from tinyllama_ros.artifact.places import CACHE_VARIABLE
from tinyllama_ros.errors import ArtifactError, TinyLlamaError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
Stamp = tuple[int, ...]
MOST_BYTES = 200_000_000
"""Of a file that is read whole; the largest vocabularies in use have some 40 MB."""
_LOGGER = logging.getLogger(__name__)


@contextmanager
def disk_errors(path: Path, kind: type[TinyLlamaError] = ArtifactError) -> Iterator[None]:
    """Turn an OSError into a `kind` of error that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        raise kind(_explain(error, path)) from error


def open_file(path: Path) -> BufferedReader:
    """
    Open a regular file for reading.

    :raises OSError: there is none, or it is a folder, pipe, socket or device: who opens one of
        those may wait for ever, or change something.
    """
    _require_regular(path, path.stat())
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), 'rb')
    _require_regular(path, os.fstat(file.fileno()))  # it may have been replaced
    return file


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, 'Not a regular file', str(path))


def read_file(path: Path) -> bytes:
    """Return the content of a regular file; OSError where there is none, or it is too large."""
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise OSError(errno.EFBIG, f'Larger than {MOST_BYTES} bytes', str(path))
        return file.read(MOST_BYTES)


def read_text(path: Path) -> str:
    """Return the content of a regular file in UTF-8, as `read_file`, with line ends of Linux."""
    return TextIOWrapper(BytesIO(read_file(path)), encoding='utf-8').read()


def required_text(path: Path, what: str, kind: type[TinyLlamaError]) -> str:
    """Return what `read_text` does; an error of a kind says what cannot be read, and why."""
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise kind(f'{what} {path} cannot be read as UTF-8 text: {error}') from error


def stamp_of(file: BufferedReader) -> Stamp:
    """Return what changes, among other things, whenever an open file is written or cut."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """
    Hold the lock of a folder, so that two processes never write into it at once.

    :param wait: wait for another process that holds the lock.
    :raises ArtifactError: another process holds the lock, and `wait` is False.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, folder, wait=wait)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    Yield a temporary path to write a file to; then sync the file and give it its final name.

    If the block raises, the new file is deleted, and an earlier file of that name stays.
    """
    part = part_of(path)
    try:
        yield part
        sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def scratch_beside(path: Path, suffix: str) -> Iterator[Path]:
    """
    Make an empty folder beside a path, for this process alone, and delete it in the end.

    What a killed process left there is deleted first.

    :raises ArtifactError: another process uses it; or in place of an OSError.
    """
    scratch = path.absolute().with_name(f'.{path.absolute().name}.{suffix}')
    with disk_errors(path):
        scratch.mkdir(parents=True, exist_ok=True)
        with locked(scratch):
            try:
                for left in scratch.iterdir():
                    if left.is_dir() and not left.is_symlink():
                        shutil.rmtree(left)
                    else:
                        left.unlink()
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, where that is possible: a gigabyte need not be there twice."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def part_of(path: Path) -> Path:
    """Return the name of a file while it is written; it keeps its suffix."""
    return path.with_name(f'.{path.stem}.part{path.suffix}')


def sync(path: Path) -> None:
    """Return when the content of a file has reached the disk."""
    with path.open('rb') as file:
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """Return the checksum of a regular file, in hexadecimal digits."""
    with open_file(path) as file:
        return digest_of(file)


def digest_of(file: BufferedReader) -> str:
    """Return the checksum of an open file, in hexadecimal digits."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    file.seek(0)
    while count := file.readinto(buffer):
        digest.update(buffer[:count])
    return digest.hexdigest()


def _lock(descriptor: int, folder: Path, *, wait: bool) -> None:
    """Lock an open folder, and check that its path still names the same folder."""
    busy = f'another process is writing {folder}'
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise ArtifactError(f'{busy}; wait for it to end') from error
        _LOGGER.info('%s, waiting for it to end', busy)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
        raise ArtifactError(f'{busy} and has just finished; try again')  # it was renamed


def _explain(error: OSError, path: Path) -> str:
    if error.errno in _NO_SPACE:
        return (f'no space left for {path}; free some and try again, or choose a folder on a '
                f'larger disk, for example with {CACHE_VARIABLE}')
    if error.errno in _NO_PERMISSION:
        return (f'no permission to write {error.filename or path}; choose another folder, for '
                f'example with {CACHE_VARIABLE}')
    return f'{path} could not be written: {error}'
