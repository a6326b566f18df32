"""What a worker counts of its TLS sessions for reports to domains (RFC 8460), and how it gets to the lookup process.

Input: a TlsOutcome for each session that is set up, or is not for want of TLS. Output: batches of equal results counted
together, about once a second, one at a time; what could not be handed over is kept and handed over with the next.

Counted is what concerns a domain's own mail hosts: not next hops that a route names, and not mail with
`TLS-Required: No`, for which no policy of the domain holds; reports themselves are such mail, so that none is about the
sending of another (RFC 8460 §3). A result belongs to the day of UTC on which it came about, and to the domain of the
message for which the connection was opened; what other domains with the same hosts send over it afterwards is no
session of its own.

Fails: not at all. A kill costs what was counted since the last batch, a second at most; when the lookup process dies
between taking a batch and saying so, that batch is counted twice. Bounds: MOST_KINDS of results in hand (beyond, they
are dropped and counted in `dropped`), MOST_STRINGS of a policy, MOST_RESULTS and LARGEST_BATCH of a batch."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from angarium.delivery.lookup_protocol import MOST_RESULTS, TLS_RESULTS, TlsBatch
from angarium.delivery.mail_host import ResolutionFailure
from angarium.outcome.tls_report import ReportPolicy, SessionResult

if TYPE_CHECKING:
    from datetime import date

    from angarium.clock import Clock
    from angarium.delivery.lookup_client import LookupClient
    from angarium.delivery.target import Host, TlsPolicy
    from angarium.delivery.tls_result import TlsOutcome

__all__ = ["TlsAccount"]

MOST_KINDS = 20_000
MOST_STRINGS = 40  # of a policy, in a result
LONGEST_REASON = 300
LARGEST_BATCH = 512 << 10  # octets, as estimated: a frame to the lookup process has its bound
OCTETS_EACH = 100


class TlsAccount:
    """The account of one worker."""

    def __init__(self, clock: Clock) -> None:
        self.dropped = 0
        self._clock = clock
        self._counts: dict[tuple[date, SessionResult], int] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def note(self, outcome: TlsOutcome) -> None:
        """Count what setting up one session came to."""
        policy = outcome.policy
        if not policy.domain or policy.domain.startswith("["):
            return
        reported = _reported(policy, outcome.host)
        if outcome.result is None:
            result = SessionResult(reported)
        else:
            result = SessionResult(
                reported,
                outcome.result,
                sending_ip=outcome.local,
                receiving_host=outcome.host.name,
                receiving_ip=outcome.host.address if outcome.local else "",  # else it was not dialled
                reason=outcome.text[:LONGEST_REASON],
            )
        self._add(datetime.fromtimestamp(self._clock.now(), UTC).date(), result, 1)

    def _add(self, day: date, result: SessionResult, count: int) -> None:
        key = (day, result)
        if key not in self._counts and len(self._counts) >= MOST_KINDS:
            self.dropped += count
            return
        self._counts[key] = self._counts.get(key, 0) + count

    @property
    def pending(self) -> bool:
        """Whether there is something to be handed over, and nobody who does it."""
        return bool(self._counts) and self._idle.is_set()

    async def hand_over(self, lookup: LookupClient) -> None:
        """Give what was counted to the lookup process; at once when that is being done already."""
        if not self._idle.is_set():
            return
        self._idle.clear()
        try:
            while self._counts:
                batch = self._take()
                taken = False
                try:
                    await lookup.ask(TLS_RESULTS, batch)
                    taken = True
                except ResolutionFailure:
                    return
                finally:
                    if not taken:
                        for result, count in batch.results:
                            self._add(batch.day, result, count)
        finally:
            self._idle.set()

    async def hand_over_last(self, lookup: LookupClient) -> None:
        """The same, behind one that is under way."""
        await self._idle.wait()
        await self.hand_over(lookup)

    def _take(self) -> TlsBatch:
        """As much as goes into one request, all of it of one day."""
        day = next(iter(self._counts))[0]
        keys: list[tuple[date, SessionResult]] = []
        octets = 0
        for key in self._counts:
            if key[0] != day:
                continue
            octets += _octets_of(key[1])
            if keys and (octets > LARGEST_BATCH or len(keys) == MOST_RESULTS):
                break
            keys.append(key)
        return TlsBatch(day, tuple((key[1], self._counts.pop(key)) for key in keys))


def _reported(policy: TlsPolicy, host: Host) -> ReportPolicy:
    """The policy as a report names it (RFC 8460 §4.4)."""
    if policy.level == "dane":
        records = tuple(
            f"{record.usage} {record.selector} {record.matching} {record.data.hex()}" for record in host.tlsa or ()
        )
        return ReportPolicy(policy.domain, "tlsa", records[:MOST_STRINGS])
    if policy.sts is not None:
        lines, patterns = policy.sts.lines(), policy.sts.patterns
        return ReportPolicy(policy.domain, "sts", lines[:MOST_STRINGS], patterns[:MOST_STRINGS])
    return ReportPolicy(policy.domain)


def _octets_of(result: SessionResult) -> int:
    policy = result.policy
    texts = (*policy.strings, *policy.hosts, policy.domain, result.receiving_host, result.reason)
    return OCTETS_EACH + sum(map(len, texts)) + 3 * (len(policy.strings) + len(policy.hosts))
