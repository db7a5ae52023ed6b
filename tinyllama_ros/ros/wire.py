"""The JSON forms of what goes over topics of type String."""

import json
from typing import NamedTuple


class Line(NamedTuple):
    """A line of the node's record; see the topic ~/history."""

    run: str
    number: int
    kind: str
    text: str
    why: str




class Piece(NamedTuple):
    """A piece of an answer, and when the node published it."""

    stamp_ns: int
    text: str




def read_line(data: str) -> Line | None:
    """Return a line of the record, None where it is not one that we know."""
    try:
        line = json.loads(data)
        return Line(str(line['run']), int(line['line']), str(line['kind']), str(line['text']),
                    str(line['why']))
    except (ValueError, TypeError, KeyError):
        return None
