"""Recipients verified by their mailbox host, as one worker's sessions ask: what is known at once, the rest by and by.

Input: the name of a listener, a LookupClient (the lookup process has the sessions with the mailbox host). Output:
`verify`, which a RecipientPolicy asks for each RCPT: an answer that still holds, or who takes the session's Decision.

Fails: never. When nobody can say whether a recipient exists, `unreachable` decides: 451 4.4.3, or it is accepted, which
is counted. The lookup process is waited for as LookupClient says; no longer than ANSWER_S of it in all.

Bounds: KNOWN answers; questions, one for each session that waits.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from angarium._core.counters import Slot
from angarium.delivery.cache import Cache
from angarium.delivery.lookup_protocol import RECIPIENT
from angarium.delivery.mail_host import ResolutionFailure
from angarium.mail.address import folded_domain, join_mailbox, split_mailbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.counters import Counters
    from angarium._core.decision import Decision
    from angarium.config.model import Verification
    from angarium.delivery.lookup_client import LookupClient
    from angarium.delivery.lookup_protocol import RecipientAnswer

__all__ = ["DEFERRED", "RecipientQuery", "refusal"]

KNOWN = 20_000
LONGEST_LINE = 512  # RFC 5321 §4.5.3.1.5
DEFERRED = b"451 4.4.3 The mailbox host cannot be asked about the recipient now; try again later\r\n"


class RecipientQuery:
    """The recipients of one listener."""

    def __init__(
        self,
        listener: str,
        verification: Verification,
        lookup: LookupClient,
        counters: Counters,
        monotonic: Callable[[], float],
    ) -> None:
        self._listener = listener
        self._accept = verification.unreachable == "accept"
        self._lookup = lookup
        self._counters = counters
        self._monotonic = monotonic
        self._known: Cache[bytes, tuple[float, bytes]] = Cache(min(KNOWN, verification.entries))
        self._tasks: set[asyncio.Task[None]] = set()

    def verify(self, mailbox: bytes) -> bytes | Callable[[Decision], None]:
        """Empty, the reply that refuses a mailbox of ours, or who answers a Decision with one of the two."""
        local, domain = split_mailbox(mailbox)
        mailbox = join_mailbox(local, folded_domain(domain))
        kept = self._known.peek(mailbox)
        if kept is not None and self._monotonic() < kept[0]:
            self._known.use(mailbox)
            self._counters.add(_slot_of(kept[1]), 1)
            return kept[1]
        return partial(self._ask, mailbox)

    async def close(self) -> None:
        """Give up what is under way; the sessions are answered."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, mailbox: bytes, decision: Decision) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(mailbox, decision))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, mailbox: bytes, decision: Decision) -> None:
        reply = DEFERRED
        slot = Slot.INGRESS_CHECKED_DEFERRED
        try:
            reply, slot = self._judge(
                mailbox, await self._lookup.ask(RECIPIENT, (self._listener, mailbox.decode("utf-8", "replace")))
            )
        except ResolutionFailure:
            reply, slot = self._without()
        finally:
            self._counters.add(slot, 1)
            decision(reply)

    def _judge(self, mailbox: bytes, answer: RecipientAnswer) -> tuple[bytes, Slot]:
        if answer.result == "failed":
            return self._without()
        reply = b"" if answer.result == "known" else refusal(answer.reply)
        if answer.keep_s > 0:
            self._known.put(mailbox, (self._monotonic() + answer.keep_s, reply))
        return reply, _slot_of(reply)

    def _without(self) -> tuple[bytes, Slot]:
        return (b"", Slot.INGRESS_CHECKED_UNCHECKED) if self._accept else (DEFERRED, Slot.INGRESS_CHECKED_DEFERRED)


def _slot_of(reply: bytes) -> Slot:
    return Slot.INGRESS_CHECKED_UNKNOWN if reply else Slot.INGRESS_CHECKED_KNOWN


def refusal(said: str) -> bytes:
    """The reply to RCPT that passes on what a mailbox host said: its status, or 5.1.1 where it gave none."""
    code, _, text = said.partition(" ")
    status, _, rest = text.partition(" ")
    if not (status.startswith("5.") and status.replace(".", "").isdigit() and status.count(".") == 2):
        status, rest = "5.1.1", text
    head = f"550 {status} The mailbox host refuses the recipient: {code} {rest}".rstrip()
    plain = "".join(mark if mark.isascii() and mark.isprintable() else "?" for mark in head)
    return plain.encode("ascii")[: LONGEST_LINE - 2] + b"\r\n"
