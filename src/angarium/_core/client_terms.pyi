"""What policy grants to one client; documented in cext/client_terms.pyx."""

from typing import Never

from typing_extensions import disjoint_base

from angarium._core.permission import Permission

@disjoint_base
class ClientTerms:
    """What policy grants to the clients of one address on one listener."""

    def __init__(
        self,
        *args: Never,
        may_relay: bool = False,
        bare_newlines: bool = False,
        tenant: bytes = b"",
        bulk: bool = False,
        durability: int = 0,
        durability_floor: int | None = None,
        durability_ceiling: int | None = None,
        highest_priority: int = 9,
        permission: Permission | None = None,
        source_pool: bytes = b"",
    ) -> None:
        """durability_floor and durability_ceiling: None is the class itself, and the strongest one.

        ValueError when the class does not stand between the two.
        """
    @property
    def may_relay(self) -> bool: ...
    @property
    def bare_newlines(self) -> bool: ...
    @property
    def tenant(self) -> bytes: ...
    @property
    def flags(self) -> int: ...
    @property
    def durability(self) -> int: ...
    @property
    def durability_floor(self) -> int: ...
    @property
    def durability_ceiling(self) -> int: ...
    @property
    def highest_priority(self) -> int: ...
    @property
    def permission(self) -> Permission | None: ...
    @property
    def source_pool(self) -> bytes: ...
    @property
    def told(self) -> bytes:
        """Members of the event of a message, as JSON: its permission and its pool."""
    def asked(self, value: bytes) -> int:
        """The class of a message whose X-Angarium-Durability says value."""

__test__: dict[str, str]
