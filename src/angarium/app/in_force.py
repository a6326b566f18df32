"""Which configuration is in force, since when, and what became of the last attempt to change it.

Input: the results of reloads. Output: the node's metrics about it (written into the supervisor's counters), a line on
standard error for each, the fields of the event `reload`, and what `angarium status` shows. It never fails.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from angarium._core.counters import Slot

if TYPE_CHECKING:
    from angarium._core.counters import Counters
    from angarium.app.reload import Reload, Result

__all__ = ["InForce"]

log = logging.getLogger("angarium")

MOST_PROBLEMS = 20  # of a refused file that are kept and shown


class InForce:
    """What a node knows of its own configuration."""

    def __init__(self, file: str, sha256: str) -> None:
        self._file = file
        self._sha256 = sha256
        self._since = time.time()
        self._waiting: tuple[str, ...] = ()
        self._changes = 0
        self._refused: dict[str, Any] | None = None
        self._counters: Counters | None = None

    def count_in(self, counters: Counters) -> None:
        """Where the metrics are written."""
        self._counters = counters
        counters.set(Slot.NODE_CONFIGURATION_TIME, int(self._since))

    def note(self, result: Result) -> dict[str, Any]:
        """Take in what became of a reload; returns the fields of its event."""
        counters = self._counters
        assert counters is not None
        counters.add(Slot.NODE_RELOADS_APPLIED if result.applied else Slot.NODE_RELOADS_REFUSED, 1)
        counters.set(Slot.NODE_RELOAD_REFUSED, not result.applied)
        problems = [str(problem) for problem in result.problems]
        fields: dict[str, Any] = {"class": "applied" if result.applied else "refused", "sha256": result.sha256}
        if not result.applied:
            errors = [str(problem) for problem in result.problems if problem.severity == "error"]
            self._refused = {"time": _text(time.time()), "problems": errors[:MOST_PROBLEMS]}
            log.error("reload: the old configuration stays: %s", "; ".join(errors[:MOST_PROBLEMS]))
            return fields | {"problems": problems[:MOST_PROBLEMS]}
        self._sha256 = result.sha256
        self._waiting = result.waiting
        if result.changed:
            self._since = time.time()
            self._changes += 1
        counters.set(Slot.NODE_CONFIGURATION_TIME, int(self._since))
        counters.set(Slot.NODE_RESTART_KEYS, len(result.waiting))
        for problem in problems:
            log.warning("reload: %s", problem)
        log.info("reload: done; %s", f"changed: {', '.join(result.changed)}" if result.changed else "nothing changed")
        if result.waiting:
            log.warning("reload: these keys wait for a restart: %s", ", ".join(result.waiting))
        return fields | {"changed": list(result.changed), "waiting": list(result.waiting)}

    def status(self, reload: Reload | None) -> dict[str, Any]:
        """As `angarium status` and GET /api/v1/status have it."""
        return {
            "file": self._file or None,
            "sha256": self._sha256 or None,
            "since": _text(self._since),
            "changes": self._changes,
            "waiting": list(self._waiting),
            "reload": None if reload is None else {"phase": reload.phase.value, "waiting_for": reload.waiting_for},
            "last_refused": self._refused,
        }


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
