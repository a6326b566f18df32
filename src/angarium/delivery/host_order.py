"""In which order a connection tries the hosts of its target: shares first, then those that failed lately last.

Job: where a route gives several next hops, `named` puts them in order of priority, those of one priority in a random
order by weight, anew for each connection. `in_order` moves hosts that rest to the end, so that a dead first host does
not cost every connection its timeout. A host rests when it could not be used, for REST_FIRST_S, twice as long each time
in a row, up to REST_LONGEST_S; then one connection tries it again while the others go on without it. A host that an
attempt has waited for longer than SLOW_S counts as resting too. When all rest, they are tried all the same: leaving a
whole next hop alone is the ready queue's matter.

A host that failed in a session rests likewise, for TROUBLE_S at least.

Input: a Target, then its hosts at their addresses, and what became of each attempt. It never fails. Time and chance are
given. Bounds: MOST_HOSTS hosts are remembered; the rest that ends first is forgotten first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from angarium.delivery.target import Host, Target, TlsPolicy

__all__ = ["HostOrder"]

REST_FIRST_S = 10.0
REST_LONGEST_S = 300.0
TROUBLE_S = 60.0
SLOW_S = 5.0
MOST_HOSTS = 10_000

_Key = tuple[str, int, "TlsPolicy"]  # a host may do under one policy and not under another


@dataclass(slots=True)
class _Rest:
    until: float
    failures: int


@dataclass(slots=True)
class _Trying:
    attempts: int
    since: float


class HostOrder:
    """What one worker knows of the hosts that it tried."""

    def __init__(self, monotonic: Callable[[], float], chance: Random) -> None:
        self._monotonic = monotonic
        self._chance = chance
        self._rests: dict[_Key, _Rest] = {}
        self._trying: dict[_Key, _Trying] = {}

    def named(self, target: Target) -> list[Host]:
        """The hosts of target for one connection."""
        if not target.shares:
            return list(target.hosts)
        keyed = [
            # the smallest of exponential variables of rate w comes first with probability w of the sum
            (share.priority, self._chance.expovariate(share.weight), number)
            for number, share in enumerate(target.shares)
        ]
        return [target.hosts[number] for _, _, number in sorted(keyed)]

    def in_order(self, hosts: Iterable[Host], tls: TlsPolicy, *, look: bool = False) -> list[Host]:
        """The same hosts, those that rest behind the others, the one whose rest ends first before them.

        A host whose rest is over is in its place for this call alone: the next ones wait for what becomes of it.
        `look`: nothing is tried, so nothing changes.
        """
        now = self._monotonic()
        fresh, resting = [], []
        for host in hosts:
            key = _key(host, tls)
            rest = self._rests.get(key)
            trying = self._trying.get(key)
            if rest is not None and rest.until > now:
                resting.append((rest.until, host))
            elif trying is not None and now - trying.since > SLOW_S:
                resting.append((now, host))
            else:
                if rest is not None and not look:
                    rest.until = now + _rest_s(rest.failures)
                fresh.append(host)
        return fresh + [host for _, host in sorted(resting, key=lambda entry: entry[0])]

    def began(self, host: Host, tls: TlsPolicy) -> None:
        """An attempt begins; `worked`, `failed` or `broke_off` follows."""
        trying = self._trying.setdefault(_key(host, tls), _Trying(0, self._monotonic()))
        trying.attempts += 1

    def worked(self, host: Host, tls: TlsPolicy) -> None:
        """The host was ready for mail."""
        self._rests.pop(_key(host, tls), None)
        trying = self._over(host, tls)
        if trying is not None:
            trying.since = self._monotonic()

    def failed(self, host: Host, tls: TlsPolicy) -> None:
        """It could not be used."""
        self._over(host, tls)
        key = _key(host, tls)
        now = self._monotonic()
        rest = self._rests.get(key)
        if rest is None:
            if len(self._rests) >= MOST_HOSTS:
                self._forget()
            rest = self._rests[key] = _Rest(now, 0)
        rest.failures += 1
        rest.until = now + _rest_s(rest.failures)

    def in_trouble(self, host: Host, tls: TlsPolicy) -> None:
        """It failed in a session, which is no attempt to open one; it rests for TROUBLE_S at least."""
        key = _key(host, tls)
        now = self._monotonic()
        rest = self._rests.get(key)
        if rest is None:
            if len(self._rests) >= MOST_HOSTS:
                self._forget()
            rest = self._rests[key] = _Rest(now, 0)
        rest.failures += 1
        rest.until = now + max(_rest_s(rest.failures), TROUBLE_S)

    def broke_off(self, host: Host, tls: TlsPolicy) -> None:
        """The attempt was given up for reasons of our own."""
        self._over(host, tls)

    def rests_for(self, host: Host, tls: TlsPolicy) -> float:
        """Seconds until a resting host is tried again; 0 for one that does not rest."""
        rest = self._rests.get(_key(host, tls))
        return 0.0 if rest is None else max(0.0, rest.until - self._monotonic())

    def _over(self, host: Host, tls: TlsPolicy) -> _Trying | None:
        key = _key(host, tls)
        trying = self._trying.get(key)
        if trying is None:
            return None
        trying.attempts -= 1
        if trying.attempts <= 0:
            del self._trying[key]
            return None
        return trying

    def _forget(self) -> None:
        """Make room: what rests no longer goes, else the rest that ends first."""
        now = self._monotonic()
        over = [key for key, rest in self._rests.items() if rest.until <= now]
        for key in over or [min(self._rests, key=lambda key: self._rests[key].until)]:
            del self._rests[key]


def _key(host: Host, tls: TlsPolicy) -> _Key:
    return host.address, host.port, tls


def _rest_s(failures: int) -> float:
    return min(REST_FIRST_S * 2.0 ** max(0, failures - 1), REST_LONGEST_S)
