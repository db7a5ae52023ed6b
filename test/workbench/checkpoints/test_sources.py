"""From a name or a path to the reader that opens it."""

import os
import sys

import pytest
from support.special_files import put_in_place, SPECIAL_FILES
from support.tiny_models import tiny, write_folder, write_gguf, write_tokenizer

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


@pytest.mark.parametrize('kind', ['gguf', 'folder'])
@pytest.mark.parametrize('own', [True, False], ids=['has_its_own', 'has_none'])
def test_template_in_a_file_takes_the_place_of_the_models_own(tmp_path, kind, own):
    if kind == 'gguf':
        path = write_gguf(tmp_path / 'm.gguf', tiny(), **(
            {} if own else {'tokenizer__chat_template': None}))
    else:
        path = write_folder(tmp_path, tiny())
        if not own:
            write_tokenizer(tmp_path, tiny().tokenizer, chat_template=None)
    template = tmp_path / 'template.jinja'
    template.write_text('{{ messages[0].content }} \u00e9', encoding='utf-8')
    expected = tiny().tokenizer.settings.chat_template if own else ''
    assert open_checkpoint(path, tmp_path).tokenizer.settings.chat_template == expected
    given = open_checkpoint(path, tmp_path, template).tokenizer.settings
    assert given.chat_template == '{{ messages[0].content }} \u00e9'


@pytest.mark.parametrize('content', [None, b'\xff'], ids=['missing', 'not_utf_8'])
def test_template_that_cannot_be_read_is_refused_by_name(tmp_path, content):
    template = tmp_path / 'template.jinja'
    if content:
        template.write_bytes(content)
    with pytest.raises(ModelError, match=rf'the chat template {template} cannot be read as UTF-8'):
        open_checkpoint(write_gguf(tmp_path / 'm.gguf', tiny()), tmp_path, template)


def test_home_folder_is_found_in_a_path(tmp_path, monkeypatch):
    write_gguf(tmp_path / 'm.gguf', tiny())
    monkeypatch.setenv('HOME', str(tmp_path))
    assert isinstance(open_checkpoint('~/m.gguf', tmp_path / 'cache'), GgufCheckpoint)


@pytest.mark.parametrize('source', ['x' * 5000, 'a\0b', '~nobody-of-this-name/m'],
                         ids=['too_long', 'null', 'no_such_user'])
def test_path_that_no_file_can_have_is_refused(tmp_path, source):
    with pytest.raises(ModelError, match=r'the model .* cannot be opened|there is no model'):
        open_checkpoint(source, tmp_path)


@pytest.mark.parametrize('kind', SPECIAL_FILES)
@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'tokenizer.json',
                                  'tokenizer_config.json', 'generation_config.json'])
def test_what_is_no_regular_file_is_refused_by_name_and_never_opened(tmp_path, name, kind):
    write_folder(tmp_path, tiny())
    put_in_place(kind, tmp_path / name)
    with pytest.raises(ModelError, match=rf'{name} cannot be read: .*Not a regular file'):
        open_checkpoint(tmp_path, tmp_path)


@pytest.mark.parametrize('kind', sorted(set(SPECIAL_FILES) - {'folder'}))
def test_checkpoint_that_is_no_regular_file_is_never_opened(tmp_path, kind):
    put_in_place(kind, tmp_path / 'm.gguf')
    with pytest.raises(ModelError, match=r'there is no model .*m\.gguf'):
        open_checkpoint(tmp_path / 'm.gguf', tmp_path)


def test_file_that_is_too_large_to_be_read_whole_is_refused(tmp_path):
    write_folder(tmp_path, tiny())
    os.truncate(tmp_path / 'config.json', 10 ** 12)  # takes no room on the disk
    with pytest.raises(ModelError, match=r'config\.json cannot be read: .*Larger than \d+ bytes'):
        open_checkpoint(tmp_path, tmp_path)


def test_anything_else_says_what_it_can_be(tmp_path):
    with pytest.raises(ModelError, match=r"no model 'x'; give a known name \(smollm2.*\.gguf fil"):
        open_checkpoint('x', tmp_path)


def test_missing_package_is_named(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    monkeypatch.delitem(sys.modules, 'tinyllama_ros.workbench.checkpoints.gguf_checkpoint')
    monkeypatch.setitem(sys.modules, 'gguf', None)
    with pytest.raises(ModelError, match=r'needs the Python package gguf.*pip install gguf'):
        open_checkpoint(path, tmp_path)
