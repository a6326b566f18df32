"""An intake for mail that is in a file already; documented in cext/named_intake.pyx."""

from collections.abc import Callable

from typing_extensions import disjoint_base

from angarium._core.dispatch import JournalIntake
from angarium._core.intake import Intake
from angarium._core.record import Message

@disjoint_base
class NamedIntake(Intake):
    """Hands one message at a time to the journals, under an id that is known beforehand, and held."""

    def __init__(self, journals: JournalIntake) -> None: ...
    def expect(self, id: int, committed: Callable[[Message, int], object]) -> None:
        """The next message has this id; `committed` is called once with it and an errno (0: it is safe, and held)."""
    def forget(self) -> None:
        """The message that was announced was refused."""

__test__: dict[str, str]
