"""
One file from one URL: resumed, verified, and never under its final name before it is whole.

urllib, because it is always there, knows file:// and honours the proxy variables.
"""

from collections.abc import Iterator
import hashlib
from http.client import HTTPException, HTTPResponse
import os
from pathlib import Path
from typing import BinaryIO
from urllib.request import Request, urlopen
from urllib.response import addinfourl

from tqdm import tqdm

from tinyllama_ros.errors import FetchError

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 60
_RANGE_NOT_SATISFIABLE = 416


def download(url: str, target: Path, sha256: str | None) -> None:
    """
    Bring a file to `target`, going on from `target`.part where an earlier call was cut off.

    :param sha256: None where nobody says it; then the caller has to check what is in the file.
    :raises FetchError: no connection, cut off (.part stays), or another checksum (it is deleted).
    :raises OSError: the file cannot be written.
    """
    part = part_of(target)
    with part.open('ab') as file:
        _fill(file, url, target.name)
        flush_to_disk(file)
    found = sha256_of(part) if sha256 else None
    if found != sha256:
        part.unlink()
        raise FetchError(f'{target.name} from {url} has the sha256 {found}, not {sha256}; it was '
                         'deleted: fetch again, and if that repeats, check the index it is from')
    os.replace(part, target)


def part_of(target: Path) -> Path:
    """Return the name under which a file lies until it is whole."""
    return target.with_name(f'{target.name}.part')


def sha256_of(path: Path) -> str:
    """Return the checksum of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def flush_to_disk(file: BinaryIO) -> None:
    """Return when everything written so far has reached the disk."""
    file.flush()
    os.fsync(file.fileno())


def _fill(file: BinaryIO, url: str, label: str) -> None:
    """Append to a file what it lacks; a server that sends the whole anyway begins it anew."""
    response = _open(url, file.tell())
    with response:
        if response.status != 206:
            file.truncate(0)
        kept = file.seek(0, os.SEEK_END)
        length = response.headers.get('Content-Length')
        total = kept + int(length) if length else None
        with tqdm(desc=label, initial=kept, total=total, unit='B', unit_scale=True) as progress:
            for block in _blocks(response, url):
                file.write(block)
                progress.update(len(block))
    if total is not None and file.tell() < total:
        raise FetchError(f'{url} broke off at {file.tell()} of {total} bytes; fetch again, '
                         'it goes on from there')


def _open(url: str, start: int) -> HTTPResponse | addinfourl:
    """Return the response for the bytes from `start`, or for the whole where that is refused."""
    request = Request(url, headers={'Range': f'bytes={start}-'} if start else {})
    try:
        return urlopen(request, timeout=_TIMEOUT_S)  # type: ignore[no-any-return]
    except (OSError, HTTPException, ValueError) as error:
        if start and getattr(error, 'code', None) == _RANGE_NOT_SATISFIABLE:
            return _open(url, 0)
        raise FetchError(f'{url} cannot be reached: {error}; check the connection and the '
                         'proxy variables, then fetch again') from error


def _blocks(response: HTTPResponse | addinfourl, url: str) -> Iterator[bytes]:
    try:
        while block := response.read(_BLOCK_BYTES):
            yield block
    except (OSError, HTTPException) as error:
        raise FetchError(f'{url} broke off: {error}; fetch again, '
                         'it goes on from there') from error
