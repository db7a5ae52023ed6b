"""
Copy into the page what it is served with from node_modules, with the licences of all of it.

The bundle of markdown-it holds libraries; theirs stand in the same file. Run by
`make vendor` after a change of package.json; a test compares the copy with what npm installs.
"""

import json
from pathlib import Path
import re

ROOT = Path(__file__).resolve().parents[1]
MODULES = ROOT / 'node_modules'
VENDOR = ROOT / 'tinyllama_ros' / 'web' / 'static' / 'vendor'
SOURCE_MAP = re.compile(r'\n?//# sourceMappingURL=.*\s*$')
"""The browser's tools would ask for a file that is not there."""


def bundle() -> str:
    """Return the module for browsers."""
    path = MODULES / 'markdown-it' / 'dist' / 'browser' / 'markdown-it.esm.min.mjs'
    return SOURCE_MAP.sub('\n', path.read_text(encoding='utf-8'))


def licences() -> str:
    """Return the licences of the library and of what it holds, each under its name."""
    parts = []
    # argparse is for its command line alone
    needed = json.loads((MODULES / 'markdown-it' / 'package.json').read_text())['dependencies']
    for name in ('markdown-it', *sorted(needed.keys() - {'argparse'})):
        about = json.loads((MODULES / name / 'package.json').read_text())
        for path in sorted((MODULES / name).glob('LICENSE*')):
            text = path.read_text(encoding='utf-8').strip()
            parts.append(f'{name} {about["version"]} ({about["license"]})\n\n{text}\n')
    return f'\n{"-" * 80}\n\n'.join(parts)


def main() -> None:
    VENDOR.mkdir(exist_ok=True)
    (VENDOR / 'markdown-it.js').write_text(bundle(), encoding='utf-8')
    (VENDOR / 'LICENSES.txt').write_text(licences(), encoding='utf-8')


if __name__ == '__main__':
    main()
