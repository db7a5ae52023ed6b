"""
Renders chat templates as Hugging Face's Transformers does, in a sandbox and within bounds.

A template comes with the model, so its code is not trusted. Each body of a loop, branch or macro
counts as a step. Rendering ends after too many steps, after too long a time, or when it is
cancelled.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
import json
import time
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tinyllama_ros.errors import ModelError, PromptError

MOST_STEPS = 1_000_000
LONGEST_S = 5.0
MOST_CHARACTERS = 4_000_000
"""Of each text that a template makes; also the limit for the bits of a number."""
LONGEST_MESSAGE = 500
"""Characters of a template's own error message that are passed on."""


class Cancelled(Exception):
    """Rendering was cancelled."""


class EndlessTemplate(ModelError):
    """A chat template takes too many steps or too long, or makes too much text."""


class Renderer:
    """A chat template that is ready to be rendered."""

    def __init__(self, source: str) -> None:
        """
        Compile a template.

        :raises ModelError: it is empty, or not valid Jinja.
        """
        if not source.strip():
            raise ModelError('the model has no chat template; use the instruct or chat form of '
                             'the model, or build it with --template FILE')
        try:
            self._template = _Environment().from_string(source)
        except Exception as error:  # not TemplateError alone: nested too deeply for Python, ...
            raise ModelError('the chat template of the model is not valid Jinja: '
                             f'{_one_line(error)}; give another one with --template FILE'
                             ) from error

    def render(self, variables: Mapping[str, Any], is_cancelled: Callable[[], bool]) -> str:
        """
        Return the rendered text.

        :param is_cancelled: called at each step, in this thread.
        :raises Cancelled: it returned true.
        :raises PromptError: the template refuses the conversation; with its message.
        :raises EndlessTemplate: it takes too many steps, or makes too much text.
        :raises ModelError: it fails.
        """
        context = self._template.new_context(dict(variables))
        assert isinstance(context, _Context)
        context.bounds = _Bounds(is_cancelled)
        try:
            text = _concat(self._template.root_render_func(context))
            text.encode()  # fails on half of a surrogate pair, which no tokenizer accepts
            return text
        except (Cancelled, PromptError, EndlessTemplate):
            raise
        except Exception as error:  # whatever a template raises
            raise ModelError(f'the chat template of the model fails: {_one_line(error)}; build '
                             'the model again with a working one (--template FILE)') from error


def _one_line(error: Exception) -> str:
    """Return the message of a template's error in one line, shortened; never empty."""
    text = ' '.join(str(error).split()) or type(error).__name__
    return ''.join(filter(str.isprintable, text))[:LONGEST_MESSAGE].rstrip('.')


class _Bounds:
    """Counts the steps of one rendering."""

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled
        self._end_s = time.monotonic() + LONGEST_S
        self._steps = 0

    def step(self) -> None:
        self._steps += 1
        if self._is_cancelled():
            raise Cancelled
        if self._steps > MOST_STEPS:
            _refuse(f'it took {MOST_STEPS} steps')
        if time.monotonic() > self._end_s:
            _refuse(f'it took {LONGEST_S:g} s')


def _refuse(reason: str) -> NoReturn:
    raise EndlessTemplate(f'the chat template of the model does not end: {reason}; build the '
                          'model again with another one (--template FILE)')


class _Context(Context):
    """The variables of one rendering, and its bounds."""

    bounds: _Bounds

    def derived(self, locals: dict[str, Any] | None = None) -> Context:  # noqa: A002
        context = super().derived(locals)
        assert isinstance(context, _Context)
        context.bounds = self.bounds
        return context


class _CodeGenerator(CodeGenerator):
    """Makes every block (the body of a loop, a branch or a macro) count a step."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline('context.bounds.step()')
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write('environment.concat((')
        super().visit_Concat(node, frame)
        self.write(', ))')


class _Generation(Extension):
    """``{% generation %}``, by which Transformers marks messages of the assistant for training."""

    tags = {'generation'}

    def parse(self, parser: Parser) -> nodes.Node:
        scope = nodes.Scope(lineno=next(parser.stream).lineno)
        scope.body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
        return scope


def _concat(texts: Iterable[str]) -> str:
    """Return texts as one."""
    parts, size = [], 0
    for text in texts:
        size += len(text)
        if size > MOST_CHARACTERS:
            _refuse(f'it makes a text of more than {MOST_CHARACTERS} characters')
        parts.append(text)
    return ''.join(parts)


class _Environment(ImmutableSandboxedEnvironment):
    """The environment in which Transformers renders chat templates."""

    code_generator_class = _CodeGenerator
    context_class = _Context
    intercepted_binops = frozenset(('+', '*', '**'))
    concat = staticmethod(_concat)

    def __init__(self) -> None:
        # Not optimized: constants would be computed while compiling, without the limits
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False,
                         extensions=[loopcontrols, _Generation])
        self.filters['tojson'] = _to_json
        self.globals |= {'raise_exception': _raise_exception, 'strftime_now': _strftime_now}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if _size(operator, left, right) > MOST_CHARACTERS:
            _refuse(f'{operator} makes a value of more than {MOST_CHARACTERS} characters or bits')
        return super().call_binop(context, operator, left, right)


def _size(operator: str, left: Any, right: Any) -> int:
    """Return the length or the bits of an operator's result; 0 if it cannot be large."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        return bits * abs(right) if operator == '**' else bits + right.bit_length()
    if operator == '*' and isinstance(left, int):
        left, right = right, left
    length = len(left) if hasattr(left, '__len__') else 0
    if operator == '*' and isinstance(right, int):
        return length * right
    return length + len(right) if length and hasattr(right, '__len__') else 0


def _raise_exception(message: str) -> NoReturn:
    text = _one_line(ValueError(message))
    raise PromptError(f'the chat template of the model refuses this conversation: {text}')


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None,
             separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    """Return JSON as Transformers does; Jinja's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)
