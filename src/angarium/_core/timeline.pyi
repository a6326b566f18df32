"""What stood in the way of mail, and when; documented in cext/timeline.pyx."""

from typing import Final

from typing_extensions import disjoint_base

CAUSE_NAMES: Final[tuple[str, ...]]
__pyx_capi__: dict[str, object]  # the C function of timeline.pxd

@disjoint_base
class Timeline:
    """A bounded memory of what mail waited for: a cause since a moment, and those before it."""

    @property
    def cause(self) -> int:
        """What is waited for at the moment, as a place in CAUSE_NAMES; -1: nothing waits."""
    def __len__(self) -> int:
        """Turns that are remembered, this one included."""
    def note(self, cause: int, now: float) -> None:
        """From now on (monotonic) what waits waits for this; -1: nothing does, and what was is forgotten.

        ValueError for what is no cause.
        """
    def between(self, begin: float, end: float) -> dict[str, float]:
        """Seconds by cause of the time from begin (or where the memory begins) to end, both monotonic."""
