"""The MTA-STS policies that a node knows: discovered, fetched, kept over restarts, refreshed: RFC 8461 §3.3, §5, §10.2.

Job: `policy` says which policy holds for mail to a domain. Input: two functions, one that looks up TXT records and one
that fetches a domain's policy file; a folder; a clock. Output: a PolicyAnswer with the policy, or with None where there
is none to obey, and the time up to which that may be used without asking again.

What is asked in which order (§3.3, §5.1):

    no name server has an answer        the policy that is kept, if it has not expired
    no usable _mta-sts record           the same: its absence takes no policy away (§3.1)
    the record's id is the kept one's   the same, without a fetch
    another id, or none is kept         the file is fetched; a failure leaves what is kept as it is

A fetch that failed is not repeated for the same id for FAILURE_FIRST_S, doubling up to FAILURE_LONGEST_S (§3.3: five
minutes or longer). One fetch is under way for a domain, and all who ask wait for it; who has a kept policy waits
no longer than `patience_s`. What is kept is fetched again once a day, earlier when half of its life is over, in the
background, as long as mail was sent to the domain within IDLE_S: so a policy does not end because somebody keeps its
file from being read for a while. Where that fails a warning is logged (§5.1), unless its mode is none.

A policy lives as long as its max_age says, by the calendar, and at least LEAST_LIFE_S: with a max_age of nothing its
file would be fetched for every message.

The file SPOOL/mta-sts.json has what is kept. `save` replaces it whole, synced, from `run` at most once in SAVE_S; a
power failure or a kill costs the policies of the last SAVE_S. The process that runs this is its only writer.

Fails: not at all. A file that cannot be read, or is none, is logged, and kept aside under another name; one that cannot
be written is logged and tried again. What fails of a fetch is counted, and told to `report` for TLS reports.

Bounds: `policies` kept and `octets` of them (the one used longest ago goes first), as many failures remembered, and
`fetches` at one time; who waits longer than `fetch_timeout_s` for a turn is answered as if the fetch had failed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.mta_sts import Mode, Policy, PolicyError, parse_policy, record_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from angarium.clock import Clock
    from angarium.delivery.mail_host import TextRecords
    from angarium.smtp.tls_result import TlsResult

__all__ = ["FetchFailure", "PolicyAnswer", "PolicyLimits", "PolicyStore"]

log = logging.getLogger(__name__)

FILE = "mta-sts.json"
DAY_S = 86400.0
IDLE_S = 30 * DAY_S
LEAST_LIFE_S = 60.0
FAILURE_FIRST_S = 300.0
FAILURE_LONGEST_S = 3600.0
DNS_FAILURE_S = 60.0  # so long holds what was said without an answer of DNS: to wait for none again delays mail
BUSY_S = 30.0  # so long nothing is fetched for a domain that got no turn
LOOK_S = 60.0  # how often it is looked for what should be fetched again
SAVE_S = 2.0
OCTETS_EACH = 160  # of the file, beside the patterns


class FetchFailure(Exception):
    """A policy file could not be had: why, for people, and for a TLS report (RFC 8460 §4.3.2.2)."""

    def __init__(self, kind: TlsResult, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLimits:
    """The bounds of one PolicyStore."""

    policies: int = 10_000
    octets: int = 16 << 20
    fetches: int = 200
    fetch_timeout_s: float = 60.0  # RFC 8461 §3.3 suggests it
    patience_s: float = 5.0


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """What holds for a domain until `expires`, a time of the monotonic clock.

    `failure` is what a TLS report says of a file that should be there and cannot be had.
    """

    policy: Policy | None
    expires: float
    failure: TlsResult | None = None


class _Kept(msgspec.Struct):
    """One policy as the file has it. Times are of the calendar, in seconds."""

    domain: str
    id: str
    fetched: float
    used: float
    mode: Mode
    max_age_s: int
    patterns: tuple[str, ...]

    @property
    def policy(self) -> Policy:
        return Policy(self.mode, self.max_age_s, self.patterns)

    @property
    def expires(self) -> float:
        return self.fetched + max(float(self.max_age_s), LEAST_LIFE_S)

    @property
    def octets(self) -> int:
        return OCTETS_EACH + len(self.domain) + sum(len(pattern) + 3 for pattern in self.patterns)


@dataclass(slots=True)
class _Failed:
    """The last fetch for a domain failed, and the one for this id is not repeated before `until` (monotonic)."""

    id: str
    count: int
    until: float
    kind: TlsResult | None


class PolicyStore:
    """The policies of one node. `fetched`, `failed` and `kept_on`, counts of policy files, only ever grow."""

    def __init__(
        self,
        resolve_txt: Callable[[str], Awaitable[TextRecords]],
        fetch: Callable[[str], Awaitable[bytes]],
        folder: Path,
        clock: Clock,
        *,
        report: Callable[[str, TlsResult, str], None] | None = None,
        limits: PolicyLimits | None = None,
    ) -> None:
        """`resolve_txt` gives the TXT records of a name, ResolutionFailure when no server has an answer; `fetch` the
        policy file of a domain, or FetchFailure.
        """
        self.fetched = 0
        self.failed = 0
        self.kept_on = 0  # failures while a policy was kept that says something
        self._resolve_txt = resolve_txt
        self._fetch_file = fetch
        self._path = folder / FILE
        self._clock = clock
        self._report = report
        self._limits = limits or PolicyLimits()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the one used longest ago first
        self._octets = 0
        self._failed: OrderedDict[str, _Failed] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(self._limits.fetches)
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._kept)

    # ------------------------------------------------------------------ what is asked

    async def policy(self, domain: str) -> PolicyAnswer:
        """The policy for mail to `domain`: A-labels in lower case, the domain behind the @ and no parent of it."""
        kept = self._living(domain)
        if kept is not None:
            kept.used = self._clock.now()
            self._kept.move_to_end(domain)
        try:
            answer = await self._resolve_txt(f"_mta-sts.{domain}")
        except ResolutionFailure:
            return self._answer(domain, self._clock.monotonic() + DNS_FAILURE_S)
        found, expires = record_id(answer.records), answer.expires
        if found is None or (kept is not None and kept.id == found):
            return self._answer(domain, expires)
        failed = self._failed_before(domain, found)
        if failed is None:
            await self._wait_for(self._start(domain, found), None if kept is None else self._limits.patience_s)
            failed = self._failed_before(domain, found)
        if failed is not None:
            expires = min(expires, failed.until)
        return self._answer(domain, expires, None if failed is None else failed.kind)

    def _answer(self, domain: str, expires: float, failure: TlsResult | None = None) -> PolicyAnswer:
        kept = self._living(domain)
        if kept is None:
            return PolicyAnswer(None, expires, failure)
        left_s = kept.expires - self._clock.now()
        return PolicyAnswer(kept.policy, min(expires, self._clock.monotonic() + left_s), failure)

    def _living(self, domain: str) -> _Kept | None:
        """The policy that is kept for a domain, unless its time is over."""
        kept = self._kept.get(domain)
        if kept is None:
            return None
        kept.fetched = min(kept.fetched, self._clock.now())  # a calendar that went back makes no policy live longer
        if kept.expires > self._clock.now():
            return kept
        self._drop(domain)
        return None

    def _failed_before(self, domain: str, record: str) -> _Failed | None:
        failed = self._failed.get(domain)
        if failed is None or failed.id != record or failed.until <= self._clock.monotonic():
            return None
        return failed

    # ------------------------------------------------------------------ fetching

    def _start(self, domain: str, record: str) -> asyncio.Task[None]:
        task = self._under_way.get(domain)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(domain, record))
            self._under_way[domain] = task
            task.add_done_callback(partial(self._forget, domain))
        return task

    def _forget(self, domain: str, _: asyncio.Task[None]) -> None:
        del self._under_way[domain]

    async def _wait_for(self, task: asyncio.Task[None], patience_s: float | None) -> None:
        # one who is cancelled, or has no patience, must not end the fetch for the others
        await asyncio.wait([task], timeout=patience_s)

    async def _fetch(self, domain: str, record: str) -> None:
        turn = False
        try:
            async with asyncio.timeout(self._limits.fetch_timeout_s), self._slots:
                turn = True
                policy = parse_policy(await self._fetch_file(domain))
        except TimeoutError:
            if turn:
                text = f"not there within {self._limits.fetch_timeout_s:g} s"
                self._fail(domain, record, "sts-policy-fetch-error", text)
            else:
                self._put_off(domain, record)
        except FetchFailure as failure:
            self._fail(domain, record, failure.kind, str(failure))
        except PolicyError as failure:
            self._fail(domain, record, "sts-policy-invalid", str(failure))
        else:
            self.fetched += 1
            now = self._clock.now()
            before = self._kept.get(domain)
            used = now if before is None else before.used
            self._keep(_Kept(domain, record, now, used, policy.mode, policy.max_age_s, policy.patterns))
            self._failed.pop(domain, None)
            self._changed.set()

    def _fail(self, domain: str, record: str, kind: TlsResult, text: str) -> None:
        before = self._failed.pop(domain, None)
        count = before.count + 1 if before is not None and before.id == record else 0
        rest_s = min(FAILURE_FIRST_S * 2.0 ** min(count, 30), FAILURE_LONGEST_S)
        self._remember_failure(domain, _Failed(record, count, self._clock.monotonic() + rest_s, kind))
        kept = self._living(domain)
        if kept is None or kept.mode == "none":
            self.failed += 1
        else:
            self.kept_on += 1
        if kept is None or kept.mode != "none":
            kept_text = "" if kept is None else "; the policy that is kept goes on"
            log.warning("the MTA-STS policy of %s: %s%s", domain, text, kept_text)
        if self._report is not None:
            self._report(domain, kind, text)

    def _put_off(self, domain: str, record: str) -> None:
        """There was no turn for a fetch: that is nobody's fault but this node's, and no result."""
        log.warning("the MTA-STS policy of %s: too many others are being fetched", domain)
        before = self._failed.pop(domain, None)
        count = before.count if before is not None and before.id == record else 0
        self._remember_failure(domain, _Failed(record, count, self._clock.monotonic() + BUSY_S, None))

    def _remember_failure(self, domain: str, failed: _Failed) -> None:
        self._failed[domain] = failed
        while len(self._failed) > self._limits.policies:
            self._failed.popitem(last=False)

    def _keep(self, kept: _Kept) -> None:
        self._drop(kept.domain)
        self._kept[kept.domain] = kept
        self._octets += kept.octets
        while len(self._kept) > self._limits.policies or (self._octets > self._limits.octets and len(self._kept) > 1):
            self._drop(next(iter(self._kept)))

    def _drop(self, domain: str) -> None:
        kept = self._kept.pop(domain, None)
        if kept is not None:
            self._octets -= kept.octets

    # ------------------------------------------------------------------ what goes on by itself

    async def run(self) -> None:
        """Refresh and save until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._refresh_again_and_again())
            group.create_task(self._save_again_and_again())

    async def _refresh_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.refresh()

    async def _save_again_and_again(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(SAVE_S)
            await self.save()

    async def refresh(self) -> None:
        """Fetch again what is old, is used, and has not just failed; as many at one time as fetches may be."""
        due = [kept.domain for kept in list(self._kept.values()) if self._is_due(kept)]
        for first in range(0, len(due), self._limits.fetches):
            await asyncio.gather(*(self._refresh(domain) for domain in due[first : first + self._limits.fetches]))

    def _is_due(self, kept: _Kept) -> bool:
        now = self._clock.now()
        if now - kept.fetched < min(DAY_S, max(kept.max_age_s, LEAST_LIFE_S) / 2) or now - kept.used > IDLE_S:
            return False
        return self._living(kept.domain) is not None

    async def _refresh(self, domain: str) -> None:
        try:
            answer = await self._resolve_txt(f"_mta-sts.{domain}")
        except ResolutionFailure:
            return
        found = record_id(answer.records)
        if found is not None and self._failed_before(domain, found) is None:
            await self._wait_for(self._start(domain, found), None)

    async def close(self) -> None:
        """Give up what is under way, and save."""
        tasks = tuple(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._kept or self._changed.is_set():
            await self.save()

    # ------------------------------------------------------------------ the file

    def load(self) -> None:
        """Take up what the file has. To be called once, before anything is asked."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=list[_Kept])
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as failure:
            log.error("%s: %s; MTA-STS begins without the policies that were kept", self._path, failure)
            try:
                self._path.rename(self._path.with_suffix(".damaged"))
            except OSError as why:
                log.error("%s cannot be kept aside: %s", self._path, why)
            return
        for kept in sorted(found, key=lambda kept: kept.used):
            self._keep(kept)

    async def save(self) -> None:
        """Replace the file; it is on disk when this returns, or what is wrong is logged."""
        self._changed.clear()
        octets = msgspec.json.encode(list(self._kept.values()))
        try:
            await asyncio.get_running_loop().run_in_executor(None, _replace, self._path, octets)
        except OSError as failure:
            log.error("%s cannot be written: %s", self._path, failure)
            self._changed.set()


def _replace(path: Path, octets: bytes) -> None:
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(octets)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
