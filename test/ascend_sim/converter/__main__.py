"""python -m converter: what bin/atc runs."""

from collections.abc import Sequence
from pathlib import Path
import sys

from converter.convert import convert
from converter.errors import AtcError
from converter.options import parse


def main(argv: Sequence[str]) -> int:
    """Convert, and leave beside it what the real program leaves in its working directory."""
    if '--help' in argv or '-h' in argv:
        print('usage: atc <args>\n  --framework=5 --model=FILE --output=PATH --soc_version=CHIP')
        return 0
    print('ATC start working now, please wait for a moment.', flush=True)
    try:
        warnings = convert(parse(argv))
    except AtcError as error:
        print("ATC run failed, Please check the detail log, Try 'atc --help' for more information")
        print('\n'.join(error.lines))
        return 255
    Path('kernel_meta').mkdir(exist_ok=True)
    Path('fusion_result.json').write_text('[]\n', encoding='utf-8')
    for warning in warnings:
        print(f'{warning}')
    print('ATC run success, welcome to the next use.')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
