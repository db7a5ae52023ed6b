import math
import re

import numpy as np
import pytest
from support import numpy_llama
from support.tiny_models import tiny

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.chat.tokenizer import open_tokenizer
from tinyllama_ros.commands.cli import main
from tinyllama_ros.commands.loss_plot import BANDS, bands, plot
from tinyllama_ros.commands.perplexity import measure_loss, text_windows
from tinyllama_ros.engine.backend import open_backend
from tinyllama_ros.errors import ConfigError
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.options import BuildOptions

TEXT = 'The robot went to the kitchen and looked for the cup that Ada had left there. ' * 20


@pytest.fixture(scope='module')
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp('perplexity') / 'tiny'
    build(tiny(), folder, BuildOptions(name='tiny', quantization='fp32', kv_length=128))
    return Artifact.open(folder)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text(TEXT)
    return path


def oracle_loss(tokens):
    """Return the mean negative log-likelihood of all tokens but the first, by plain NumPy."""
    logits = numpy_llama.logits(tiny(), tokens)[:-1]
    log_total = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return (log_total - logits[np.arange(len(tokens) - 1), tokens[1:]]).mean()


def test_loss_is_that_of_each_window_read_from_an_empty_cache(artifact, text):
    windows = text_windows(artifact, text, 100, 3)
    *_, loss = measure_loss(open_backend('onnx', artifact), windows)
    assert loss.of_positions.shape == (3, 99)
    assert loss.mean == pytest.approx(np.mean([oracle_loss(list(w)) for w in windows]), abs=1e-5)
    assert loss.perplexity == pytest.approx(math.exp(loss.mean))


def test_windows_are_consecutive_and_whole(artifact, text):
    tokens = open_tokenizer(artifact).encode(TEXT)
    windows = text_windows(artifact, text, 50, None)
    assert len(windows) == len(tokens) // 50
    assert np.concatenate(windows).tolist() == tokens[:len(windows) * 50]


@pytest.mark.parametrize(('window', 'windows', 'message'), [
    (1, None, r'window is 1; it must be in 2\.\.128'),
    (129, None, r'window is 129; it must be in 2\.\.128'),
    (100, 0, 'windows is 0; it must be at least 1')])
def test_numbers_out_of_range_are_refused(artifact, text, window, windows, message):
    with pytest.raises(ConfigError, match=message):
        text_windows(artifact, text, window, windows)


def test_text_without_a_whole_window_is_refused(artifact, tmp_path):
    (tmp_path / 'short.txt').write_text('Hello.')
    with pytest.raises(ConfigError, match=r'short.txt has \d tokens, which is less than one win'):
        text_windows(artifact, tmp_path / 'short.txt', 100, None)


@pytest.mark.parametrize('content', [None, b'\xff\xfe'], ids=['missing', 'not UTF-8'])
def test_text_that_cannot_be_read_is_refused(artifact, tmp_path, content):
    if content is not None:
        (tmp_path / 'bad.txt').write_bytes(content)
    with pytest.raises(ConfigError, match='bad.txt cannot be read as UTF-8 text'):
        text_windows(artifact, tmp_path / 'bad.txt', 100, None)


def test_command_prints_the_perplexity(artifact, text, capsys):
    assert main(['perplexity', str(artifact.folder), '--text', str(text), '--window', '64',
                 '--windows', '2']) == 0
    assert 'nats over 126 tokens, 2 windows of 64' in capsys.readouterr().out


def test_plot_is_drawn_on_request(artifact, text, tmp_path):
    path = tmp_path / 'loss.png'
    assert main(['perplexity', str(artifact.folder), '--text', str(text), '--window', '64',
                 '--plot', str(path)]) == 0
    assert path.read_bytes().startswith(b'\x89PNG')
    assert sorted(found.name for found in tmp_path.iterdir()) == ['loss.png', 'text.txt']


@pytest.mark.parametrize(('name', 'message'), [
    ('loss.txt', r'loss\.txt has no known file extension of a picture; use one of .*png'),
    ('nowhere/loss.png', 'the folder .*nowhere for the plot does not exist')])
def test_plot_that_could_not_be_drawn_is_refused_before_measuring(
        artifact, text, tmp_path, capsys, name, message):
    assert main(['perplexity', str(artifact.folder), '--text', str(text), '--plot',
                 str(tmp_path / name)]) == 1
    said = capsys.readouterr()
    assert re.search(message, said.err) and not said.out


def test_plot_that_cannot_be_written_leaves_nothing(artifact, text, tmp_path):
    (tmp_path / 'loss.png').mkdir()
    *_, loss = measure_loss(open_backend('onnx', artifact), text_windows(artifact, text, 64, 2))
    with pytest.raises(ConfigError, match=r'loss\.png cannot be written'):
        plot(loss, 'a title', tmp_path / 'loss.png')
    assert sorted(found.name for found in tmp_path.iterdir()) == ['loss.png', 'text.txt']


def test_bands_cover_every_position_once():
    losses = np.arange(2 * 100.0).reshape(2, 100)
    position, mean, error = bands(losses)
    assert len(position) == BANDS and np.all(np.diff(position) > 0)
    assert (position[0], position[-1]) == (0.5, 99.0)
    np.testing.assert_allclose(mean[0], losses[:, :2].mean())
    np.testing.assert_allclose(error[-1], losses[:, -1].std() / 2 ** 0.5)
