"""Lists the parameters of the language model node, and turns their values into options."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from tinyllama_ros.chat.events import ChatOptions
from tinyllama_ros.chat.interruption import InterruptionOptions
from tinyllama_ros.engine.backend import BACKENDS, OPTIONS
from tinyllama_ros.engine.sampling import SamplingOptions


@dataclass(frozen=True)
class Parameter:
    """One parameter; its type is that of its default."""

    default: bool | int | float | str
    description: str
    range: tuple[float, float] | None = None
    """Lowest and highest value, both allowed."""
    is_fixed: bool = False
    """Read when the node is configured; it cannot change afterwards."""


PARAMETERS: Mapping[str, Parameter] = {
    'model': Parameter('smollm2-135m-instruct-w8a8',
                       'Artifact: the path of its folder, or its name in the cache folder.',
                       is_fixed=True),
    'backend': Parameter(next(iter(BACKENDS)), 'What runs the graph: ' + ' or '.join(
        f'{name} ({kind.hardware})' for name, kind in BACKENDS.items()) + '.', is_fixed=True),
    **{option.parameter: Parameter(option.default, option.description, option.range,
                                   is_fixed=True) for option in OPTIONS},
    'autostart': Parameter(True, 'Configure and activate at once; if false, the node waits for '
                           'lifecycle transitions.', is_fixed=True),
    'queue_depth': Parameter(16, 'Prompts and requests that may wait; further ones are refused.',
                             (1, 1000), is_fixed=True),
    'prompt_depth': Parameter(1000, 'Prompts that may come faster than the node takes them; one '
                              'more overwrites the oldest, which is lost, counted and told on '
                              '~/error.', (1, 100_000), is_fixed=True),
    'when_busy': Parameter('queue', 'What a prompt does that comes during an answer: queue (it '
                           'waits), latest (it waits in place of others), interrupt (it also cuts '
                           'the answer short), refuse.'),
    'when_speaking': Parameter('ignore', 'What a prompt does that comes while ~/speaking is true: '
                               'ignore (it is refused as an echo), answer, interrupt.'),
    'echo_tail': Parameter(0.5, 'Seconds after the speech in which a prompt still counts as an '
                           'echo.', (0, 60)),
    'system_prompt': Parameter('', "How the model should behave; if empty, the default of the "
                               "model's chat template, if any."),
    'max_tokens': Parameter(512, 'Maximum tokens of an answer; 0 means no limit.',
                            (0, 1_000_000)),
    'answer_room': Parameter(256, 'Slots of the cache that must be free when an answer begins.',
                             (2, 100_000)),
    'drafting': Parameter(True, 'Speculative decoding by prompt lookup: verify several tokens in '
                          'one pass if the text repeats itself.'),
    'sampling.temperature': Parameter(0.2, 'Randomness; 0 selects the likeliest token.', (0, 10)),
    'sampling.top_k': Parameter(0, 'Keep the k likeliest tokens; 0 keeps all.', (0, 1_000_000)),
    'sampling.top_p': Parameter(0.9, 'Keep the fewest likeliest tokens whose probabilities sum up '
                                'to this; 1 keeps all.', (0, 1)),
    'sampling.min_p': Parameter(0.0, 'Keep tokens at least this fraction as likely as the '
                                'likeliest one; 0 keeps all.', (0, 1)),
    'sampling.repetition_penalty': Parameter(1.0, 'Above 1, tokens of the context become less '
                                             'likely.', (1, 10)),
    'sampling.seed': Parameter(-1, 'Seed of the random numbers of each answer; -1 means a new '
                               'seed for each answer.',
                               (-1, 2**31 - 1)),
}


def chat_options(values: Mapping[str, Any]) -> ChatOptions:
    """
    Return the options of a turn.

    :param values: of every parameter by name.
    :raises ConfigError: names the value that is out of range.
    """
    prefix = 'sampling.'
    sampling = SamplingOptions(**{name[len(prefix):]: values[name] for name in PARAMETERS
                                  if name.startswith(prefix)})
    return ChatOptions(system_prompt=values['system_prompt'], max_tokens=values['max_tokens'],
                       answer_room=values['answer_room'], sampling=sampling,
                       drafting=values['drafting'])


def interruption_options(values: Mapping[str, Any]) -> InterruptionOptions:
    """
    Return what a new prompt does to an answer.

    :param values: of every parameter by name.
    :raises ConfigError: names the value that is none of the choices.
    """
    return InterruptionOptions(values['when_busy'], values['when_speaking'], values['echo_tail'])


def describe_unknown(name: str, known: Iterable[str], node: str) -> str:
    """Return the warning about a parameter that was given and that the node does not have."""
    nearest = _nearest(name, known)
    advice = (f'did you mean {nearest}?' if nearest
              else f'ros2 param list {node} lists those that it has.')
    return (f'the parameter {name} is ignored, because {node} has none of that name: {advice} If '
            'it is meant for another node, write it in the file under the name of that node, not '
            'under /**.')


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return the name that one may have meant, also where its group was left out, or ''."""
    meant = {part: each for each in known for part in (each.split('.')[-1], each)}
    return next((meant[part] for part in get_close_matches(name, meant, 1)), '')
