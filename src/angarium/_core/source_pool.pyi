"""Source pools: which of its sources a message goes by; documented in cext/source_pool.pyx."""

from typing import Self

from typing_extensions import disjoint_base

@disjoint_base
class Outlet:
    """A source as a member of a pool: what mail is assigned to, by number."""

    down: bool
    suspended: bool
    @property
    def number(self) -> int: ...
    @property
    def pool(self) -> bytes: ...
    @property
    def source(self) -> bytes: ...
    @property
    def by_route(self) -> bool: ...
    @property
    def missing(self) -> bool: ...
    @property
    def instead(self) -> SourcePool | None: ...
    @property
    def weight(self) -> int: ...

@disjoint_base
class SourcePool:
    """The outlets of one pool, taken in turn by weight."""

    def __init__(self, name: bytes) -> None: ...
    @property
    def name(self) -> bytes: ...
    @property
    def outlets(self) -> list[Outlet]: ...
    def take(self) -> int:
        """Number of the outlet whose turn it is; 0 when there is none."""

@disjoint_base
class SourcePools:
    """All pools of a worker, and the outlets that mail may be assigned to."""

    def __new__(cls) -> Self: ...
    @property
    def own(self) -> dict[bytes, SourcePool]: ...
    @property
    def of_routes(self) -> dict[bytes, SourcePool]: ...
    @property
    def outlets(self) -> list[Outlet | None]: ...
    @property
    def none(self) -> SourcePool: ...
    @property
    def missed(self) -> dict[bytes, int]: ...
    def change(self, pools: list[tuple[bytes, list[tuple[bytes, int]]]]) -> None:
        """From now on the pools are these: (name, [(source, weight)])."""
    def take_missed(self) -> dict[bytes, int]:
        """Messages that came since the last call and name a pool that is not there, by its name."""

__test__: dict[str, str]
