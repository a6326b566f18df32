"""What every bench of a relay does around its measurements: being alone on the machine, undisturbed, on a disk of its
own, and writing the result down.

Input: the options that `add_options` gives to a command line. Output: a JSON file that starts with `describe`, and
Markdown beside it. Fails: RelayFailure, SpoolFailure or MissingTool, with the reason in one line; whatever was set up
is undone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .machine import describe_machine
from .relays import PROJECT, RelayFailure
from .spool import IMAGE, SpoolFailure
from .traffic import MissingTool

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType

    from .relays import Ground, Relay

FORMAT = 1
STATE = Path(f"/var/tmp/angarium-bench-state-{os.geteuid()}")
RESULTS = PROJECT / "bench" / "results"
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


def say(line: str) -> None:
    print(line, flush=True)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def add_options(parser: argparse.ArgumentParser, *, image_gib: int = 8) -> None:
    """Durability, workers, disk, priority and result file."""
    parser.add_argument(
        "--durability", choices=("fsync", "async", "memory"), default="fsync", help="Angarium's class (default fsync)"
    )
    parser.add_argument("--workers", type=int, default=2, help="Angarium's workers (default 2)")
    parser.add_argument(
        "--disk",
        choices=("auto", "loop", "plain"),
        default="auto",
        help="a journaled ext4 of the bench's own, or a directory",
    )
    parser.add_argument("--spool", type=Path, default=Path("/var/tmp"), help="where --disk plain makes its directory")
    parser.add_argument("--image", type=Path, default=IMAGE, help=f"image file of --disk loop (default {IMAGE})")
    parser.add_argument("--image-gib", type=int, default=image_gib, help=f"its size (default {image_gib})")
    parser.add_argument("--state", type=Path, default=STATE, help="configurations and logs")
    parser.add_argument(
        "--nice", type=int, default=-10, help="priority of relays, generator and sink, where allowed (default -10)"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON result (default bench/results/KIND-DATE.json); the report goes beside it"
    )


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One bench at a time: ports, the cgroup and the machine's quiet are shared."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind("\0angarium-bench")  # an abstract name: it goes with the process, and any user may ask for it
        except OSError as error:
            raise RelayFailure("another load bench is running on this machine") from error
        yield


@contextlib.contextmanager
def undisturbed(nice: int) -> Iterator[bool]:
    """Priority for all that is started here, and no scheduling by session: with it each daemon would get a share of its
    own.

    Yields whether autogrouping is off; it is put back at the end.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    before = AUTOGROUP.read_text().strip() if AUTOGROUP.exists() else "0"
    try:
        if before != "0":
            with contextlib.suppress(PermissionError):
                AUTOGROUP.write_text("0")
        yield not AUTOGROUP.exists() or AUTOGROUP.read_text().strip() == "0"
    finally:
        if before != "0":
            with contextlib.suppress(PermissionError):
                AUTOGROUP.write_text(before)


def describe(
    kind: str, program: str, options: argparse.Namespace, ground: Ground, relays: Iterable[Relay], autogroup_off: bool
) -> dict[str, Any]:
    """What every result begins with: how it was made, on what, and with which relays."""
    given = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if value is not None
    }
    return {
        "format": FORMAT,
        "kind": kind,
        "command": f"python -m {program} " + shlex.join(sys.argv[1:]),
        "started": now(),
        "finished": now(),
        "options": given,
        "autogroup_off": autogroup_off,
        "machine": describe_machine(ground.spool, ground.group.kind),
        "relays": {
            relay.name: {
                "summary": relay.summary,
                "version": relay.version(),
                "durability": relay.durability(),
                "settings": relay.settings(),
            }
            for relay in relays
        },
    }


def write(result: dict[str, Any], out: Path) -> None:
    """All of it or what was there before, never a part."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".tmp")
    draft.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(out)


def leave(number: int, frame: FrameType | None) -> None:
    """Leave by way of all the clean-up, which a second signal (timeout(1) sends two) must not interrupt."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda number, frame: None)
    raise SystemExit(128 + number)


def leave_on_signals() -> None:
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)


def available(relays: Sequence[Relay]) -> list[Relay]:
    """Those that can run here; the others are said."""
    chosen = []
    for relay in relays:
        reason = relay.unavailable()
        if reason:
            say(f"{relay.name} is left out: {reason}")
        else:
            chosen.append(relay)
    return chosen


def carry_out(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], int],
    render: Callable[[dict[str, Any]], str],
) -> int:
    """What a bench's command does: print the report of a result, or measure; the exit status."""
    if options.verb == "report":
        print(render(json.loads(options.file.read_text(encoding="utf-8"))))
        return 0
    leave_on_signals()
    try:
        return measure(options)
    except (RelayFailure, SpoolFailure, MissingTool) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
