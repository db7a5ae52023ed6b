"""The tokenizer that a checkpoint describes, against the one it was written from."""

import json

from hypothesis import given, strategies as st
import pytest
from sentencepiece import SentencePieceProcessor
from support.tiny_models import (
    bpe_tokenizer,
    sentencepiece_tokenizer,
    tiny,
    write_gguf,
    write_tokenizer,
)
from support.tiny_tokenizers import sentencepiece_file
from tokenizers import Tokenizer

from tinyllama_ros.chat.tokenizer import BpeTokenizer, SentencePieceTokenizer
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.chat_check import open_tokenizer
from tinyllama_ros.workbench.checkpoints.folder_vocabulary import tokenizer_from_folder
from tinyllama_ros.workbench.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllama_ros.workbench.checkpoints.gguf_vocabulary import tokenizer_from_metadata
from tinyllama_ros.workbench.checkpoints.named_values import NamedValues
from tinyllama_ros.workbench.checkpoints.sentencepiece_model import (
    Piece,
    PieceType,
    read_pieces,
    write_pieces,
)

TEXT = st.text(st.sampled_from('the robot answers 12345\n\t\u00e9\U0001f916<|im_start|>[]'))


def bpe(file):
    return Tokenizer.from_str(file.content.decode())


def pieces_metadata(path, pieces, embedding=None, **changes):
    """Return GGUF metadata for SentencePiece pieces; __ for the dot after tokenizer.ggml."""
    values = {'model': 'llama', 'tokens': [piece.text for piece in pieces],
              'scores': [piece.score for piece in pieces],
              'token_type': [int(piece.type) for piece in pieces],
              'bos_token_id': 1, 'eos_token_id': 2} | changes
    return NamedValues(path, {'tokenizer.chat_template': 'x', 'llama.vocab_size': embedding} | {
        f'tokenizer.ggml.{key}': value for key, value in values.items()})


@pytest.fixture(scope='module')
def gguf_tokenizer(tmp_path_factory):
    path = write_gguf(tmp_path_factory.mktemp('gguf') / 'm.gguf', tiny())
    return GgufCheckpoint(path).tokenizer


def test_gguf_settings_come_back(gguf_tokenizer):
    assert gguf_tokenizer.settings == bpe_tokenizer().settings


@given(text=TEXT)
def test_gguf_bpe_encodes_as_the_original(gguf_tokenizer, text):
    assert bpe(gguf_tokenizer).encode(text).ids == bpe(bpe_tokenizer()).encode(text).ids


@pytest.mark.parametrize(('words', 'pieces'), [
    ('smollm', ['go', ' a', ' ', '1', '2', '3', '4', '!']),
    ('gpt-2', ['go', ' a', ' 1234', '!']),
    ('llama-bpe', ['go', ' a', ' ', '123', '4', '!']),
])
def test_each_pre_tokenizer_cuts_its_own_way(tmp_path, words, pieces):
    path = write_gguf(tmp_path / 'm.gguf', tiny(), tokenizer__ggml__pre=words)
    cut = bpe(GgufCheckpoint(path).tokenizer).pre_tokenizer.pre_tokenize_str('go a 1234!')
    assert [text.replace('\u0120', ' ') for text, _ in cut] == pieces


@pytest.mark.parametrize(('words', 'is_whole'), [('llama-bpe', True), ('gpt-2', False)])
def test_only_llama_takes_a_word_of_the_vocabulary_past_the_merges(tmp_path, words, is_whole):
    metadata = pieces_metadata(
        tmp_path, [Piece(text, 0.0, PieceType.NORMAL) for text in ('a', 'b', 'ab')],
        model='gpt2', pre=words, merges=[])
    ids = bpe(tokenizer_from_metadata(metadata)).encode('ab').ids
    assert ids == ([2] if is_whole else [0, 1])


@pytest.mark.parametrize(('text', 'is_found'), [('robotics', True), ('<|tool|>', False)])
def test_gguf_bpe_finds_user_defined_text_but_nothing_that_looks_special(text, is_found):
    letters = [Piece(letter, 0.0, PieceType.NORMAL) for letter in 'robtics<|>l']
    metadata = pieces_metadata(
        'm.gguf', [*letters, Piece(text, 0.0, PieceType.USER_DEFINED)], model='gpt2', merges=[])
    ids = bpe(tokenizer_from_metadata(metadata)).encode(text).ids
    assert (len(letters) in ids) == is_found


@pytest.mark.parametrize(('metadata', 'message'), [
    ({'tokenizer__ggml__pre': 'qwen2'}, "'qwen2' is not supported; supported: gpt-2, smollm, lla"),
    ({'tokenizer__ggml__model': 'bert'}, "'bert' is not supported; supported: gpt2"),
    ({'tokenizer__ggml__eos_token_id': 9999}, r'eos_token_id is 9999, the vocabulary ends at'),
    ({'tokenizer__ggml__eos_token_id': None}, r'eos_token_id is missing'),
    ({'tokenizer__ggml__merges': ['nope nope']}, r'm\.gguf: the vocabulary cannot be used'),
    ({'tokenizer__ggml__token_type': [1]}, r'tokens, 1 types and \d+ scores; their numbers must'),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_unfit_gguf_vocabulary_is_refused(tmp_path, metadata, message):
    path = write_gguf(tmp_path / 'm.gguf', tiny(), **metadata)
    with pytest.raises(ModelError, match=message):
        GgufCheckpoint(path)


def test_unknown_token_type_is_refused(tmp_path):
    pieces = read_pieces(sentencepiece_file())[0]
    metadata = pieces_metadata(tmp_path, pieces, token_type=[9] * len(pieces))
    with pytest.raises(ModelError, match=r'token_type: 9 is not a valid PieceType'):
        tokenizer_from_metadata(metadata)


def test_token_that_stands_twice_is_refused(tmp_path):
    pieces = [Piece('<s>', 0.0, PieceType.CONTROL)] * 3
    metadata = pieces_metadata(tmp_path, pieces, model='gpt2')
    with pytest.raises(ModelError, match='two tokens have the same text'):
        tokenizer_from_metadata(metadata)


@given(text=TEXT)
def test_gguf_sentencepiece_encodes_as_the_original(text):
    pieces = read_pieces(sentencepiece_file())[0]
    made = tokenizer_from_metadata(pieces_metadata('m.gguf', pieces))
    original = SentencePieceProcessor(model_proto=sentencepiece_file())
    made_ids = SentencePieceProcessor(model_proto=made.content).encode(text)
    assert made_ids == original.encode(text)


def test_gguf_sentencepiece_settings_follow_llama(tmp_path):
    pieces = read_pieces(sentencepiece_file())[0]
    settings = tokenizer_from_metadata(pieces_metadata(tmp_path, pieces)).settings
    assert (settings.bos_token, settings.eos_token, settings.add_bos) == ('<s>', '</s>', True)


def test_gguf_sentencepiece_without_dummy_prefix(tmp_path):
    pieces = read_pieces(sentencepiece_file())[0]
    made = tokenizer_from_metadata(pieces_metadata(tmp_path, pieces, add_space_prefix=False))
    assert SentencePieceProcessor(model_proto=made.content).encode('a', out_type=str) == ['a']


@pytest.mark.parametrize(('kind', 'text', 'is_control'), [
    (PieceType.CONTROL, '<|im_start|>', True), (PieceType.USER_DEFINED, '<|im_start|>', True),
    (PieceType.USER_DEFINED, '[INST]', True), (PieceType.USER_DEFINED, 'robot', False)])
def test_only_what_looks_special_becomes_control(tmp_path, kind, text, is_control):
    pieces = [*read_pieces(sentencepiece_file())[0], Piece(text, 0.0, kind)]
    made = tokenizer_from_metadata(pieces_metadata(tmp_path, pieces))
    ids = SentencePieceProcessor(model_proto=made.content).encode(text)
    assert (text in made.settings.control_tokens) == is_control
    assert (len(pieces) - 1 in ids) != is_control


def test_gguf_token_that_is_not_marked_special_is_text_in_an_answer(tmp_path):
    pieces = [*read_pieces(sentencepiece_file())[0], Piece('<think>', 0.0, PieceType.USER_DEFINED),
              Piece('<turn>', 0.0, PieceType.CONTROL)]
    made = tokenizer_from_metadata(pieces_metadata(tmp_path, pieces))
    assert made.settings.text_tokens == (len(pieces) - 2,)
    tokenizer = SentencePieceTokenizer(made.content, made.settings.control_tokens,
                                       made.settings.text_tokens)
    assert [tokenizer.token_bytes(len(pieces) - place) for place in (2, 1)] == [b'<think>', b'']


def test_gguf_ends_of_turn_and_message_end_an_answer(tmp_path):
    pieces = read_pieces(sentencepiece_file())[0]
    metadata = pieces_metadata(tmp_path, pieces, eot_token_id=300, eom_token_id=301)
    settings = tokenizer_from_metadata(metadata).settings
    assert settings.stop_tokens == (2, 300, 301)
    assert {pieces[300].text, pieces[301].text} <= settings.control_tokens.keys()


def write_stops(folder, tokenizer, **stops):
    write_tokenizer(folder, tokenizer)
    for name, value in stops.items():
        (folder / f'{name}.json').write_text(json.dumps({'eos_token_id': value}))
    return tokenizer_from_folder(folder).settings


both = pytest.mark.parametrize('tokenizer', [bpe_tokenizer(), sentencepiece_tokenizer()],
                               ids=['bpe', 'sentencepiece'])


@both
@pytest.mark.parametrize(('stops', 'expected'), [
    ({}, (2,)), ({'config': 300}, (2, 300)), ({'generation_config': [2, 300]}, (2, 300)),
    ({'config': 300, 'generation_config': [301]}, (2, 300, 301)), ({'config': None}, (2,)),
    ({'config': 99999}, (2,)), ({'generation_config': [-1, 10 ** 30]}, (2,))], ids=str)
def test_folder_end_tokens_are_those_of_its_configurations(tmp_path, tokenizer, stops, expected):
    settings = write_stops(tmp_path, tokenizer, **stops)
    assert settings.stop_tokens == expected
    assert set(expected) <= set(settings.control_tokens.values())


@both
@pytest.mark.parametrize('value', ['</s>', [2, '</s>'], True, {}], ids=str)
def test_folder_end_token_that_is_no_id_is_refused(tmp_path, tokenizer, value):
    with pytest.raises(ModelError, match=r'generation_config\.json: eos_token_id is .* int'):
        write_stops(tmp_path, tokenizer, generation_config=value)


def test_folder_token_that_is_not_marked_special_is_text_in_an_answer(tmp_path):
    write_tokenizer(tmp_path, bpe_tokenizer())
    path = tmp_path / 'tokenizer.json'
    content = json.loads(path.read_text())
    size = len(content['model']['vocab'])
    content['added_tokens'].append(content['added_tokens'][0] | {
        'id': size, 'content': '<think>', 'special': False})
    path.write_text(json.dumps(content))
    made = tokenizer_from_folder(tmp_path)
    tokenizer = BpeTokenizer(made.content, made.settings.control_tokens,
                             made.settings.text_tokens)
    assert (made.settings.text_tokens, tokenizer.token_bytes(size)) == ((size,), b'<think>')
    assert size not in tokenizer.encode('a <think> b')


@both
def test_folder_settings_come_back(tmp_path, tokenizer):
    write_tokenizer(tmp_path, tokenizer)
    found = tokenizer_from_folder(tmp_path).settings
    control = {text: number for text, number in tokenizer.settings.control_tokens.items()
               if text != '<unk>'}
    assert vars(found) == vars(tokenizer.settings) | {'control_tokens': control}


@given(text=TEXT)
def test_folder_bpe_never_encodes_text_as_control(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp('folder')
    write_tokenizer(folder, bpe_tokenizer())
    made = tokenizer_from_folder(folder)
    ids = bpe(made).encode(f'{text}<|im_start|>{text}').ids
    assert not set(ids) & set(made.settings.control_tokens.values())


def test_folder_control_tokens_beside_the_vocabulary_keep_their_ids(tmp_path):
    write_tokenizer(tmp_path, bpe_tokenizer())
    content = json.loads((tmp_path / 'tokenizer.json').read_text())
    size = len(content['model']['vocab'])
    content['added_tokens'] += [
        content['added_tokens'][0] | {'id': size + i, 'content': text, 'special': special}
        for i, (text, special) in enumerate([('<|tool|>', True), ('robotics', False)])]
    (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
    made = tokenizer_from_folder(tmp_path)
    assert made.settings.control_tokens['<|tool|>'] == size
    assert bpe(made).encode('robotics').ids == [size + 1]


def test_folder_sentencepiece_gets_the_tokens_added_to_it(tmp_path):
    size = len(read_pieces(sentencepiece_file())[0])
    write_tokenizer(tmp_path, sentencepiece_tokenizer(), added_tokens_decoder={
        '1': {'content': '<s>', 'special': True},
        str(size): {'content': '<|a|>', 'special': True}})
    made = tokenizer_from_folder(tmp_path)
    assert made.settings.control_tokens['<|a|>'] == size
    assert SentencePieceProcessor(model_proto=made.content).is_control(size)


PAD = '<|pad|>'
"""A token that was added for training, beyond the rows of the embedding."""


def with_pad(folder, tokenizer, size):
    """Write a folder whose tokenizer has PAD as its last token, id `size`."""
    pad = {'content': PAD, 'special': True}
    write_tokenizer(folder, tokenizer, added_tokens_decoder={str(size): pad})
    if tokenizer.settings.kind == 'bpe':
        path = folder / 'tokenizer.json'
        content = json.loads(path.read_text())
        content['added_tokens'].append(content['added_tokens'][0] | pad | {'id': size})
        path.write_text(json.dumps(content))


@both
def test_folder_token_beyond_the_embedding_is_left_out(tmp_path, tokenizer):
    loaded = open_tokenizer(tokenizer)
    with_pad(tmp_path, tokenizer, loaded.vocab_size)
    (tmp_path / 'config.json').write_text(json.dumps({'vocab_size': loaded.vocab_size}))
    made = tokenizer_from_folder(tmp_path)
    assert PAD not in made.settings.control_tokens
    assert open_tokenizer(made).vocab_size == loaded.vocab_size
    (tmp_path / 'config.json').write_text(json.dumps({'vocab_size': loaded.vocab_size + 1}))
    assert tokenizer_from_folder(tmp_path).settings.control_tokens[PAD] == loaded.vocab_size


@both
def test_folder_word_beyond_the_embedding_is_refused(tmp_path, tokenizer):
    write_tokenizer(tmp_path, tokenizer)
    (tmp_path / 'config.json').write_text(json.dumps({'vocab_size': 290}))
    with pytest.raises(ModelError, match=r'the token .* has id \d+, the model knows 290 tokens'):
        tokenizer_from_folder(tmp_path)


@pytest.mark.parametrize('kind', [PieceType.CONTROL, PieceType.USER_DEFINED, PieceType.UNUSED])
def test_gguf_token_beyond_the_embedding_is_left_out(tmp_path, kind):
    pieces = read_pieces(sentencepiece_file())[0]
    metadata = pieces_metadata(tmp_path, [*pieces, Piece(PAD, 0.0, kind)], len(pieces))
    made = tokenizer_from_metadata(metadata)
    assert PAD not in made.settings.control_tokens
    assert open_tokenizer(made).vocab_size == len(pieces)


def test_gguf_word_beyond_the_embedding_is_refused(tmp_path):
    pieces = [*read_pieces(sentencepiece_file())[0], Piece('hello', 0.0, PieceType.NORMAL)]
    metadata = pieces_metadata(tmp_path, pieces, len(pieces) - 1)
    with pytest.raises(ModelError, match=r"the token 'hello' has id \d+, the model knows \d+ tok"):
        tokenizer_from_metadata(metadata)


def test_folder_sentencepiece_goes_before_json(tmp_path):
    write_tokenizer(tmp_path, bpe_tokenizer())
    write_tokenizer(tmp_path, sentencepiece_tokenizer())
    assert tokenizer_from_folder(tmp_path).settings.kind == 'sentencepiece'


@pytest.mark.parametrize('template', [
    'one', [{'name': 'tool_use', 'template': 'two'}, {'name': 'default', 'template': 'one'}]],
    ids=['string', 'list'])
def test_folder_template_comes_from_the_configuration(tmp_path, template):
    write_tokenizer(tmp_path, bpe_tokenizer(), chat_template=template)
    assert tokenizer_from_folder(tmp_path).settings.chat_template == 'one'


def test_folder_template_file_goes_before_the_configuration(tmp_path):
    write_tokenizer(tmp_path, bpe_tokenizer())
    (tmp_path / 'chat_template.jinja').write_text('from the file')
    assert tokenizer_from_folder(tmp_path).settings.chat_template == 'from the file'


@pytest.mark.parametrize('template', [
    None, '', 7, [{'name': 'rag', 'template': 'x'}], [{'template': 'x'}], [{'name': 'default'}]],
    ids=str)
def test_folder_without_a_template_for_conversations_gives_none(tmp_path, template):
    write_tokenizer(tmp_path, bpe_tokenizer(), chat_template=template)
    assert tokenizer_from_folder(tmp_path).settings.chat_template == ''


@pytest.mark.parametrize(('config', 'message'), [
    ({'eos_token': None}, r"eos_token is '', which the vocabulary does not have"),
    ({'bos_token': '<nope>'}, r"bos_token is '<nope>', which the vocabulary does not have"),
    ({'add_bos_token': 'yes'}, r"add_bos_token is 'yes'; it must be of type bool"),
], ids=['end', 'begin', 'kind'])
def test_unfit_folder_configuration_is_refused(tmp_path, config, message):
    write_tokenizer(tmp_path, bpe_tokenizer(), **config)
    with pytest.raises(ModelError, match=message):
        tokenizer_from_folder(tmp_path)


def test_folder_with_ids_left_out_is_refused(tmp_path):
    write_tokenizer(tmp_path, sentencepiece_tokenizer(),
                    added_tokens_decoder={'9999': {'content': '<|a|>'}})
    with pytest.raises(ModelError, match=r'added_tokens_decoder has a gap in its ids after \d+'):
        tokenizer_from_folder(tmp_path)


@pytest.mark.parametrize('model', [
    {'model': {'type': 'Unigram', 'vocab': []}},
    {'pre_tokenizer': None}, {'pre_tokenizer': {'type': 'Metaspace'}}],
    ids=['unigram', 'no_words', 'metaspace'])
def test_tokenizer_json_of_another_kind_is_refused(tmp_path, model):
    write_tokenizer(tmp_path, bpe_tokenizer())
    content = json.loads((tmp_path / 'tokenizer.json').read_text()) | model
    (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r'is not a byte-level BPE; put the tokenizer\.model'):
        tokenizer_from_folder(tmp_path)


@pytest.mark.parametrize(('change', 'message'), [
    ({'model': {'type': 'BPE', 'merges': []}}, r'model\.vocab is missing'),
    ({'model': {'type': 'BPE', 'vocab': ['a'], 'merges': []}}, r'model\.vocab is .* of type dict'),
    ({'added_tokens': [{'id': 1}]}, r"added_tokens has \{'id': 1\}; it must be a token with"),
    ({'added_tokens': [{'content': 'x'}]}, r"the token 'x' has the id None; it must be"),
    ({'added_tokens': ['x']}, r"added_tokens has 'x'; it must be a token"),
    ({'pre_tokenizer': 'ByteLevel'}, r'is not a byte-level BPE'),
], ids=['no words', 'list of words', 'no content', 'no id', 'bare text', 'bare name'])
def test_malformed_tokenizer_json_is_refused(tmp_path, change, message):
    write_tokenizer(tmp_path, bpe_tokenizer())
    path = tmp_path / 'tokenizer.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=rf'{path}:? {message}'):
        tokenizer_from_folder(tmp_path)


@pytest.mark.parametrize('decoder', [
    {'nine': {'content': 'x'}}, {'9999': {'special': True}}, {'9999': 'x'}],
    ids=['id', 'content', 'bare text'])
def test_malformed_added_token_is_refused(tmp_path, decoder):
    write_tokenizer(tmp_path, sentencepiece_tokenizer(), added_tokens_decoder=decoder)
    with pytest.raises(ModelError, match=rf'{tmp_path}/.*: added_tokens_decoder has '
                                         rf"'{next(iter(decoder))}' as .*must map ids to tokens"):
        tokenizer_from_folder(tmp_path)


def test_list_of_templates_that_holds_something_else_is_refused(tmp_path):
    write_tokenizer(tmp_path, bpe_tokenizer(), chat_template=['x'])
    with pytest.raises(ModelError, match=rf'{tmp_path}.* chat.template'):
        tokenizer_from_folder(tmp_path)


def test_template_file_that_is_not_utf8_is_refused(tmp_path):
    write_tokenizer(tmp_path, bpe_tokenizer())
    (tmp_path / 'chat_template.jinja').write_bytes(b'\xff')
    with pytest.raises(ModelError, match=rf"{tmp_path}/chat_template\.jinja .*can't decode byte"):
        tokenizer_from_folder(tmp_path)


def test_added_token_that_is_no_text_is_refused(tmp_path):
    size = len(read_pieces(sentencepiece_file())[0])
    write_tokenizer(tmp_path, sentencepiece_tokenizer(),
                    added_tokens_decoder={str(size): {'content': '\ud800'}})
    with pytest.raises(ModelError, match=r'config\.json is not valid JSON, .* surrogates'):
        tokenizer_from_folder(tmp_path)


@pytest.mark.parametrize('content', [b'', b'\xff\xff', sentencepiece_file()[:-3]],
                         ids=['empty', 'rubbish', 'cut'])
def test_damaged_sentencepiece_file_is_refused(tmp_path, content):
    write_tokenizer(tmp_path, sentencepiece_tokenizer())
    (tmp_path / 'tokenizer.model').write_bytes(content)
    with pytest.raises(ModelError, match=r'tokenizer\.model cannot be read: not a SentencePiece'):
        tokenizer_from_folder(tmp_path)


def test_folder_without_tokenizer_is_refused(tmp_path):
    (tmp_path / 'tokenizer_config.json').write_text('{}')
    with pytest.raises(ModelError, match=r'has no tokenizer\.model and no tokenizer\.json'):
        tokenizer_from_folder(tmp_path)


def test_sentencepiece_pieces_written_and_read_are_the_same():
    read = read_pieces(sentencepiece_file())
    assert read_pieces(write_pieces(*read)) == read


def test_sentencepiece_pieces_are_those_that_the_library_reads():
    library = SentencePieceProcessor(model_proto=sentencepiece_file())
    for number, piece in enumerate(read_pieces(sentencepiece_file())[0]):
        assert library.id_to_piece(number) == piece.text
        assert library.get_score(number) == piece.score
        assert library.is_byte(number) == (piece.type == PieceType.BYTE)


BYTE_LEVEL = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True}


def folder_with_bpe(folder, **changes):
    """Write a tokenizer of a Hugging Face folder, with parts of tokenizer.json changed."""
    write_tokenizer(folder, bpe_tokenizer())
    path = folder / 'tokenizer.json'
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
    return folder


def test_pattern_of_endless_length_is_refused(tmp_path):
    pre_tokenizer = {'type': 'Sequence', 'pretokenizers': [
        {'type': 'Split', 'pattern': {'Regex': 'a|' * 25_000}, 'behavior': 'Isolated',
         'invert': False}, {'type': 'ByteLevel'}]}
    with pytest.raises(ModelError, match=r'pre_tokenizer has a text of 50000 characters; at most'):
        tokenizer_from_folder(folder_with_bpe(tmp_path, pre_tokenizer=pre_tokenizer))


def test_pattern_that_the_library_gives_up_on_is_refused(tmp_path):
    pre_tokenizer = {'type': 'Sequence', 'pretokenizers': [
        {'type': 'Split', 'pattern': {'Regex': '(a+)+$'}, 'behavior': 'Isolated',
         'invert': False}, BYTE_LEVEL]}
    with pytest.raises(ModelError, match='the vocabulary cannot be used: .*[Rr]e(try|gex)'):
        tokenizer_from_folder(folder_with_bpe(tmp_path, pre_tokenizer=pre_tokenizer))


@pytest.mark.parametrize(('key', 'value'), [
    ('dropout', 0.5), ('continuing_subword_prefix', '##'), ('end_of_word_suffix', '</w>')])
def test_key_that_changes_how_text_is_encoded_is_refused(tmp_path, key, value):
    model = json.loads(bpe_tokenizer().content)['model'] | {key: value}
    with pytest.raises(ModelError, match=rf'tokenizer\.json: model\.{key} is .*, which is not s'):
        tokenizer_from_folder(folder_with_bpe(tmp_path, model=model))


@pytest.mark.parametrize('number', [-1, 1 << 40, True, 0.5, 'x', [0], None], ids=repr)
def test_token_with_an_impossible_id_is_refused(tmp_path, number):
    model = json.loads(bpe_tokenizer().content)['model']
    model['vocab']['new'] = number
    with pytest.raises(ModelError, match=r"the token 'new' has the id .*; it must be a whole"):
        tokenizer_from_folder(folder_with_bpe(tmp_path, model=model))
