"""Which messages an operator means, and how many there are of each kind; documented in cext/selection.pyx."""

from typing_extensions import disjoint_base

from angarium._core.record import Message
from angarium._core.schedule import MessageTable, Schedule

STATES: tuple[str, str, str, str, str]

def state_name(schedule: Schedule, message: Message) -> str:
    """The message's state as the API names it; one that is over counts as ready."""

@disjoint_base
class Census:
    """Messages by state, counted in slices."""

    def __init__(self, table: MessageTable) -> None: ...
    def step(self, slots: int) -> bool:
        """Look at so many slots more. True: the count is complete."""
    @property
    def by_state(self) -> dict[str, int]:
        """Messages by state, all states."""
    @property
    def oldest_us(self) -> int:
        """When the oldest was accepted, in microseconds of unix time; 0 when there is none."""

@disjoint_base
class Selection:
    """The messages of a table that meet some conditions."""

    def __init__(
        self,
        table: MessageTable,
        *,
        to_domain: bytes | None = None,
        to_domain_unicode: bytes | None = None,
        reverse_path: bytes | None = None,
        tenant: bytes | None = None,
        log_in: bytes | None = None,
        state: str | None = None,
        before_us: int = 0,
        after: int = 0,
        most: int = 0,
    ) -> None:
        """What is None or 0 does not restrict.

        The texts are octets. to_domain is in A-labels, to_domain_unicode the same in U-labels. reverse_path `@domain`
        means any local part, `b""` the null reverse-path. before_us: accepted before that (microseconds of unix time);
        after: only ids above it; most: keep only so many candidates, the oldest. ValueError for a state that is none.
        """
    @property
    def count(self) -> int:
        """Candidates."""
    @property
    def walked(self) -> bool: ...
    @property
    def cut(self) -> bool:
        """There were more candidates than are kept."""
    @property
    def unreadable(self) -> int:
        """Candidates whose envelope could not be read."""
    @property
    def left(self) -> int:
        """Candidates that have not been looked at closely."""
    @property
    def last(self) -> int:
        """The id of the youngest candidate, after `sort`; 0 when there is none."""
    def step(self, slots: int) -> bool:
        """Look at about so many slots more. True: the table has been walked."""
    def sort(self) -> None:
        """Bring the candidates into the order of their ids, the oldest first. Blocks, without the GIL."""
    def load(self, most: int) -> int:
        """Begin a batch of the next candidates. Returns how many envelopes `examine` must read from disk."""
    def examine(self) -> None:
        """Read the envelopes of the batch. Blocks, without the GIL: call it in a thread."""
    def matching(self) -> list[Message]:
        """The messages of the batch that match, the oldest first."""

def id_of(message: Message) -> int:
    """The number that messages are in order of."""

__test__: dict[str, str]
