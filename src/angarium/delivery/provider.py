"""Whose mail hosts mail goes to, for the metrics that count by provider.

Input: the [[provider]] tables, and who knows the row of a name in the shared counters. Output: rows, by the domain of
mail or by the names of its mail hosts; 0, which is `other`, where no table matches. The first table that matches wins,
whichever of its patterns it is. Rows are asked for anew each time, for a reload gives new names theirs when it is
decided.

It never fails. Bound: a look-up for each label of a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium._core.counters import Counters, Dimension
from angarium.mail.address import folded_domain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from angarium.config.model import Provider
    from angarium.mail.pattern import AddressPattern

__all__ = ["Providers"]

OTHER = 0


class Providers:
    """Those of one configuration."""

    def __init__(self, providers: Sequence[Provider], counters: Counters) -> None:
        self._counters = counters
        self._names = [provider.name.encode("utf-8") for provider in providers]
        self._domains = _Names(provider.domains for provider in providers)
        self._mail_hosts = _Names(provider.mail_hosts for provider in providers)

    def of_domain(self, domain: bytes) -> int:
        """The row of the provider that a domain's mail belongs to by the domain alone; 0: none says so."""
        return self._row(self._domains.first(folded_domain(domain))) if domain and self._names else OTHER

    def of_hosts(self, hosts: Iterable[str]) -> int:
        """The row of the provider whose mail hosts these are: of the first host that one has."""
        if not self._names:
            return OTHER
        for host in hosts:
            found = self._mail_hosts.first(host.lower().rstrip(".").encode("ascii", "replace"))
            if found is not None:
                return self._row(found)
        return OTHER

    def _row(self, position: int | None) -> int:
        if position is None:
            return OTHER
        return self._counters.row(Dimension.DIMENSION_PROVIDER, self._names[position])


class _Names:
    """Positions by pattern: names as they are, and the names below which everything is meant."""

    def __init__(self, patterns: Iterable[tuple[AddressPattern, ...]]) -> None:
        self._exact: dict[bytes, int] = {}
        self._below: dict[bytes, int] = {}
        for position, own in enumerate(patterns):
            for pattern in own:
                where = self._below if pattern.kind == "subdomain" else self._exact
                where.setdefault(pattern.domain, position)

    def first(self, name: bytes) -> int | None:
        """The lowest position with a pattern that matches name, in lower case."""
        found = [self._exact[name]] if name in self._exact else []
        if self._below:
            rest = name
            while b"." in rest:
                rest = rest.partition(b".")[2]
                if rest in self._below:
                    found.append(self._below[rest])
        return min(found, default=None)
