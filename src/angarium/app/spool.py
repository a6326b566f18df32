"""The spool before anything runs on it: it is there, nobody else uses it, and the event log in it begins a line.

Fails: StartFailure when it cannot be used, or another relay uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from angarium.app.start_failure import StartFailure

if TYPE_CHECKING:
    from angarium.config.model import Config

__all__ = ["end_half_line", "lock_spool", "ready_event_file"]

LOCK_WAIT_S = 2.0  # for the processes of a relay that was just killed
LOCK_LOOK_S = 0.02


def lock_spool(spool: Path) -> int:
    """Make the spool if need be, and take its lock: a descriptor to keep, which says who has it.

    Children of a supervisor that was killed hold the lock until they are gone as well.
    """
    try:
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(spool / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _take(fd, spool)
    except OSError as failure:
        raise StartFailure(f"the spool {spool} cannot be used: {failure.strerror}") from failure
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    (spool / "run").mkdir(mode=0o700, exist_ok=True)
    return fd


def _take(fd: int, spool: Path) -> None:
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as failure:
            if time.monotonic() > until:
                raise StartFailure(f"the spool {spool} is in use by another relay") from failure
            time.sleep(LOCK_LOOK_S)
        else:
            return


def ready_event_file(config: Config) -> None:
    """Where the workers will write events. A log that cannot be written is theirs to report."""
    file = config.event_file
    if file is None:
        return
    if config.events.file is None:  # in the spool
        with contextlib.suppress(OSError):
            Path(file).parent.mkdir(mode=0o700, exist_ok=True)
    end_half_line(Path(file))


def end_half_line(events: Path) -> None:
    """What is appended to the event log begins a new line, whatever a killed process left at its end.

    Call it while nobody writes there. A log that cannot be written is the workers' to report.
    """
    with contextlib.suppress(OSError), events.open("r+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
