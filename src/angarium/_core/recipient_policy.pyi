"""Which recipients a listener takes from those who may not relay; documented in cext/recipient_policy.pyx."""

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Never

from typing_extensions import disjoint_base

from angarium._core.decision import Decision

class Judgement(IntEnum):
    RECIPIENT_FOREIGN = 0
    RECIPIENT_HOSTED = 1
    RECIPIENT_ROUTED = 2

@disjoint_base
class RecipientPolicy:
    """The domains of one listener, and who is asked whether a mailbox of theirs exists."""

    def __init__(
        self,
        domains: Iterable[bytes],
        *args: Never,
        verify: Callable[[bytes], bytes | Callable[[Decision], None]] | None = None,
        fold: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """domains: in lower case and A-labels, `*.` in front for those below one. fold: a domain with U-labels, as it
        compares; without it such a domain is none of ours.

        verify: mailbox -> b"" (take it), the whole reply that refuses it, or who is given a Decision and answers it
        later, with one of the two.
        """
    @property
    def postmaster_domain(self) -> bytes: ...
    @property
    def verify(self) -> Callable[[bytes], bytes | Callable[[Decision], None]] | None: ...
    def judged(self, mailbox: bytes, domain_length: int) -> Judgement:
        """What is thought of local-part@domain, of which the last octets are the domain (0: <Postmaster>)."""

__test__: dict[str, str]
