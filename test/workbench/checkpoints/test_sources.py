"""From a name or a path to the reader that opens it."""

import sys

import pytest
from support.tiny_models import tiny, write_folder, write_gguf

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints import sources
from tinyllama_ros.workbench.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllama_ros.workbench.checkpoints.safetensors_checkpoint import SafetensorsCheckpoint
from tinyllama_ros.workbench.checkpoints.sources import open_checkpoint


def test_folder_is_opened_as_safetensors(tmp_path):
    write_folder(tmp_path, tiny())
    assert isinstance(open_checkpoint(tmp_path, tmp_path / 'cache'), SafetensorsCheckpoint)


def test_file_is_opened_as_gguf(tmp_path):
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    assert isinstance(open_checkpoint(str(path), tmp_path / 'cache'), GgufCheckpoint)


def test_known_name_is_fetched_into_the_cache(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    asked = []
    monkeypatch.setattr(sources, 'fetch', lambda *args: asked.append(args) or path)
    assert isinstance(open_checkpoint('smollm2-135m-instruct', tmp_path), GgufCheckpoint)
    assert asked == [('smollm2-135m-instruct', tmp_path)]


def test_anything_else_says_what_it_can_be(tmp_path):
    with pytest.raises(ModelError, match=r"no model 'x'; give a known name \(smollm2.*\.gguf fil"):
        open_checkpoint('x', tmp_path)


def test_missing_package_is_named(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    monkeypatch.delitem(sys.modules, 'tinyllama_ros.workbench.checkpoints.gguf_checkpoint')
    monkeypatch.setitem(sys.modules, 'gguf', None)
    with pytest.raises(ModelError, match=r'needs the Python package gguf.*pip install gguf'):
        open_checkpoint(path, tmp_path)
