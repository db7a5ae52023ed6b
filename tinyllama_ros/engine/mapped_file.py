"""Detects changes of a file while a library has it memory-mapped."""

from pathlib import Path

from tinyllama_ros.artifact.disk import digest_of, open_file, Stamp, stamp_of
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.errors import BackendError, BackendLost
from tinyllama_ros.kernels import guard_mapped_file


class MappedFile:
    """
    A file that a library maps.

    Other programs may write to the file or cut it short, and the mapping shows that at once. So a
    result of the library is valid only if `is_unchanged` is true after it. A copy would be safe as
    well, but needs the memory or disk space of all weights a second time. If another file replaces
    it by a rename, as this project does, the mapping does not change.
    """

    def __init__(self, path: Path, stamp: Stamp | None = None, sha256: str = '') -> None:
        """
        Watch a file from now on; call this before the library opens it.

        :param stamp: the stamp of the file when it was verified, if it was.
        :param sha256: of the verified content; if empty, every change of the stamp counts.
        :raises OSError: there is no such regular file.
        """
        self.path = path
        self._file = open_file(path)
        guard_mapped_file(self._file.fileno())
        self._stamp = stamp or stamp_of(self._file)
        self._sha256 = sha256

    @classmethod
    def of(cls, artifact: Artifact, name: str) -> 'MappedFile':
        """
        Watch a file of an artifact.

        :raises BackendError: it is not the one that was verified when the artifact was opened.
        """
        path, record = artifact.folder / name, artifact.manifest.files.get(name)
        try:
            file = cls(path, artifact.stamps.get(name), record.sha256 if record else '')
        except OSError as error:
            raise BackendError(f'{path} cannot be read: {error}; build the artifact again'
                               ) from error
        if not file.is_unchanged():
            file.close()
            raise BackendError(f'{path} was altered or replaced since it was verified; load the '
                               'model again, and where that is refused, build the artifact again')
        return file

    def is_unchanged(self) -> bool:
        """
        Return whether the content of the file is the same.

        Its times also change when it is linked or deleted; then the checksum decides.
        """
        stamp = stamp_of(self._file)
        if stamp != self._stamp and digest_of(self._file) == self._sha256:
            self._stamp = stamp
        return stamp == self._stamp

    def check(self) -> None:
        """Raise BackendLost where the file changed, so that the last result may be wrong."""
        if not self.is_unchanged():
            raise BackendLost(f'{self.path} was altered or cut short while the model ran from it')

    def close(self) -> None:
        """Watch no longer; once closed it may be closed again."""
        self._file.close()
