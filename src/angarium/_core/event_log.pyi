"""The event log: JSON Lines; documented in cext/event_log.pyx."""

from typing import Any

from typing_extensions import disjoint_base

from angarium._core.counters import Counters

def open_log(path: str) -> int:
    """A descriptor of the log at this path, open for appending, marked as held by one who writes; OSError."""

@disjoint_base
class EventLog:
    """Gathers lines and appends them to a file. No path: no log is kept."""

    def __init__(self, path: str | None, counters: Counters) -> None:
        """OSError when the file cannot be opened."""
    @property
    def path(self) -> str | None: ...
    @property
    def dropped(self) -> int: ...
    @property
    def failing(self) -> bool:
        """The last write failed: lines are kept for later, or lost."""
    def event(self, event: str, fields: dict[str, Any]) -> None:
        """Any other event; fields are JSON values and stand behind time and event."""
    def flush(self) -> None:
        """Append the gathered lines to the file, and follow it when it was rotated."""
    def reopen(self) -> None:
        """Open the file by its name again (it was rotated, or it is the first time); OSError when that fails."""
    def move(self, path: str | None, fd: int) -> None:
        """Go on in another file: `fd`, of `open_log` and ours from now on; path None, fd -1: no log is kept."""
    def close(self) -> None:
        """Write what there is and close the file."""

__test__: dict[str, str]
