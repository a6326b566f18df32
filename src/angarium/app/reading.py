"""Reads a configuration file for a running node, in a process that lives for that alone.

    python -m angarium.app.reading      {"file", "sandbox"} on standard input, a Reading on standard output

Whatever is wrong with the file, and however much there is of it, the supervisor is never in danger. It reads nothing
itself.

Fails: never on purpose; a process that ends without a Reading (killed, out of memory) has read nothing, and the
configuration in force stays.
"""

import subprocess
import sys
from pathlib import Path

import msgspec

from angarium.config.load import Examination, examine
from angarium.config.locate import locate
from angarium.config.model import dump
from angarium.config.problem import Problem

__all__ = ["Reading", "Source", "places_of", "read", "start_reader"]


class Source(msgspec.Struct, frozen=True):
    """Where a configuration comes from."""

    file: str
    sandbox: bool = False


class Reading(msgspec.Struct):
    """What came of it. `config`: config.model.dump, None when a problem is an error.

    `places`: line and column of keys that only a running node finds fault with.
    """

    config: bytes | None
    problems: tuple[Problem, ...]
    sha256: str
    places: dict[str, tuple[int, int]] = {}


def read(source: Source) -> tuple[Examination, Reading]:
    """Read it here."""
    examination = examine(source.file, sandbox=source.sandbox)
    config = examination.config
    return examination, Reading(
        None if config is None else dump(config),
        examination.problems,
        examination.sha256,
        places_of(Path(source.file)) if config is not None else {},
    )


def places_of(file: Path) -> dict[str, tuple[int, int]]:
    """Line and column of every listener's `listen` and of `admin.listen`, by key path: `listener[0].listen`."""
    try:
        found = locate(file.read_text("utf-8-sig").replace("\r\n", "\n"))
    except (OSError, ValueError):
        return {}
    places = {}
    for path, position in found.items():
        if len(path) == 3 and path[0] == "listener" and path[2] == "listen":
            places[f"listener[{path[1]}].listen"] = (position[0], position[1])
        elif path == ("admin", "listen"):
            places["admin.listen"] = (position[0], position[1])
    return places


def start_reader(source: Source) -> subprocess.Popen[bytes]:
    """A process that reads it; its standard output ends with the Reading in MessagePack."""
    process = subprocess.Popen(
        [sys.executable, "-m", "angarium.app.reading"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(source))
        process.stdin.close()
    except BrokenPipeError:
        pass  # it is gone already, and its output says nothing
    return process


def main() -> None:
    """Do what standard input asks for."""
    source = msgspec.json.decode(sys.stdin.buffer.read(), type=Source)
    _, reading = read(source)
    sys.stdout.buffer.write(msgspec.msgpack.encode(reading))


if __name__ == "__main__":
    main()
