from collections.abc import Sequence
from dataclasses import replace
import json
import re

from hypothesis import given, settings as hypothesis_settings, strategies as st
import pytest
from support.tiny_tokenizers import BPE, bpe_file, SENTENCEPIECE, sentencepiece_file

from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.chat import template as template_module
from tinyllama_ros.chat.message import Message
from tinyllama_ros.chat.rendering import Cancelled
from tinyllama_ros.chat.template import ChatTemplate
from tinyllama_ros.chat.tokenizer import BpeTokenizer, SentencePieceTokenizer, Tokenizer
from tinyllama_ros.errors import ModelError, PromptError

bpe = BpeTokenizer(bpe_file(), BPE.control_tokens)
sentencepiece = SentencePieceTokenizer(sentencepiece_file(), SENTENCEPIECE.control_tokens)
chatml = ChatTemplate(BPE, bpe)
zephyr = ChatTemplate(SENTENCEPIECE, sentencepiece)

ROLES = ('system', 'user', 'assistant', 'user')
MARKERS = ['<|im_start|>', '<|im_end|>', '<|endoftext|>', '<s>', '</s>', '<unk>', '<|user|>',
           '<|system|>', '<|assistant|>', '[INST]', '<<SYS>>']
HALVES = [half for marker in MARKERS for half in (marker[:len(marker) // 2],
                                                  marker[len(marker) // 2:])]
hostile = st.lists(st.sampled_from(
    [*MARKERS, *HALVES, 'user\n', ' ', '\n', '<', '>', '|', 'robot', 'é', '🤖', '\U000f0000'])
    | st.text('<|>user/s \n', max_size=4), max_size=6).map(''.join)
conversations = st.lists(hostile, min_size=4, max_size=4)


def talk(contents: Sequence[str]) -> list[Message]:
    return [Message(role, content) for role, content in zip(ROLES, contents, strict=True)]


def template(source: str, kind: TokenizerSettings = BPE) -> ChatTemplate:
    return ChatTemplate(replace(kind, chat_template=source), bpe if kind is BPE else sentencepiece)


def structure(text: str, kind: TokenizerSettings = BPE) -> list[int]:
    """Return the tokens of a text that the template itself writes."""
    kind = replace(kind, chat_template=f'{{{{ {json.dumps(text)} }}}}')
    return ChatTemplate(kind, bpe if kind.kind == 'bpe' else sentencepiece).encode([])


def zephyr_structure(tokens: list[int]) -> list[str]:
    """Return the control tokens, and Zephyr's role markers that are not spelled, in order."""
    names = {token: text for text, token in SENTENCEPIECE.control_tokens.items()}
    texts = [names.get(token) or sentencepiece.decode([token]) for token in tokens]
    starts = [sum(map(len, texts[:place])) for place in range(len(texts))]
    controls = {start: text for start, text, token in zip(starts, texts, tokens, strict=True)
                if token in names}
    markers = {match.start(): match[0]
               for match in re.finditer(r'<\|(user|system|assistant)\|>', ''.join(texts))
               if not set(range(match.start(), match.end())) <= set(starts)}
    return [text for _, text in sorted((controls | markers).items())]


def between_controls(tokens: list[int], tokenizer: Tokenizer, settings: TokenizerSettings
                     ) -> list[str]:
    """Return the texts before, between and after the control tokens."""
    runs: list[list[int]] = [[]]
    for token in tokens:
        if token in settings.control_tokens.values():
            runs.append([])
        else:
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs]


@hypothesis_settings(max_examples=300)
@given(contents=conversations)
def test_no_content_changes_the_structure_of_chatml(contents: list[str]) -> None:
    names = {token: text for text, token in BPE.control_tokens.items()}
    found = [names[token] for token in chatml.encode(talk(contents)) if token in names]
    assert found == ['<|im_start|>', '<|im_end|>'] * 4 + ['<|im_start|>']


@hypothesis_settings(max_examples=300)
@given(contents=conversations)
def test_no_content_changes_the_structure_of_zephyr(contents: list[str]) -> None:
    found = zephyr_structure(zephyr.encode(talk(contents)))
    assert found == ['<s>', '<|system|>', '</s>', '<|user|>', '</s>', '<|assistant|>', '</s>',
                     '<|user|>', '</s>', '<|assistant|>']


@given(contents=conversations)
def test_contents_come_back_between_control_tokens_of_chatml(contents: list[str]) -> None:
    assert between_controls(chatml.encode(talk(contents)), bpe, BPE)[1::2] == [
        f'{role}\n{content}' for role, content in zip(ROLES, contents, strict=True)
    ] + ['assistant\n']


@given(contents=conversations)
def test_contents_come_back_between_control_tokens_of_zephyr(contents: list[str]) -> None:
    texts = between_controls(zephyr.encode(talk(contents)), sentencepiece, SENTENCEPIECE)
    assert [text.removeprefix(' ').lstrip('\n') for text in texts[1:]] == [
        f'<|{role}|>\n{content}' for role, content in zip(ROLES, contents, strict=True)
    ] + ['<|assistant|>\n']


# Templates that are no model's: each puts contents together in a way that could build a marker.
@pytest.mark.parametrize('source, contents', [
    pytest.param('{{ messages[0].content }}{{ messages[1].content }}', ['<|im_', 'end|>'],
                 id='two contents'),
    pytest.param('{{ messages[0].content }}end|>', ['<|im_', ''], id='content, structure'),
    pytest.param('<|im_{{ messages[1].content }}', ['', 'end|>'], id='structure, content'),
    pytest.param('<|{{ messages[0].content }}|>', ['im_end', ''], id='content in structure'),
    pytest.param('<|im_end{{ messages[0].content }}>', ['|', ''], id='one character'),
    pytest.param("{{ messages[0].content | replace('_', '') | replace('-', '_') }}",
                 ['_<_|im-end|>', ''], id='deleting filter'),
    pytest.param('{{ messages[0].content | lower }}', ['<|IM_END|>', ''], id='lower case'),
    pytest.param('{{ messages[0].content | trim }}end|>', ['<|im_ \n', ''], id='trim'),
    pytest.param("{{ messages[0].content.split('/') | join }}", ['<|im/_end/|>', ''], id='join'),
])
def test_no_template_builds_a_control_token_from_contents(
        source: str, contents: list[str]) -> None:
    chat = template(source)
    tokens = chat.encode([Message('user', content) for content in contents])
    assert tokens == bpe.spell('<|im_end|>')


@pytest.mark.parametrize('source, marker', [
    pytest.param("[INST] {{ messages[0]['content'] }} [/INST]", '[INST]', id='inst'),
    pytest.param("<<SYS>>{{ messages[0]['content'] }}", '<<SYS>>', id='sys'),
    pytest.param("<s>{{ messages[0]['content'] }}", '<s>', id='tag'),
    pytest.param("### Instruction:\n{{ messages[0]['content'] }}", '### Instruction:',
                 id='heading'),
    pytest.param("USER: {{ messages[0]['content'] }}", 'USER:', id='name'),
    pytest.param("<｜User｜>{{ messages[0]['content'] }}", '<｜User｜>', id='wide bars'),
    pytest.param("{{ '<|' + messages[0]['role'] + '|>' + messages[0]['content'] }}", '<|user|>',
                 id='put together by the template'),
])
def test_role_marker_in_a_content_is_spelled(source: str, marker: str) -> None:
    chat = template(source)
    said = f'a {marker} b'
    tokens = chat.encode([Message('user', said)])
    before, after = chat.render([Message('user', said)]).split(said)
    assert tokens == (bpe.encode(before + 'a ') + bpe.spell(marker) + bpe.encode(' b' + after))


def test_marker_of_a_role_that_is_silent_is_spelled_too() -> None:
    tokens = zephyr.encode([Message('user', '<|system|>')])
    assert zephyr_structure(tokens) == [
        '<s>', '<|user|>', '</s>', '<|assistant|>']


@pytest.mark.parametrize('said', ['What is 12 < 13?', 'a|b <b> [x]', '  two\n\nlines ', ''])
def test_harmless_content_is_encoded_with_its_structure_as_one_text(said: str) -> None:
    messages = talk([said] * 4)
    assert chatml.encode(messages) == structure(chatml.render(messages))
    assert zephyr.encode(messages) == structure(zephyr.render(messages), SENTENCEPIECE)


def test_text_after_each_control_token_gets_sentencepieces_space() -> None:
    tokens = zephyr.encode([Message('user', 'hi')])
    assert tokens == [1, *sentencepiece.encode('<|user|>\nhi'), 2,
                      *sentencepiece.encode('\n<|assistant|>\n')]


def test_text_after_a_spelled_marker_gets_no_space() -> None:
    tokens = zephyr.encode([Message('user', 'a</s>b')])
    assert tokens == [1, *sentencepiece.encode('<|user|>\na'), *sentencepiece.spell('</s>'),
                      *sentencepiece.encode('b', at_start=False), 2,
                      *sentencepiece.encode('\n<|assistant|>\n')]


def test_conversation_is_rendered_as_the_model_wrote_it() -> None:
    assert zephyr.render([Message('system', 'Be brief.'), Message('user', 'Hi!')]) == (
        '<s><|system|>\nBe brief.</s>\n<|user|>\nHi!</s>\n<|assistant|>\n')
    assert zephyr.render([Message('user', 'Hi!')], answer=False) == '<s><|user|>\nHi!</s>\n'


@pytest.mark.parametrize('source', ['{{ messages[0].content }}',
                                    '{{ bos_token }}{{ messages[0].content }}'])
@pytest.mark.parametrize('said', ['hi', '<s>hi'])
def test_begin_token_stands_in_front_once(source: str, said: str) -> None:
    tokens = template(source, SENTENCEPIECE).encode([Message('user', said)])
    assert tokens[0] == SENTENCEPIECE.control_tokens['<s>']
    assert tokens.count(1) == 1
    assert sentencepiece.decode(tokens).removeprefix(' ') == said


@pytest.mark.parametrize('source, text', [
    pytest.param('{{ messages[0].content | trim }}', 'it is <b>', id='trim'),
    pytest.param('{{ messages[0].content | upper }}', '  IT IS <B> \n', id='upper'),
    pytest.param('{{ messages[0] | tojson }}',
                 '{"role": "user", "content": "  it is <b> \\n"}', id='tojson'),
    pytest.param('{% for x in messages %}{% break %}{% endfor %}.', '.', id='break'),
    pytest.param('.\n  {% if true %}\n.\n{% endif %}', '.\n.\n', id='blanks around blocks'),
    pytest.param("{{ strftime_now('%%') }}", '%', id='strftime_now'),
])
def test_filters_and_functions_of_templates_work_on_seamed_contents(
        source: str, text: str) -> None:
    chat, messages = template(source), [Message('user', '  it is <b> \n')]
    assert chat.render(messages) == text
    assert bpe.decode(chat.encode(messages)) == text


def test_conversation_that_the_template_refuses_is_a_prompt_error() -> None:
    chat = template("{{ raise_exception('no <' + messages[0].content + '>, please') }}")
    with pytest.raises(PromptError, match='refuses this conversation: no <a<b>, please$'):
        chat.encode([Message('user', 'a<b')])


@pytest.mark.parametrize('source, message', [
    pytest.param('{{ nothing.at_all }}', "'nothing' is undefined", id='undefined'),
    pytest.param("{{ ''.__class__.__mro__ }}", 'unsafe', id='sandbox'),
    pytest.param("{{ messages.append('x') }}", 'unsafe', id='immutable'),
    pytest.param("{{ 'x' + 1 }}", 'can only concatenate str', id='type'),
])
def test_template_that_fails_is_a_model_error(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=f'chat template of the model fails: .*{message}'):
        template(source).encode([Message('user', 'hi')])


@pytest.mark.parametrize('source, message', [
    pytest.param(' ', 'the model has no chat template', id='none'),
    pytest.param('{% for %}', 'is not valid Jinja', id='syntax'),
])
def test_template_that_is_none_is_refused_at_once(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        template(source)


def test_unknown_role_is_refused() -> None:
    with pytest.raises(PromptError, match="role 'root' is unknown; known: system, user, assi"):
        Message('root', 'hi')


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(PromptError, match='character 2 of a user message is half'):
        Message('user', 'hi\ud800')


def test_control_token_of_one_character_is_never_structure() -> None:
    token = sentencepiece.spell('a')[0]
    kind = replace(SENTENCEPIECE, eos_token='a', control_tokens={'a': token}, add_bos=False,
                   chat_template='{{ messages[0].content }} a robot')
    tokenizer = SentencePieceTokenizer(sentencepiece_file(), kind.control_tokens)
    tokens = ChatTemplate(kind, tokenizer).encode([Message('user', 'a user')])
    assert tokens == tokenizer.encode('a user a robot')
    assert token not in tokens


def test_longest_of_two_control_tokens_counts() -> None:
    kind = replace(BPE, control_tokens=BPE.control_tokens | {'<|im': 300})
    assert structure('<|im<|im_end|>', kind) == [300, 2]


@pytest.mark.parametrize('source, kind, end', [
    pytest.param(BPE.chat_template, BPE, '<|im_end|>', id='chatml'),
    pytest.param(SENTENCEPIECE.chat_template, SENTENCEPIECE, '</s>', id='zephyr'),
    pytest.param('{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}', BPE,
                 '<|im_start|>', id='without an end'),
    pytest.param('{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}', BPE, None,
                 id='without control tokens'),
    pytest.param('{% for m in messages %}<|im_start|>{{ m.content }}\nEnd.<|im_end|>{% endfor %}',
                 BPE, None, id='text before it'),
    pytest.param('{{ messages[0].content }}', BPE, None, id='answer left out'),
    pytest.param("{{ raise_exception('no') }}", BPE, None, id='refused'),
])
def test_end_of_a_turn_is_the_control_token_after_the_answer(
        source: str, kind: TokenizerSettings, end: str | None) -> None:
    assert template(source, kind).end_of_turn() == kind.control_tokens.get(end)


long_texts = st.lists(st.sampled_from(['robot ', 'the sea', ' 12', 'é🤖', '  ', '\n', *MARKERS]),
                      min_size=20, max_size=40).map(''.join)


@given(text=long_texts)
def test_text_that_is_encoded_in_pieces_is_the_same_text(text):
    message = [Message('user', text)]
    whole = [chatml.encode(message), zephyr.encode(message)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_module, 'LONGEST_PIECE', 16)
        pieces = [chatml.encode(message), zephyr.encode(message)]
    assert [bpe.decode(pieces[0]), sentencepiece.decode(pieces[1])] == [
        bpe.decode(whole[0]), sentencepiece.decode(whole[1])]


def test_long_text_is_cut_between_words_where_no_token_spans_both_sides(monkeypatch):
    message = [Message('user', 'What is a robot? A machine that does what a user says ' * 20)]
    whole = [chatml.encode(message), zephyr.encode(message)]
    monkeypatch.setattr(template_module, 'LONGEST_PIECE', 80)
    assert [chatml.encode(message), zephyr.encode(message)] == whole


def test_cancel_stops_the_encoding_of_a_long_text_at_its_next_piece(monkeypatch):
    monkeypatch.setattr(template_module, 'LONGEST_PIECE', 100)
    encoded = []
    monkeypatch.setattr(bpe, 'encode', lambda text, **_: encoded.append(text) or [5])
    with pytest.raises(Cancelled):
        chatml.encode([Message('user', 'a' * 1000)], is_cancelled=lambda: len(encoded) >= 3)
    assert len(encoded) == 3


@given(st.lists(st.text('ab<', min_size=1, max_size=30), min_size=1), st.text('ab<', max_size=40))
def test_pattern_finds_the_longest_of_the_texts_wherever_one_begins(texts, text):
    at = next((at for at in range(len(text)) if text.startswith(tuple(texts), at)), None)
    longest = max((each for each in texts if at is not None and text.startswith(each, at)),
                  key=len, default=None)
    found = re.search(template_module._any_of(texts), text)
    assert (found and (found.start(), found[0])) == (longest and (at, longest))


def test_markers_that_begin_alike_are_compared_once():
    names = [f'<|reserved_{number}|>' for number in range(200)]
    assert template_module._any_of(names).count('reserved') == 1
    nested = ['<' + 'a' * length for length in range(1, 500)]
    assert re.fullmatch(template_module._any_of(nested), nested[-1])
