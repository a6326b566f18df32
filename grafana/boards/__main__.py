"""Write what is made from the registry, or say how the files differ from it: see the package."""

from __future__ import annotations

import sys
from pathlib import Path

from . import made

FOLDER = Path(__file__).parents[1]


def main() -> int:
    """0 when the files are as they are made."""
    check = "--check" in sys.argv[1:]
    differs = 0
    for name, text in made().items():
        path = FOLDER / name
        if path.is_file() and path.read_text() == text:
            continue
        differs += 1
        if check:
            sys.stderr.write(f"{path} is not what the registry makes of it: python -m grafana.boards\n")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            sys.stderr.write(f"{path} written\n")
    return 1 if check and differs else 0


if __name__ == "__main__":
    sys.exit(main())
