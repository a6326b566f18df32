"""What TLS to mail hosts came to: counted, logged, told to who keeps account, and remembered.

Job: one call for each session that is set up, or is not for want of TLS. Input: the policy as it held for the host, and
what came of it in the terms of RFC 8460 §4.3. Output: the metrics of TLS, the event `tls_failed`, and a TlsOutcome for
`on_tls_result`.

`broken` says which hosts could not do the TLS that they offered, so that opportunistic mail does not pay at every
connection for a handshake that fails: a host is left in plaintext for BROKEN_S. Bounds: MOST_BROKEN hosts, the oldest
go first.

It never fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from angarium._core.counters import Counters, Slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.event_log import EventLog
    from angarium.clock import Clock
    from angarium.delivery.failure import ConnectFailure
    from angarium.delivery.target import Host, TlsPolicy
    from angarium.delivery.tls import Reached
    from angarium.smtp.tls_result import TlsResult

__all__ = ["FAILED_SLOTS", "REACHED_SLOTS", "TlsOutcome", "TlsResults"]

BROKEN_S = 900.0
MOST_BROKEN = 10_000

# What MTA-STS fails at before a host is dialled is counted elsewhere.
FAILED_SLOTS: dict[TlsResult, Slot] = {
    "starttls-not-supported": Slot.DELIVERY_TLS_NOT_SUPPORTED,
    "certificate-host-mismatch": Slot.DELIVERY_TLS_HOST_MISMATCH,
    "certificate-expired": Slot.DELIVERY_TLS_EXPIRED,
    "certificate-not-trusted": Slot.DELIVERY_TLS_NOT_TRUSTED,
    "validation-failure": Slot.DELIVERY_TLS_VALIDATION,
    "tlsa-invalid": Slot.DELIVERY_TLS_TLSA_INVALID,
    "dnssec-invalid": Slot.DELIVERY_TLS_DNSSEC_INVALID,
    "dane-required": Slot.DELIVERY_TLS_DANE_REQUIRED,
}
REACHED_SLOTS = {
    "plaintext": Slot.DELIVERY_TLS_PLAINTEXT,
    "none": Slot.DELIVERY_TLS_ENCRYPTED,
    "webpki": Slot.DELIVERY_TLS_WEBPKI,
    "dane": Slot.DELIVERY_TLS_DANE,
    "fingerprint": Slot.DELIVERY_TLS_FINGERPRINT,
}


@dataclass(frozen=True, slots=True)
class TlsOutcome:
    """What setting up one session came to.

    `policy` is as it held for the host; `result` None: TLS is as it asks. `text` is for people; `local` is this
    relay's address, empty when the host was not dialled.
    """

    policy: TlsPolicy
    host: Host
    result: TlsResult | None
    text: str = ""
    local: str = ""


class TlsResults:
    """Keeps account for one worker."""

    def __init__(self, counters: Counters, clock: Clock, on_tls_result: Callable[[TlsOutcome], None] | None) -> None:
        self._counters = counters
        self._clock = clock
        self._on_tls_result = on_tls_result
        self._broken: dict[tuple[str, int], tuple[float, TlsResult]] = {}

    def set_up(self, policy: TlsPolicy, host: Host, reached: Reached | None, local: str) -> None:
        """A session is up, under TLS or (reached None) in plaintext."""
        self._counters.add(REACHED_SLOTS["plaintext" if reached is None else reached.authentication], 1)
        if policy.level == "none":
            return  # nobody asked for TLS
        if reached is not None:
            self._account(TlsOutcome(policy, host, None, "", local))
            return
        text = "the host does not offer STARTTLS"
        self._account(TlsOutcome(policy, host, "starttls-not-supported", text, local))

    def failed(self, policy: TlsPolicy, host: Host, failure: ConnectFailure, events: EventLog) -> None:
        """A host's TLS is not what the policy asks for."""
        assert failure.tls is not None
        self._counters.add(FAILED_SLOTS[failure.tls], 1)
        plaintext = policy.level == "opportunistic"
        testing = policy.sts is not None and policy.sts.mode == "testing"
        events.event(
            "tls_failed",
            {
                "host": host.name,
                "address": host.address,
                "port": host.port,
                "policy": policy.level,
                "source": policy.source,
                "reason": failure.tls,
                "text": failure.text,
                "then": "as without the policy" if testing else "plaintext" if plaintext else "next host",
            },
        )
        if plaintext:
            self._remember(host, failure.tls)
        self._account(TlsOutcome(policy, host, failure.tls, failure.text, failure.local))

    def left_in_plaintext(self, policy: TlsPolicy, host: Host, result: TlsResult, local: str) -> None:
        """A session is up in plaintext, since the host's TLS failed a while ago."""
        self._counters.add(Slot.DELIVERY_TLS_PLAINTEXT, 1)
        self._account(TlsOutcome(policy, host, result, "its TLS failed a while ago", local))

    def broken(self, host: Host) -> TlsResult | None:
        """What was wrong with the host's TLS lately; None: nothing that is known."""
        key = (host.address, host.port)
        known = self._broken.get(key)
        if known is None:
            return None
        if known[0] <= self._clock.monotonic():
            del self._broken[key]
            return None
        return known[1]

    def _remember(self, host: Host, result: TlsResult) -> None:
        key = (host.address, host.port)
        self._broken.pop(key, None)
        while len(self._broken) >= MOST_BROKEN:
            del self._broken[next(iter(self._broken))]
        self._broken[key] = (self._clock.monotonic() + BROKEN_S, result)

    def _account(self, outcome: TlsOutcome) -> None:
        if self._on_tls_result is not None:
            self._on_tls_result(outcome)
