"""
Renders chat templates as Hugging Face's Transformers does, in a sandbox and within bounds.

A template comes with the model, so its code is not trusted. Each body of a loop, branch or macro
and each call counts as a step. Rendering ends after too many steps, after too long a time, or when
it is cancelled. What one step makes is bounded by template_sizes.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
import json
from threading import local
import time
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from tinyllama_ros.chat.template_sizes import (
    check_call,
    check_operator,
    concat,
    EndlessTemplate,
    ITEM,
    MOST_CHARACTERS,
    require_small,
    size_of,
)
from tinyllama_ros.errors import ModelError, PromptError, reason_of

MOST_STEPS = 1_000_000
LONGEST_S = 5.0
UNUSED = ('pprint', 'urlize', 'wordwrap', 'xmlattr')
"""Filters for web pages, which are slow and which no chat template needs."""
WIDEST_INDENT = 100
LONGEST_MESSAGE = 500
"""Characters of a template's own error message that are passed on."""


class Cancelled(Exception):
    """Rendering was cancelled."""


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
            self._environment = _Environment()
            self._template = self._environment.from_string(source)
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
        self._environment.rendering.bounds = _Bounds(is_cancelled)
        try:
            text = concat(self._template.root_render_func(
                self._template.new_context(dict(variables))))
            text.encode()  # fails on half of a surrogate pair, which no tokenizer accepts
            return text
        except (Cancelled, PromptError, EndlessTemplate):
            raise
        except Exception as error:  # whatever a template raises
            raise ModelError(f'the chat template of the model fails: {_one_line(error)}; build '
                             'the model again with a working one (--template FILE)') from error


def _one_line(error: Exception) -> str:
    """Return the message of a template's error in one line, shortened; never empty."""
    text = ' '.join(reason_of(error).split())
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
            raise EndlessTemplate(f'it took {MOST_STEPS} steps')
        if time.monotonic() > self._end_s:
            raise EndlessTemplate(f'it took {LONGEST_S:g} s')


class _CodeGenerator(CodeGenerator):
    """Makes blocks (the body of a loop, branch or macro) count a step, and bounds literals."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline('environment.step()')
        super().blockvisit(nodes, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self.write('environment.require_small(')
        super().visit_List(node, frame)
        self.write(')')

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write('environment.require_small(')
        super().visit_Dict(node, frame)
        self.write(')')

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == 'load':
            self.write('environment.require_small(')
        super().visit_Tuple(node, frame)
        if node.ctx == 'load':
            self.write(')')

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


class _Namespace(Namespace):
    """One that does not show its values, which may lie in each other."""

    def __repr__(self) -> str:
        return '<Namespace>'


class _Environment(ImmutableSandboxedEnvironment):
    """The environment in which Transformers renders chat templates."""

    code_generator_class = _CodeGenerator
    intercepted_binops = frozenset(('+', '*', '**', '%', '//'))
    concat = staticmethod(concat)
    require_small = staticmethod(require_small)
    def __init__(self) -> None:
        self.rendering = local()  # each thread may render at the same time, within its own bounds
        # Not optimized: constants would be computed while compiling, without the limits
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False,
                         extensions=[loopcontrols, _Generation])
        self.filters['tojson'] = _to_json
        self.filters = {name: self._bounded(name, function)
                        for name, function in self.filters.items() if name not in UNUSED}
        self.globals |= {'raise_exception': _raise_exception, 'strftime_now': _strftime_now,
                         'namespace': _Namespace}
        del self.globals['lipsum']

    def step(self) -> None:
        """Count a step of this thread's rendering, which ends where its bounds are exceeded."""
        self.rendering.bounds.step()

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operator(operator, left, right)
        return require_small(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any,  # noqa: B902 - as Jinja's own
             *args: Any, **kwargs: Any) -> Any:
        method = getattr(__obj, '__wrapped__', __obj)  # Jinja wraps str.format
        name, owner = getattr(method, '__name__', ''), getattr(method, '__self__', None)
        args, kwargs = __self._prepare(name, [owner], args, kwargs)
        return require_small(super().call(__context, __obj, *args, **kwargs))

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter that counts as a step, and whose arguments and result are bounded."""
        skipped = int(hasattr(function, 'jinja_pass_arg'))

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            values, kwargs = self._prepare(name, [], args[skipped:], kwargs)
            return require_small(function(*args[:skipped], *values, **kwargs))
        return call

    def _prepare(self, name: str, owner: list[Any], args: Iterable[Any], kwargs: dict[str, Any]
                 ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call, every generator as a list; they are not too large."""
        self.step()
        args = tuple(map(self._listed, args))
        kwargs = {key: self._listed(value) for key, value in kwargs.items()}
        check_call(name, [*owner, *args, *kwargs.values()])
        return args, kwargs

    def _listed(self, value: Any) -> Any:
        if not isinstance(value, Iterator) or isinstance(value, LoopContext):
            return value
        items, size = [], 0
        for item in value:
            self.step()
            items.append(item)
            size += ITEM + size_of(item)
            if size > MOST_CHARACTERS:
                require_small(items)
        return items


def _raise_exception(message: str) -> NoReturn:
    text = _one_line(ValueError(message))
    raise PromptError(f'the chat template of the model refuses this conversation: {text}')


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None,
             separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    """Return JSON as Transformers does: not escaped for HTML as Jinja's own."""
    if isinstance(indent, int):
        indent = min(indent, WIDEST_INDENT)
    return concat(json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                                   sort_keys=sort_keys).iterencode(value))
