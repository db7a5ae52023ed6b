"""Chat templates are rendered as Transformers does, and none of them renders for ever."""

from dataclasses import replace
from threading import Thread

import pytest
from support.fake_backend import FakeBackend
from support.fuzz import check
from support.tiny_tokenizers import BPE, bpe_file

from tinyllama_ros.chat import rendering
from tinyllama_ros.chat.conversation import Conversation
from tinyllama_ros.chat.events import ChatOptions
from tinyllama_ros.chat.notices import TurnNotice
from tinyllama_ros.chat.rendering import Cancelled, Renderer
from tinyllama_ros.chat.serving import Server
from tinyllama_ros.chat.template import ChatTemplate
from tinyllama_ros.chat.template_sizes import EndlessTemplate
from tinyllama_ros.chat.tokenizer import BpeTokenizer
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.errors import ModelError

DEADLINE_S = 60.0
MANY = '{% for a in range(99999) %}'
FOREVER = f"{MANY * 3}{'{% endfor %}' * 3}"
"""10**15 loops without output."""
TWICE = ('{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}'
         '{{ f(60) }}')
"""2**60 calls, of which none loops."""


def growing(body: str) -> str:
    """Return a template that repeats a body, such that a text gets 2**60 characters."""
    return f'{{% set ns = namespace(x="ab") %}}{{% for a in range(60) %}}{body}{{% endfor %}}'


def render(source: str, is_cancelled=lambda: False, **variables: object) -> str:
    return Renderer(source).render(variables, is_cancelled)


@pytest.fixture
def few_steps(monkeypatch):
    """Bound a rendering by steps that take little time."""
    monkeypatch.setattr(rendering, 'MOST_STEPS', 10_000)


def test_cancel_ends_a_rendering_after_another_thread_has_rendered_the_same_template():
    renderer = Renderer('{% for a in range(100) %}{{ a }}{% endfor %}')
    steps = []

    def is_cancelled():
        steps.append(len(steps))
        if len(steps) == 5:
            other = Thread(target=renderer.render, args=({}, lambda: False))
            other.start()
            other.join()
        return len(steps) > 5

    with pytest.raises(Cancelled):
        renderer.render({}, is_cancelled)
    assert len(steps) == 6


@pytest.mark.parametrize('source', [
    pytest.param(FOREVER, id='loops'),
    pytest.param(MANY + MANY.replace(' %}', ' if a %}') + '{% if a < 0 %}.{% endif %}'
                 + '{% endfor %}' * 2, id='branches'),
    pytest.param(TWICE, id='macro'),
    pytest.param('{% for n in [40] recursive %}{% if n %}{{ loop([n - 1, n - 1]) }}{% endif %}'
                 '{% endfor %}', id='recursive loop'),
    pytest.param('{% block b scoped %}' + FOREVER + '{% endblock %}', id='block'),
    pytest.param('{% generation %}' + FOREVER + '{% endgeneration %}', id='generation'),
])
def test_template_that_does_not_end_is_ended(few_steps, source):
    with pytest.raises(EndlessTemplate, match='does not end: it took 10000 steps; build the'):
        render(source)


def test_template_that_calls_itself_for_ever_fails():
    with pytest.raises(ModelError, match='template of the model fails: maximum recursion'):
        render('{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}')


def test_template_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(rendering, 'LONGEST_S', 0.0)
    with pytest.raises(EndlessTemplate, match='does not end: it took 0 s'):
        render('{% if true %}.{% endif %}' * 2)


@pytest.mark.parametrize('source', [
    pytest.param('{{ 9 ** 99999999 }}', id='power'),
    pytest.param("{{ 'x' * 10 ** 9 }}", id='times'),
    pytest.param('{{ 10 ** 9 * [0] }}', id='list'),
    pytest.param(growing('{% set ns.x = ns.x + ns.x %}'), id='plus'),
    pytest.param(growing('{% set ns.x = ns.x ~ ns.x %}'), id='tilde'),
    pytest.param(growing('{% set ns.x = ns.x * 2 %}'), id='twice'),
    pytest.param(growing('{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}'),
                 id='captured'),
    pytest.param('{% set ns = namespace(n=3) %}{% for a in range(60) %}'
                 '{% set ns.n = ns.n * ns.n %}{% endfor %}', id='number'),
    pytest.param(f"{MANY}{'0123456789' * 10}{{% endfor %}}", id='output'),
    pytest.param('{% set ns = namespace(x=1) %}{% for a in range(60) %}'
                 '{% set ns.x = [ns.x, ns.x] %}{% endfor %}', id='lists'),
    pytest.param('{% set ns = namespace(x=1) %}{% for a in range(60) %}'
                 '{% set ns.x = {1: ns.x, 2: (ns.x, ns.x)} %}{% endfor %}', id='mappings'),
    "{{ 'x'.center(10**11) }}", "{{ 'x' | center(10**9) }}", "{{ 'a'.zfill(10**10) }}",
    "{{ range(99999) | join('x' * 4000000) }}", "{{ ('a' * 9999).join('b' * 99999) }}",
    "{{ '%1000000000d' | format(1) }}", "{{ '%.1000000000f' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}", "{{ '%(a)1000000000s' % {'a': 1} }}",
    "{{ '{:>1000000000}'.format(1) }}", "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "{{ ('a\n' * 1000000) | indent(100000) }}", "{{ ('\t' * 1000000).expandtabs(100000) }}",
    "{{ ('a' * 4000000) | replace('a', 'b' * 4000000) }}", "{{ 'aa'.replace('', 'b' * 4000000) }}",
    "{{ ('a' * 1000000).translate({97: 'b' * 100000}) }}", "{{ (1).to_bytes(10**9, 'big') }}",
    '{{ [1] | batch(10**9, 0) | list }}', '{{ [1] | slice(10**9) | list }}',
    "{{ 1.5 | round(10**9, 'floor') }}", '{{ range(99999) | map("center", 1000) | list }}',
    "{{ [['a' * 1000000] * 1000] * 1000 }}", '{{ range(99999) | list | tojson(indent=10**9) }}',
])
def test_template_that_makes_too_much_is_ended(source):
    with pytest.raises(EndlessTemplate, match='does not end: .* more than 4000000 characters'):
        render(source)


@pytest.mark.parametrize('name', ['pprint', 'urlize', 'wordwrap', 'xmlattr'])
def test_filter_that_takes_long_and_that_no_conversation_needs_is_refused_by_name(name):
    with pytest.raises(ModelError, match=f"not valid Jinja: No filter named '{name}'"):
        render(f'{{{{ x | {name} }}}}', x='a')


@pytest.mark.parametrize('source', [FOREVER, TWICE], ids=['loop', 'macro'])
def test_rendering_that_is_cancelled_stops(source):
    asked = iter([False] * 100)
    with pytest.raises(Cancelled):
        render(source, lambda: next(asked, True))
    assert next(asked, None) is None


@pytest.mark.parametrize(('source', 'text'), [
    ('{{ 2 ** 10 + 3 * 4 }}', '1036'), ("{{ 'a' * 3 + 'b' ~ 4 }}", 'aaab4'),
    ('{{ [1] * 2 + [3] }}', '[1, 1, 3]'), ("{{ 'a' ~ 'b' ~ x }}", 'ab7'),
    ('{{ 2 ** -1 }}', '0.5'), ('{{ 1.5 * 2 + 1 }}', '4.0'),
    ("{{ '%05d' % 1700000000 }}", '1700000000'), ("{{ '{a:,}'.format(a=12345) }}", '12,345'),
    ('{{ 7 % 4 }}{{ 7 // 2 }}', '33'),
])
def test_operators_work(source, text):
    assert render(source, x=7) == text


@pytest.mark.parametrize(('source', 'text'), [
    ("{{ x | map(attribute='content') | join('|') }}", 'a b|c'),
    ("{{ (x | map(attribute='content') | list)[0].split(' ') | last | upper }}", 'B'),
    ("{{ x | selectattr('role', 'equalto', 'user') | map(attribute='content') | first }}", 'c'),
    ("{% for role, each in x | groupby('role') %}{{ role }}{{ each | length }}{% endfor %}",
     'system1user1'),
    ("{{ x[0].content.replace(' ', '') | center(6) | indent(2, true) }}", '    ab  '),
    ("{{ '%s-%(a)s' if false else '%s-%s' | format('a', 'b') }}", 'a-b'),
    ('{{ x[0] | dictsort | map("last") | list | length }}', '2'),
    ('{% for a in [1, 2, 3] | batch(2, 0) %}{{ a | sum }},{% endfor %}', '3,3,'),
    ('{% macro f(a, b=2) %}{{ a + b }}{{ caller() }}{% endmacro %}'
     '{% call f(1) %}!{% endcall %}', '3!'),
    ('{% for a in "ab" %}{{ loop.cycle("x", "y") }}{{ loop.index }}{% endfor %}', 'x1y2'),
    ('{% set ns = namespace(a=1) %}{% set ns.a = ns %}{{ ns }}', '<Namespace>'),
    ("{{ 'ok' if x | map(attribute='role') | unique | list == ['system', 'user'] }}", 'ok'),
])
def test_filters_methods_and_macros_work(source, text):
    messages = [{'role': 'system', 'content': 'a b'}, {'role': 'user', 'content': 'c'}]
    assert render(source, x=messages) == text


def test_generation_block_renders_what_is_in_it():
    source = '{% set a = 1 %}{% generation %}{% set a = 2 %}{{ x }}{{ a }}{% endgeneration %}{{a}}'
    assert render(source, x='yes') == 'yes21'


@pytest.mark.parametrize(('arguments', 'text'), [
    ('', '{"b": "é<", "a": [1]}'), ('ensure_ascii=False', '{"b": "é<", "a": [1]}'),
    ('ensure_ascii=True', '{"b": "\\u00e9<", "a": [1]}'),
    ('sort_keys=True', '{"a": [1], "b": "é<"}'),
    ("separators=(',', ':')", '{"b":"é<","a":[1]}'),
    ('indent=1', '{\n "b": "é<",\n "a": [\n  1\n ]\n}'),
])
def test_tojson_takes_what_transformers_takes(arguments, text):
    assert render(f'{{{{ x | tojson({arguments}) }}}}', x={'b': 'é<', 'a': [1]}) == text


def chat_template(source: str) -> ChatTemplate:
    fields = vars(BPE) | {'chat_template': source}
    return ChatTemplate(type(BPE)(**fields), BpeTokenizer(bpe_file(), BPE.control_tokens))


def test_endless_template_is_refused_when_it_is_loaded(few_steps):
    with pytest.raises(ModelError, match='the chat template of the model does not end'):
        chat_template(FOREVER)


def test_no_damaged_template_crashes_or_hangs():
    check('support.hostile_templates:templates')


@pytest.mark.parametrize('stop', ['cancel', 'reset', 'close'])
def test_stop_of_a_server_ends_a_template_that_does_not_end(monkeypatch, stop):
    monkeypatch.setattr(rendering, 'MOST_STEPS', float('inf'))
    monkeypatch.setattr(rendering, 'LONGEST_S', DEADLINE_S)
    settings = replace(BPE, chat_template="{% if 'loop' in messages[-1].content %}" + FOREVER
                       + '{% endif %}' + BPE.chat_template)
    tokenizer = BpeTokenizer(bpe_file(), BPE.control_tokens)
    backend = FakeBackend(64, tokenizer.vocab_size)
    ends, stopper = [], Thread(target=lambda: getattr(server, stop)())

    def tell(notice):
        if isinstance(notice, TurnNotice) and notice.kind == 'asked':
            stopper.start()
        elif isinstance(notice, TurnNotice) and notice.turn:
            ends.append((notice.kind, notice.text, notice.why))
    server = Server(Conversation(Engine(lambda: backend), settings, tokenizer), tell,
                    options=ChatOptions, depth=1)
    server.submit('loop')
    server.serve()
    stopper.join(DEADLINE_S)
    why = 'the node is stopping; send it again' if stop == 'close' else ''
    assert (ends, backend.passes) == ([('stopped', '', why)], [])
