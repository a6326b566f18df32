"""Who takes the demo's mail: a few providers on loopback ports, each with habits of its own.

What becomes of a recipient is decided by its address alone (a keyed hash), so that a demo with the same seed has the
same story however the machine is loaded: taken at once, taken at a later attempt, or refused for good. What was said
is counted by provider, which is what the metrics of the relay are compared with.

Input: loopback sockets, one for each provider that listens. Output: World.told, by provider and what was said.
Bound: one small number for each address that has been deferred and not yet taken.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from angarium._core.counters import Slab
from angarium.app.sink import Host, Sink

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from angarium._core.decision import Decision
    from angarium._core.server_session import ServerSession

__all__ = ["PROVIDERS", "Provider", "World", "provider_of"]


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider: its share of the mail, and what it does with recipients.

    `deferred` of them are told `deferral` at their first `patience` attempts and taken then; `refused` of them are told
    `refusal`. `pause_s`: how long the host thinks about every recipient.
    """

    name: str
    domains: tuple[str, ...]
    share: float
    deferred: float = 0.0
    deferral: str = ""
    patience: int = 1
    refused: float = 0.0
    refusal: str = "550 5.1.1 The address does not exist here"
    pause_s: float = 0.0
    tls: bool = True
    listens: bool = True

    @property
    def host(self) -> str:
        """What its mail host calls itself."""
        return f"mx.{self.domains[0]}"

    @property
    def address(self) -> str:
        """Where its mail host is: each provider is a site of its own, on an address of this machine's own network."""
        return f"127.0.1.{1 + PROVIDERS.index(self)}"


PROVIDERS: tuple[Provider, ...] = (
    Provider(
        "alphamail", ("alphamail.test", "alpha.test"), 0.40,
        deferred=0.05, deferral="450 4.7.28 Too much mail from this address, try again later", refused=0.015,
    ),
    Provider(
        "bluepost", ("bluepost.test", "blue.test", "azure.test"), 0.22,
        deferred=0.12, deferral="451 4.7.500 Server busy, try again later", patience=2,
        refused=0.02, refusal="550 5.7.1 Messages from this network are on a block list",
    ),
    Provider(
        "cedar", ("cedar.test",), 0.12,
        deferred=0.25, deferral="450 4.2.0 Greylisted, try again", refused=0.01, tls=False,
    ),
    Provider("slowpoke", ("slowpoke.test",), 0.06, pause_s=0.4, refused=0.01),
    Provider("strict", ("strict.test",), 0.05, refused=0.5, refusal="550 5.7.26 This mail is not authenticated"),
    Provider("gone", ("gone.test",), 0.02, listens=False),
    Provider("others", ("example.test", "firm.test", "school.test", "sender.test"), 0.13, deferred=0.03,
             deferral="452 4.2.2 The mailbox is full", patience=3, refused=0.03),
)  # fmt: skip
SENDERS = b"@sender.test"
_BY_DOMAIN = {domain: provider for provider in PROVIDERS for domain in provider.domains}


def provider_of(mailbox: str) -> Provider:
    """Whose address it is; LookupError when it is nobody's."""
    return _BY_DOMAIN[mailbox.rpartition("@")[2].lower()]


class World:
    """All providers, in one loop."""

    def __init__(self, folder: Path, seed: int, start_tls: Callable[[ServerSession], None] | None = None) -> None:
        """folder: the Maildir that keeps what was taken."""
        self.told: dict[str, Counter[str]] = {provider.name: Counter() for provider in PROVIDERS}
        self._key = seed.to_bytes(8, "big")
        self._seen: dict[bytes, int] = {}
        self._start_tls = start_tls
        self._sink = Sink(folder, Slab.create(1).region(0), self._taken)

    async def open(self, provider: Provider, sock: socket.socket) -> None:
        """Answer as this provider on a socket."""
        start_tls = self._start_tls if provider.tls else None
        host = Host(provider.host, provider.domains, partial(self._judge, provider), start_tls)
        await self._sink.open(sock, host)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Keep house until `stop` is set."""
        await self._sink.sweep_until(stop)

    def close(self) -> None:
        """End all sessions."""
        self._sink.close()

    def _chance(self, mailbox: bytes) -> float:
        digest = hashlib.blake2b(mailbox.lower(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "big") / 2.0**64

    def verdict(self, provider: Provider, mailbox: bytes) -> bytes:
        """The reply that a provider has for a recipient, this time; empty: it is taken."""
        if mailbox.endswith(SENDERS):
            return b""  # notifications: many to few addresses, and all are taken
        chance = self._chance(mailbox)
        if chance < provider.refused:
            self.told[provider.name]["refused"] += 1
            return provider.refusal.encode() + b"\r\n"
        if chance < provider.refused + provider.deferred:
            seen = self._seen.pop(mailbox, 0)
            if seen < provider.patience:
                self._seen[mailbox] = seen + 1
                self.told[provider.name]["deferred"] += 1
                return provider.deferral.encode() + b"\r\n"
        return b""

    def _judge(self, provider: Provider, mailbox: bytes) -> bytes | Callable[[Decision], None]:
        if not provider.pause_s:
            return self.verdict(provider, mailbox)

        def decide(decision: Decision) -> None:
            def say() -> None:
                decision(self.verdict(provider, mailbox))

            asyncio.get_running_loop().call_later(provider.pause_s, say)

        return decide

    def _taken(self, reverse_path: bytes, recipients: list[bytes]) -> None:
        for mailbox in recipients:
            told = self.told[provider_of(mailbox.decode()).name]
            told["taken"] += 1
            if not reverse_path:
                told["notifications"] += 1
