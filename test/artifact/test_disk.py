"""A file is replaced whole or not at all, and a folder has one writer at a time."""

import errno
import logging
import os
from pathlib import Path
import threading

import pytest

from tinyllama_ros.artifact.disk import (
    disk_errors,
    link_or_copy,
    locked,
    part_of,
    replacing,
    scratch_beside,
    sha256_of,
)
from tinyllama_ros.errors import ArtifactError, FetchError


def test_file_gets_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / 'model.bin'
    path.write_bytes(b'old')
    with replacing(path) as part:
        part.write_bytes(b'new')
        assert path.read_bytes() == b'old'
        assert part.suffix == '.bin'
    assert path.read_bytes() == b'new'
    assert os.listdir(tmp_path) == ['model.bin']


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'model.bin'
    path.write_bytes(b'old')
    with pytest.raises(ValueError, match='oh'), replacing(path) as part:
        part.write_bytes(b'half')
        raise ValueError('oh')
    assert path.read_bytes() == b'old'
    assert not part_of(path).exists()


def test_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with locked(tmp_path):
        with pytest.raises(ArtifactError, match='another process is writing .*; wait for it to'):
            with locked(tmp_path):
                pass
    with locked(tmp_path):
        pass


def test_writer_may_wait_for_the_first(tmp_path, caplog):
    waiting, order = threading.Event(), []

    class Listener(logging.Handler):
        def emit(self, record):
            waiting.set()

    def write():
        with locked(tmp_path, wait=True):
            order.append('second')

    logger = logging.getLogger('tinyllama_ros.artifact.disk')
    listener = Listener()
    logger.addHandler(listener)
    try:
        with caplog.at_level(logging.INFO), locked(tmp_path):
            thread = threading.Thread(target=write)
            thread.start()
            assert waiting.wait(30)
            order.append('first')
        thread.join(30)
    finally:
        logger.removeHandler(listener)
    assert order == ['first', 'second']


def test_folder_that_was_renamed_meanwhile_is_not_locked(tmp_path, monkeypatch):
    folder = tmp_path / 'new'
    folder.mkdir()
    open_folder = os.open

    def open_and_rename(path, flags):
        descriptor = open_folder(path, flags)
        folder.rename(tmp_path / 'done')
        return descriptor

    monkeypatch.setattr(os, 'open', open_and_rename)
    with pytest.raises(ArtifactError, match='has just finished; try again'), locked(folder):
        pass


@pytest.mark.parametrize(('number', 'message'), [
    (errno.ENOSPC, 'no space left for .*; free some and try again, .*TINYLLAMA_ROS_CACHE'),
    (errno.EROFS, 'no permission to write .*; choose another folder, .*TINYLLAMA_ROS_CACHE'),
    (errno.EIO, 'could not be written: .*Input/output error')])
def test_error_of_the_disk_names_the_path_and_the_remedy(tmp_path, number, message):
    with pytest.raises(FetchError, match=message), disk_errors(tmp_path, FetchError):
        raise OSError(number, os.strerror(number))


def test_checksum_is_that_of_the_content(tmp_path):
    (tmp_path / 'file').write_bytes(b'abc')
    assert sha256_of(tmp_path / 'file') == (
        'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')


def test_scratch_folder_begins_empty_and_is_gone_in_the_end(tmp_path):
    left = tmp_path / '.model.part' / 'of-a-killed-process'
    left.mkdir(parents=True)
    with pytest.raises(ValueError, match='oh'), scratch_beside(tmp_path / 'model', 'part') as path:
        assert path == left.parent and os.listdir(path) == []
        (path / 'half').touch()
        raise ValueError('oh')
    assert os.listdir(tmp_path) == []


def test_file_that_cannot_be_linked_is_copied(tmp_path, monkeypatch):
    def refuse(link, path):
        raise PermissionError(1, 'Operation not permitted')
    (tmp_path / 'a').write_text('content')
    link_or_copy(tmp_path / 'a', tmp_path / 'linked')
    monkeypatch.setattr(Path, 'hardlink_to', refuse)
    link_or_copy(tmp_path / 'a', tmp_path / 'copied')
    assert (tmp_path / 'copied').read_text() == 'content'
    assert (tmp_path / 'a').samefile(tmp_path / 'linked')
    assert not (tmp_path / 'a').samefile(tmp_path / 'copied')
