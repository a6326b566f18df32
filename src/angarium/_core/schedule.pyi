"""The queue in memory; documented in cext/schedule.pyx."""

from collections.abc import Callable, Iterator
from typing import Self

from typing_extensions import disjoint_base

from angarium._core.record import Message
from angarium._core.source_pool import SourcePools

@disjoint_base
class ScheduledQueue:
    """What waits for one tenant, lane, outlet of a source pool and destination domain."""

    @property
    def domain(self) -> bytes:
        """The destination domain in lower case; empty for mail to several domains and for mail to none."""
    @property
    def number(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def members(self) -> int: ...
    @property
    def lane(self) -> int: ...
    @property
    def outlet(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def policy(self) -> int: ...
    @property
    def provider(self) -> int: ...
    @property
    def suspended(self) -> bool:
        """Whether its domain or tenant is suspended."""
    @property
    def not_before(self) -> float: ...
    @property
    def reason(self) -> bytes | None: ...
    @property
    def nameless(self) -> int:
        """1: `not_before` is for want of the next hop's names."""
    @property
    def waits_for_room(self) -> bool:
        """Whether something in it may go and only waits for room in the ready queue of its next hop."""
    @property
    def first(self) -> float | None:
        """When the first of what waits is due (unix seconds; fresh mail: 0), or None."""

@disjoint_base
class Schedule:
    """All scheduled queues of a worker, by key and by time."""

    fold_domain: Callable[[bytes], bytes] | None
    policy_of: Callable[[bytes], int] | None
    provider_of: Callable[[bytes], int] | None
    def __new__(cls) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def queues(self) -> list[ScheduledQueue | None]: ...
    @property
    def count(self) -> int: ...
    @property
    def tenants(self) -> list[bytes]: ...
    @property
    def pools(self) -> SourcePools: ...
    @property
    def suspensions(self) -> dict[tuple[str, bytes], tuple[float, str]]: ...
    @property
    def pauses(self) -> list[tuple[str, bytes, float, float]]:
        """Suspensions that are over, the last 64: kind, name, since, until (unix seconds)."""
    @property
    def first(self) -> float | None:
        """When the first queue is due (unix seconds), or None."""
    def assign(self, message: Message) -> ScheduledQueue:
        """The queue that message belongs to; the mail data must be in memory."""
    def queue(self, message: Message) -> ScheduledQueue | None:
        """The queue that message belongs to, or None."""
    def tenant(self, queue: ScheduledQueue) -> bytes:
        """The tenant whose mail queue holds."""
    def wait(self, message: Message, at: float, fresh: bool = False) -> None:
        """Have a member wait until `at` (unix seconds); fresh: for room only. ValueError when it is in no queue."""
    def remove(self, message: Message) -> None:
        """message does not wait any more, if it did; it stays a member of its queue."""
    def pop_due(self, now: float) -> ScheduledQueue | None:
        """The next queue whose time has come, or None; `settle` puts it back."""
    def take_from(self, queue: ScheduledQueue, now: float) -> Message | None:
        """The first of what waits in queue and may go, or None."""
    def settle(self, queue: ScheduledQueue) -> None:
        """queue waits in the timer for its time; nowhere when nothing waits or it is suspended."""
    def leave_alone(self, queue: ScheduledQueue, until: float, reason: bytes, failures: int = 0) -> None:
        """The next hop of queue is to be left alone until then (unix seconds; 0: no longer)."""
    def suspend(self, kind: str, name: bytes, until: float, reason: str) -> None:
        """Let nothing go by a kind ("domain", "tenant") and name until then (unix seconds; 0: until `resume`)."""
    def resume(self, kind: str, name: bytes) -> bool:
        """Whether there was such a suspension; there is none any more."""
    def unblock(self, reason: bytes) -> None:
        """Next hops that are left alone for this reason are not any more."""
    def unblock_all(self) -> None:
        """No next hop is left alone any more for what it did before: the routes have changed. Suspensions stay."""
    def renumber_policies(self) -> None:
        """Ask policy_of again for every queue: the retry schedules have changed."""
    def renumber_providers(self) -> None:
        """Ask provider_of again for every queue: the providers have changed."""
    def expire_suspensions(self, now: float) -> list[tuple[str, bytes]]:
        """End the suspensions whose time is over; returns which."""

@disjoint_base
class MessageTable:
    """Messages by id."""

    def __new__(cls) -> Self: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Message]: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def count(self) -> int: ...
    @property
    def recipients(self) -> int: ...
    @property
    def octets(self) -> int: ...
    @property
    def capacity(self) -> int:
        """How many slots there are."""
    def batch(self, position: int, slots: int) -> tuple[list[Message], int]:
        """The messages in `slots` slots from `position` on, and where to go on; for walks that give way to the loop."""
    def resize(self, octets: int) -> None:
        """Records of messages that are in have become longer by so much."""
    def insert(self, message: Message) -> None:
        """Add message; ValueError when the id is there already."""
    def get(self, id: int) -> Message | None:
        """The message of that id."""
    def discard(self, message: Message) -> bool:
        """Whether the message was there; it is not any more."""

__pyx_capi__: dict[str, object]  # the C functions of schedule.pxd
__test__: dict[str, str]
