"""Which ready queue the mail to a domain takes; documented in cext/domain_map.pyx."""

from typing import Any, Self

from typing_extensions import disjoint_base

@disjoint_base
class DomainMap:
    """Values by domain."""

    def __new__(cls) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def tag(self) -> int:
        """Of what `get` found last."""
    def get(self, domain: bytes) -> Any:
        """What was set for domain, or None."""
    def set(self, domain: bytes, target: object, tag: int = 0) -> None:
        """From now on domain has this target, and this tag; ValueError when it has more than 255 octets."""
    def clear(self) -> None:
        """Forget everything."""

__test__: dict[str, str]
