"""What was said in attempts, gathered until it is written; documented in cext/dialogue.pyx."""

from collections.abc import Callable
from enum import IntEnum

from typing_extensions import disjoint_base

class Keep(IntEnum):
    KEEP_NONE = 0
    KEEP_FAILURES = 1
    KEEP_ALL = 2

# A set of bits: any sum of these describes a record.
class DialogueFlag(IntEnum):
    DIALOGUE_DELIVERED = 1
    DIALOGUE_PIPELINED = 2
    DIALOGUE_CUT = 4
    DIALOGUE_CONTENT = 8
    DIALOGUE_AHEAD = 16
    DIALOGUE_OPENING = 32

@disjoint_base
class Dialogues:
    """Of one worker.

    keep: of which attempts (Keep). watch: told of all that is said as it is said: connection, direction (C, S, or - at
    its end), host, site, octets; None: nobody watches.
    """

    keep: int
    watch: Callable[[int, str, bytes, bytes, bytes], None] | None
    def __init__(self, keep: int = 0, mark: bytes | None = None) -> None:
        """mark: 8 octets in front of each record; None: random ones."""
    @property
    def mark(self) -> bytes: ...
    @property
    def lost(self) -> int:
        """Records that found no room."""
    @property
    def gathered(self) -> int:
        """Octets that wait to be taken."""
    def take(self) -> bytes:
        """What was gathered; it is forgotten here."""
    def opening(
        self, id: int, seconds: float, attempt: int, next_hop: bytes, host: bytes, said: bytes, why: bytes
    ) -> None:
        """An attempt that ended before there was a mail transaction, after so many seconds."""

@disjoint_base
class Heard:
    """What a host has said in the transaction under way. Nothing of it is for Python."""

__test__: dict[str, str]
