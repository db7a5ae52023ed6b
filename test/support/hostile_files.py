"""What test/support/fuzz.py runs: each function gives one reader its damaged files."""

from functools import partial
import json
from pathlib import Path
import tempfile

import numpy as np

from support.fuzz import fuzz
from support.mutations import byte_mutations, json_mutations
from support.tiny_models import (
    bpe_tokenizer,
    sentencepiece_tokenizer,
    tiny,
    write_folder,
    write_gguf,
    write_tokenizer,
)
from tinyllama_ros.artifact.folder import Artifact, new_artifact
from tinyllama_ros.artifact.manifest import GRAPH, MANIFEST, Manifest, WEIGHTS
from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.chat.message import Message
from tinyllama_ros.chat.template import ChatTemplate
from tinyllama_ros.chat.tokenizer import load_tokenizer, open_tokenizer, Tokenizer
from tinyllama_ros.workbench.chat_check import check_chat
from tinyllama_ros.workbench.checkpoints.checkpoint import TokenizerFile
from tinyllama_ros.workbench.checkpoints.folder_vocabulary import tokenizer_from_folder
from tinyllama_ros.workbench.checkpoints.gguf_checkpoint import (
    architecture_from_metadata,
    GgufCheckpoint,
)
from tinyllama_ros.workbench.checkpoints.gguf_file import GgufFile
from tinyllama_ros.workbench.checkpoints.gguf_vocabulary import tokenizer_from_metadata
from tinyllama_ros.workbench.checkpoints.named_values import NamedValues
from tinyllama_ros.workbench.checkpoints.safetensors_checkpoint import (
    read_architecture,
    SafetensorsCheckpoint,
)
from tinyllama_ros.workbench.checkpoints.sentencepiece_model import read_pieces

TEXT = 'a robot says "hi", 42 times: <|user|> caf\u00e9 \U0001f916 ' + 'x' * 500
WORDS = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
Sources = dict[str, bytes]


def manifest() -> None:
    """Change manifest.json of an artifact."""
    model = tiny()
    whole = Manifest(name='tiny', quantization='fp32', recipe='', dialect='cpu', kv_length=64,
                     chunk_sizes=(1, 16), architecture=model.architecture,
                     tokenizer=model.tokenizer.settings, files={})
    sources = {GRAPH: b'graph', WEIGHTS: b'weights', 'tokenizer.json': model.tokenizer.content}
    folder = _scratch('manifest')
    with new_artifact(folder, whole) as partial_folder:
        _write(partial_folder, sources)
    content = (folder / MANIFEST).read_bytes()
    fuzz(partial(_read_artifact, folder), [
        *json_mutations(json.loads(content), 1, 1200), *byte_mutations(content, 1, 300)])


def _read_artifact(folder: Path, content: bytes, _: Path) -> None:
    (folder / MANIFEST).write_bytes(content)
    artifact = Artifact.open(folder)
    settings = artifact.manifest.tokenizer
    _converse(open_tokenizer(artifact), settings)


def config() -> None:
    """Change config.json of a Hugging Face folder, of both its spellings."""
    folder = write_folder(_scratch('config'), tiny())
    older = json.loads((folder / 'config.json').read_bytes())
    newer = older | {'rope_theta': None, 'rope_parameters': {
        'rope_theta': 1e4, 'rope_type': 'default', 'factor': 1.0}}
    fuzz(_read_config, [
        *json_mutations(older, 2, 500), *json_mutations(newer, 3, 500),
        *byte_mutations(json.dumps(newer).encode(), 3, 300)])


def _read_config(content: bytes, folder: Path) -> None:
    (folder / 'config.json').write_bytes(content)
    read_architecture(folder)


def tokenizer_json() -> None:
    """Change tokenizer.json of a byte-level BPE."""
    sources = _tokenizer_sources(bpe_tokenizer())
    steps = [{'type': 'Split', 'pattern': {'Regex': WORDS}, 'behavior': 'Isolated',
              'invert': False},
             {'type': 'ByteLevel', 'add_prefix_space': False, 'use_regex': False}]
    normalizers = [{'type': 'NFC'},
                   {'type': 'Replace', 'pattern': {'String': '``'}, 'content': '"'}]
    content = json.dumps(json.loads(sources['tokenizer.json']) | {
        'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': steps},
        'normalizer': {'type': 'Sequence', 'normalizers': normalizers}}).encode()
    fuzz(partial(_read_tokenizer, sources, 'tokenizer.json'), [
        *json_mutations(json.loads(content), 4, 700), *byte_mutations(content, 4, 300)])


def tokenizer_config() -> None:
    """Change tokenizer_config.json beside each kind of vocabulary."""
    for tokenizer in (bpe_tokenizer(), sentencepiece_tokenizer()):
        sources = _tokenizer_sources(tokenizer)
        value = json.loads(sources['tokenizer_config.json']) | {
            'add_bos_token': True, 'added_tokens_decoder': {
                '0': {'content': '<unk>', 'special': True},
                '400': {'content': '<pad>', 'special': True}}}
        fuzz(partial(_read_tokenizer, sources, 'tokenizer_config.json'),
             json_mutations(value, 5, 200))


def tokenizer_model() -> None:
    """Change tokenizer.model, a SentencePiece vocabulary."""
    sources = _tokenizer_sources(sentencepiece_tokenizer())
    fuzz(partial(_read_tokenizer, sources, 'tokenizer.model'),
         byte_mutations(sources['tokenizer.model'], 6, 600))


def _tokenizer_sources(tokenizer: TokenizerFile) -> Sources:
    folder = _scratch(tokenizer.settings.kind)
    write_tokenizer(folder, tokenizer)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _read_tokenizer(sources: Sources, name: str, content: bytes, folder: Path) -> None:
    _write(folder, sources | {name: content})
    tokenizer = tokenizer_from_folder(folder)
    check_chat(tokenizer, 1 << 20)
    _converse(load_tokenizer(tokenizer.content, tokenizer.settings), tokenizer.settings)


def safetensors() -> None:
    """Change a safetensors file, most of all its header."""
    folder = write_folder(_scratch('safetensors'), tiny())
    sources = {path.name: path.read_bytes() for path in folder.iterdir()}
    content = sources['model.safetensors']
    size = 8 + int.from_bytes(content[:8], 'little')
    header = [(label, len(changed).to_bytes(8, 'little') + changed + content[size:])
              for label, changed in json_mutations(json.loads(content[8:size]), 7, 500)]
    fuzz(partial(_read_safetensors, sources), [*header, *byte_mutations(content, 7, 500)])


def _read_safetensors(sources: Sources, content: bytes, folder: Path) -> None:
    _write(folder, sources | {'model.safetensors': content})
    checkpoint = SafetensorsCheckpoint(folder)
    np.abs(checkpoint.tensor('model.norm.weight')).max()


def index() -> None:
    """Change the index of a folder with several safetensors files."""
    folder = write_folder(_scratch('index'), tiny(), shards=2)
    sources = {path.name: path.read_bytes() for path in folder.iterdir()}
    name = 'model.safetensors.index.json'
    fuzz(partial(_read_index, sources, name), json_mutations(json.loads(sources[name]), 8, 200))


def _read_index(sources: Sources, name: str, content: bytes, folder: Path) -> None:
    _write(folder, sources | {name: content})
    SafetensorsCheckpoint(folder)


def gguf() -> None:
    """Change a GGUF file, most of all its header."""
    content = write_gguf(_scratch('gguf') / 'm.gguf', tiny()).read_bytes()
    fuzz(_read_gguf, byte_mutations(content, 9, 700))


def metadata() -> None:
    """Change values of GGUF metadata, with a vocabulary of each kind."""
    bpe = GgufFile(write_gguf(_scratch('metadata') / 'm.gguf', tiny())).metadata
    pieces, _ = read_pieces(sentencepiece_tokenizer().content)
    other = bpe | {'tokenizer.ggml.model': 'llama', 'tokenizer.ggml.add_space_prefix': True,
                   'tokenizer.ggml.unknown_token_id': 0,
                   'tokenizer.ggml.bos_token_id': 1, 'tokenizer.ggml.eos_token_id': 2,
                   'tokenizer.ggml.tokens': [piece.text for piece in pieces],
                   'tokenizer.ggml.token_type': [piece.type for piece in pieces],
                   'tokenizer.ggml.scores': [piece.score for piece in pieces]}
    for values in (bpe, other):
        fuzz(_read_metadata, json_mutations(values, 10, 300))


def _read_metadata(content: bytes, folder: Path) -> None:
    values = json.loads(content)
    if not isinstance(values, dict):
        return  # a GGUF file cannot hold that
    named = NamedValues(folder / 'm.gguf', values)
    architecture_from_metadata(named, tied=True)
    tokenizer = tokenizer_from_metadata(named)
    check_chat(tokenizer, 1 << 20)
    _converse(load_tokenizer(tokenizer.content, tokenizer.settings), tokenizer.settings)


def _read_gguf(content: bytes, folder: Path) -> None:
    path = folder / 'm.gguf'
    path.write_bytes(content)
    checkpoint = GgufCheckpoint(path)
    checkpoint.tensor('model.norm.weight')


def _converse(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    """Do with a tokenizer what a conversation does."""
    tokenizer.decode(tokenizer.encode(TEXT))
    template = ChatTemplate(settings, tokenizer)
    template.end_of_turn()
    tokenizer.decode(template.encode([Message('system', TEXT), Message('user', TEXT)]))


def _scratch(name: str) -> Path:
    folder = Path(tempfile.mkdtemp()) / name
    folder.mkdir()
    return folder


def _write(folder: Path, sources: Sources) -> None:
    for name, content in sources.items():
        (folder / name).write_bytes(content)
