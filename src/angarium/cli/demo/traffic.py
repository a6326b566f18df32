"""The mail that the demo sends: orders, one-time codes and newsletters of three tenants, and a few mistakes.

Input: how many messages, a seed, and where each tenant submits. Output: what the relay answered, in Traffic.accepted
by tenant and Traffic.refused by reply code; the same seed makes the same letters. A lost connection is made again; a
letter that cannot be sent at all counts as lost, and ends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import itertools
import math
import random
import ssl
from collections import Counter
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import TYPE_CHECKING

import aiosmtplib

from angarium.cli.demo.world import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["LARGEST_OCTETS", "TENANTS", "Letter", "Traffic", "letters"]

LARGEST_OCTETS = 300_000  # the demo relay's limit: a mistake is larger
TENANTS = {"shop": 0.35, "codes": 0.25, "newsletter": 0.40}
SESSIONS = 4  # of each tenant
TIMEOUT_S = 30.0
MISTAKES = 0.01
WORDS = [
    "your", "order", "parcel", "invoice", "summer", "garden", "chair", "lamp", "ships", "today", "thanks", "account",
    "reset", "login", "weekly", "news", "recipe", "offer", "library", "book", "concert", "ticket", "window",
    "booking", "train", "morning", "team", "meeting", "report", "update", "photo", "album", "winter", "coat",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Letter:
    """One message, and who submits it."""

    tenant: str
    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass
class Traffic:
    """What was sent, and what the relay said of it."""

    accepted: Counter[str] = field(default_factory=Counter)
    recipients: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    octets: int = 0

    async def send(
        self,
        sent: Iterable[Letter],
        ports: dict[str, int],
        rate: float,
        stop: asyncio.Event,
        show: Callable[[int], None],
    ) -> None:
        """Submit the letters at about so many a second, in waves; ends early when `stop` is set."""
        queues = {tenant: asyncio.Queue[Letter | None](maxsize=1000) for tenant in TENANTS}
        sessions = [
            asyncio.create_task(self._session(tenant, ports[tenant], queues[tenant]))
            for tenant in TENANTS
            for _ in range(SESSIONS)
        ]
        loop = asyncio.get_running_loop()
        when = loop.time()
        for number, letter in enumerate(sent):
            when += 1 / (rate * (1 + 0.6 * math.sin(number / rate * 0.4)))
            wait = when - loop.time()
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), wait)
            if stop.is_set():
                break
            await queues[letter.tenant].put(letter)
            show(number + 1)
        for queue in queues.values():
            for _ in range(SESSIONS):
                await queue.put(None)
        await asyncio.gather(*sessions)

    async def _session(self, tenant: str, port: int, letters_due: asyncio.Queue[Letter | None]) -> None:
        client: aiosmtplib.SMTP | None = None
        while (letter := await letters_due.get()) is not None:
            try:
                if client is None or not client.is_connected:
                    client = await connected(tenant, port)
                refused, _ = await client.sendmail(letter.reverse_path, list(letter.recipients), letter.content)
            except aiosmtplib.SMTPResponseException as refusal:
                self.refused[str(refusal.code)] += 1
                continue
            except (aiosmtplib.SMTPException, OSError):
                self.lost += 1
                client = None
                continue
            self.accepted[tenant] += 1
            self.recipients[tenant] += len(letter.recipients) - len(refused)
            self.octets += len(letter.content)
        if client is not None and client.is_connected:
            try:
                await client.quit()
            except (aiosmtplib.SMTPException, OSError):
                client.close()


async def connected(tenant: str, port: int) -> aiosmtplib.SMTP:
    """A session of this tenant. Codes are submitted with TLS and a log-in, the others come from the network."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the sandbox's own certificate, on loopback
    submission = tenant == "codes"
    client = aiosmtplib.SMTP(
        hostname="127.0.0.1", port=port, start_tls=submission, tls_context=context, timeout=TIMEOUT_S,
        local_hostname=f"{tenant}.sender.test",
    )  # fmt: skip
    await client.connect()
    if submission:
        await client.login(tenant, "demo")
    return client


def letters(count: int, seed: int) -> Iterator[Letter]:
    """So many letters; every recipient's address is in one of them only."""
    chance = random.Random(seed)
    numbers = itertools.count(1)
    names, shares = list(TENANTS), list(TENANTS.values())
    for index in range(count):
        tenant = chance.choices(names, shares)[0]
        several = chance.choice((1, 1, 1, 2, 4)) if tenant == "newsletter" else 1
        recipients = tuple(_address(chance, next(numbers)) for _ in range(several))
        mistake = chance.random() < MISTAKES
        octets = LARGEST_OCTETS * 6 // 5 if mistake else int(min(chance.lognormvariate(7.6, 1.0), 100_000))
        sender = f"{tenant}@sender.test"
        yield Letter(tenant, sender, recipients, _content(chance, tenant, sender, recipients[0], index, octets))


def _address(chance: random.Random, number: int) -> str:
    provider = chance.choices(PROVIDERS, [provider.share for provider in PROVIDERS])[0]
    return f"{chance.choice(WORDS)}.{number:06d}@{chance.choice(provider.domains)}"


def _content(chance: random.Random, tenant: str, sender: str, recipient: str, index: int, octets: int) -> bytes:
    message = EmailMessage()
    message["From"] = f"{tenant.capitalize()} <{sender}>"
    message["To"] = recipient
    message["Subject"] = " ".join(chance.choices(WORDS, k=5)).capitalize()
    message["Date"] = email.utils.formatdate()
    message["Message-ID"] = f"<{index:06d}.{tenant}@sender.test>"
    lines, written = [], 0
    while written < octets:
        lines.append(" ".join(chance.choices(WORDS, k=10)))
        written += len(lines[-1]) + 2
    message.set_content("\n".join(lines) + "\n")
    return message.as_bytes()
