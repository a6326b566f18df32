"""Who failed to log in, how often, and who is not listened to for a while.

Job: count failures of clients (an address, of IPv6 its /64) and of log-ins (whoever tries), say how long an answer is
to be held back, and ban. A level rises by one with each failure and sinks by `limit` in each window, so a device with
an old password that tries now and then reaches no ban, and one that guesses does. At the limit the client or the
log-in is banned for `ban_s`.

A ban of a log-in must not lock its owner out: it does not hold for a client from which the log-in has succeeded within
KNOWN_S. Trusted networks are neither delayed nor banned, and their failures do not count against the log-in. Who comes
through a Unix socket has no address to be banned by.

Input: addresses and log-ins as text, a monotonic clock. Output: delays in seconds, bans. It fails never.

Bounds: MOST_ENTRIES of clients and of log-ins each, MOST_KNOWN pairs that succeeded. At the bound the one that has been
quiet for the longest is forgotten, its ban with it. `kept` and `restore` carry it over the end of the process
(policy.failure_file): of each kind MOST_KEPT, those that are banned first, then those that failed last."""

from __future__ import annotations

import hashlib
import heapq
import ipaddress
import itertools
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from angarium.mail.log_in import fold_log_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from angarium.config.credentials import Access

__all__ = ["BanEntry", "FailureTable", "Kept", "KeptEntry", "client_of"]

MOST_ENTRIES = 65536
MOST_KNOWN = 20_000
KNOWN_S = 7 * 86400.0
KNOWN_AGAIN_S = 3600.0  # one that succeeds again sooner is no news to `kept`
MOST_KEPT = 10_000
KEPT_FROM = 3  # failures of a log-in that nobody knows

Subject = Literal["address", "log_in"]


def client_of(address: str) -> str:
    """What counts as one client: an IPv4 address, also one mapped into IPv6; of an IPv6 address its /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))


@dataclass(slots=True)
class _Entry:
    level: float = 0.0
    failures: int = 0  # since it was last at rest
    at: float = 0.0
    banned_until: float = 0.0
    shown: str = ""  # of a log-in: its name, once some back end knew it


@dataclass(frozen=True, slots=True)
class BanEntry:
    """A ban that holds, or that has just begun."""

    kind: Subject
    of: str
    failures: int
    left_s: float


class KeptEntry(msgspec.Struct, array_like=True, frozen=True):
    """One client or log-in; times are the calendar's."""

    key: str
    level: float
    failures: int
    at: float
    banned_until: float
    shown: str


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """What of a table outlives its process. `known`: client, log-in as in the table, when it succeeded last."""

    written: float
    secret: bytes
    entries: dict[Subject, list[KeptEntry]]
    known: list[tuple[str, str, float]]


class FailureTable:
    """The failures of one node. `changes` counts what `kept` would show."""

    def __init__(self, access: Access, monotonic: Callable[[], float]) -> None:
        self.changes = 0
        self._access = access
        self._monotonic = monotonic
        self._secret = os.urandom(16)
        self._tables: dict[Subject, OrderedDict[str, _Entry]] = {"address": OrderedDict(), "log_in": OrderedDict()}
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()

    def trusts(self, address: str) -> bool:
        """Whether it is in a trusted network."""
        networks = self._access.trusted_networks
        if not networks or not client_of(address):
            return False
        return any(address.partition("%")[0] in network for network in networks)

    def banned(self, address: str, log_in: str) -> bool:
        """Whether nobody should look at what this client wants to prove about this log-in ("" is none yet)."""
        if self.trusts(address):
            return False
        now, client = self._monotonic(), client_of(address)
        if client and self._holds("address", client, now):
            return True
        return (
            bool(log_in) and self._holds("log_in", self._key(log_in), now) and not self._is_known(client, log_in, now)
        )

    def failed(self, address: str, log_in: str, *, exists: bool) -> tuple[float, list[BanEntry]]:
        """A failure: how long its answer is to be held back, and the bans that it was the last straw for.

        `exists`: some back end knows the log-in, so that its name may be shown; any other may be a mistyped secret.
        """
        if self.trusts(address):
            return 0.0, []
        access, begun = self._access, []
        level = 0.0
        self.changes += 1
        client, now = client_of(address), self._monotonic()
        subjects: list[tuple[Subject, str, int]] = []
        if client:  # else it came through a Unix socket, as others may
            subjects.append(("address", client, access.address_failures))
        if log_in and not self._is_known(client, log_in, now):
            # who knows the password may mistype it; what he does from there is counted there
            subjects.append(("log_in", self._key(log_in), access.log_in_failures))
        for kind, key, limit in subjects:
            entry = self._entry(kind, key)
            sunk = max(0.0, entry.level - (now - entry.at) * limit / access.window_s)
            entry.failures = entry.failures + 1 if sunk else 1
            entry.level, entry.at = sunk + 1, now
            if kind == "log_in" and exists:
                entry.shown = log_in
            level = max(level, entry.level)
            if entry.level > limit - 0.5 and entry.banned_until <= now:
                entry.banned_until = now + access.ban_s
                entry.level = 0.0
                begun.append(BanEntry(kind, self._shown(kind, key, entry), entry.failures, access.ban_s))
        return self._delay_s(level or 1.0), begun

    def delay_s(self, address: str) -> float:
        """How long a failure is held back that is no news: the same wrong password once more."""
        if self.trusts(address):
            return 0.0
        entry = self._tables["address"].get(client_of(address))
        return self._delay_s(entry.level if entry is not None else 1.0)

    def rank(self, address: str, log_in: str) -> float:
        """Who goes first where many wait: who has shown that he knows the log-in, then who has failed least."""
        client, now = client_of(address), self._monotonic()
        if self.trusts(address) or self._is_known(client, log_in, now):
            return 0.0
        entry = self._tables["address"].get(client)
        return 1.0 if entry is None else 1.0 + entry.level

    def succeeded(self, address: str, log_in: str) -> None:
        """Remember that this log-in comes from there. It does not clear the client's failures at other log-ins."""
        pair, now = (client_of(address), self._key(log_in)), self._monotonic()
        self.changes += now - self._known.get(pair, -KNOWN_S) > KNOWN_AGAIN_S
        self._known[pair] = now
        self._known.move_to_end(pair)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def bans(self) -> list[BanEntry]:
        """Those that hold, the one that ends last first."""
        return sorted(self._all(), key=lambda ban: -ban.left_s)

    def lift(self, subject: str) -> list[BanEntry]:
        """Forget the failures and the bans of an address (of IPv6: its /64), of a log-in, or ("*") of all."""
        wanted: set[tuple[Subject, str]] = {("log_in", subject), ("log_in", self._key(subject))}
        client = client_of(subject.partition("/")[0])
        if client:
            wanted.add(("address", client))
        now, lifted = self._monotonic(), []
        for kind, table in self._tables.items():
            for key, entry in list(table.items()):
                if subject not in {"*", self._shown(kind, key, entry)} and (kind, key) not in wanted:
                    continue
                if entry.banned_until > now:
                    shown = self._shown(kind, key, entry)
                    lifted.append(BanEntry(kind, shown, entry.failures, entry.banned_until - now))
                del table[key]
        self.changes += 1
        return lifted

    # ------------------------------------------------------------------ over the end of the process

    def kept(self, calendar: float) -> Kept:
        """What is to outlive this process; `calendar`: the time, in seconds since 1970."""
        now = self._monotonic()
        since = calendar - now
        limits = {"address": self._access.address_failures, "log_in": self._access.log_in_failures}
        entries: dict[Subject, list[KeptEntry]] = {}
        for kind, table in self._tables.items():
            sinks = limits[kind] / self._access.window_s
            chosen = heapq.nlargest(
                MOST_KEPT,
                (item for item in table.items() if self._is_to_keep(kind, item[1], now, sinks)),
                key=lambda item: (item[1].banned_until > now, item[1].at),
            )
            entries[kind] = [
                KeptEntry(key, entry.level, entry.failures, since + entry.at, since + entry.banned_until, entry.shown)
                for key, entry in sorted(chosen, key=lambda item: item[1].at)
            ]
        newest = itertools.islice(reversed(self._known.items()), MOST_KEPT)
        known = [(client, key, since + at) for (client, key), at in newest if now - at < KNOWN_S]
        return Kept(calendar, self._secret, entries, known[::-1])

    def restore(self, kept: Kept, calendar: float) -> None:
        """Go on from there. A ban holds no longer than `ban` says now, whatever the calendar has done meanwhile."""
        now = self._monotonic()

        def then(moment: float) -> float:
            return now - max(0.0, calendar - moment)

        self._secret = kept.secret
        for kind, entries in kept.entries.items():
            table = self._tables[kind]
            for entry in entries:
                left_s = min(entry.banned_until - calendar, self._access.ban_s)
                table[entry.key] = _Entry(
                    entry.level, entry.failures, then(entry.at), now + left_s if left_s > 0 else 0.0, entry.shown
                )
        for client, key, at in kept.known:
            self._known[client, key] = then(at)

    @staticmethod
    def _is_to_keep(kind: Subject, entry: _Entry, now: float, sinks: float) -> bool:
        if kind == "log_in" and not entry.shown and entry.failures < KEPT_FROM:
            return False
        return entry.banned_until > now or entry.level > (now - entry.at) * sinks

    def _all(self) -> Iterator[BanEntry]:
        now = self._monotonic()
        for kind, table in self._tables.items():
            for key, entry in table.items():
                if entry.banned_until > now:
                    yield BanEntry(kind, self._shown(kind, key, entry), entry.failures, entry.banned_until - now)

    def _delay_s(self, level: float) -> float:
        access = self._access
        return min(access.longest_delay_s, access.delay_s * 2 ** min(max(0.0, level - 1), 30.0))

    def _holds(self, kind: Subject, key: str, now: float) -> bool:
        entry = self._tables[kind].get(key)
        return entry is not None and entry.banned_until > now

    def _is_known(self, client: str, log_in: str, now: float) -> bool:
        at = self._known.get((client, self._key(log_in)))
        return at is not None and now - at < KNOWN_S

    def _entry(self, kind: Subject, key: str) -> _Entry:
        table = self._tables[kind]
        entry = table.get(key)
        if entry is None:
            entry = table[key] = _Entry(at=self._monotonic())
            if len(table) > MOST_ENTRIES:
                table.popitem(last=False)
        table.move_to_end(key)
        return entry

    @staticmethod
    def _shown(kind: Subject, key: str, entry: _Entry) -> str:
        return entry.shown or key if kind == "log_in" else key

    def _key(self, log_in: str) -> str:
        """A log-in in the table: not its name, which may be a password in the wrong field."""
        return "#" + hashlib.blake2b(fold_log_in(log_in).encode(), digest_size=8, key=self._secret).hexdigest()
