"""What a worker says of its part of the queue: how much there is, which messages match, and one message in full.

Input: filters of operators. Output: plain values in the shapes of the API (angarium.admin.model).

Walks over the queue are cut in slices (WALK_SLOTS) and give way to the loop in between; what must be read from disk is
read in a thread, BATCH messages at a time, and only of messages that may match. Bounds: what a filter's limit says, and
16 octets a candidate.

Fails: a message that cannot be read is logged and left out."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from angarium._core.command import BodyType, Notify, ReturnContent
from angarium._core.record import Durability, MessageFlag, MessageState, shard_of
from angarium._core.selection import Census, Selection, state_name
from angarium.app.moment import rfc3339
from angarium.app.waiting import waits_for
from angarium.mail.address import folded_domain, unicode_domain
from angarium.mail.status import RecipientState
from angarium.queue.record import RecordError, format_id, load_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from angarium._core.dispatch import Dispatcher
    from angarium._core.record import MailBuffer, Message
    from angarium.app.steering import Steering
    from angarium.config.model import Permission

log = logging.getLogger(__name__)

WALK_SLOTS = 8192
SORT_INLINE = 4096  # more candidates are sorted in a thread
CHECKED = 1024  # candidates looked at closely at a time
BATCH = 64  # messages read whole at a time
BATCH_OCTETS = 8 << 20
MOST_LISTED = 10_000
MOST_CANDIDATES = 1_000_000  # kept in one walk for a list
SAMPLES = 5
_BODIES = {BodyType.BODY_7BIT: "7BIT", BodyType.BODY_8BITMIME: "8BITMIME", BodyType.BODY_BINARYMIME: "BINARYMIME"}
_RETURNS = {ReturnContent.RET_FULL: "FULL", ReturnContent.RET_HDRS: "HDRS"}
CENSUS_SHARE = 50  # a census is kept for so many times as long as it took


class Filter(msgspec.Struct, forbid_unknown_fields=True, rename={"sender": "from"}):
    """Which messages are meant. `before_us`: accepted before that, in microseconds of unix time."""

    to_domain: str | None = None
    sender: str | None = None
    tenant: str | None = None
    log_in: str | None = None
    state: str | None = None
    older_than_s: float | None = None
    before_us: int | None = None
    limit: int | None = None


class Inspector:
    """Answers questions about one worker's part of the queue."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        steering: Steering,
        permission_of: Callable[[MailBuffer], Permission | None] = lambda _: None,
    ) -> None:
        """permission_of: which permission the sender of a message has."""
        self._dispatcher = dispatcher
        self._permission_of = permission_of
        self._steering = steering
        self._census: Census | None = None
        self._census_until = 0.0

    # -------------------------------------------------------------- how much there is

    async def summary(self) -> dict[str, Any]:
        """The queue in numbers. With very many messages the states may be a few seconds old."""
        table = self._dispatcher.table
        now = time.monotonic()
        census = self._census
        if census is None or now >= self._census_until:
            spent = 0.0
            census = Census(table)
            while True:
                began = time.monotonic()
                complete = census.step(WALK_SLOTS)
                spent += time.monotonic() - began
                if complete:
                    break
                await asyncio.sleep(0)
            self._census = census
            self._census_until = time.monotonic() + (spent * CENSUS_SHARE if spent > 0.005 else 0.0)
        oldest_us = census.oldest_us if len(table) else 0
        return {
            "messages": table.count,
            "recipients": table.recipients,
            "octets": table.octets,
            "oldest_s": round(max(0.0, time.time() - oldest_us * 1e-6), 3) if oldest_us else None,
            "by_state": census.by_state,
        }

    # -------------------------------------------------------------- which messages match

    async def matching(self, selection: Selection) -> AsyncIterator[list[Message]]:
        """What selection finds, the oldest first, a batch at a time."""
        loop = asyncio.get_running_loop()
        while not selection.step(WALK_SLOTS):  # noqa: ASYNC110  # a slice of work each time, not a wait
            await asyncio.sleep(0)
        if selection.count > SORT_INLINE:
            await loop.run_in_executor(None, selection.sort)
        else:
            selection.sort()
        while selection.left:
            if selection.load(CHECKED):
                await loop.run_in_executor(None, selection.examine)
            yield selection.matching()
            await asyncio.sleep(0)
        if selection.unreadable:
            log.warning("%d messages cannot be read, and match no filter", selection.unreadable)

    def select(self, wanted: Filter, *, most: int = 0, after: int = 0) -> Selection:
        """A walk over this worker's part of the queue."""
        before_us = wanted.before_us or 0
        if wanted.older_than_s is not None:
            bound = max(1, int((time.time() - wanted.older_than_s) * 1e6))
            before_us = min(before_us, bound) if before_us else bound
        domain = None if wanted.to_domain is None else folded_domain(wanted.to_domain.encode())
        return Selection(
            self._dispatcher.table,
            to_domain=domain,
            to_domain_unicode=None if domain is None else unicode_domain(domain),
            reverse_path=_octets(wanted.sender),
            tenant=_octets(wanted.tenant),
            log_in=_octets(wanted.log_in),
            state=wanted.state,
            before_us=before_us,
            most=most,
            after=after,
        )

    async def all_matching(self, wanted: Filter, ids: Sequence[int] | None = None) -> AsyncIterator[list[Message]]:
        """Every message that is meant: those of these ids, or those that match."""
        if ids is not None:
            table = self._dispatcher.table
            found = [message for number in ids if (message := table.get(number)) is not None]
            for start in range(0, len(found), CHECKED):
                yield found[start : start + CHECKED]
                await asyncio.sleep(0)
            return
        async for batch in self.matching(self.select(wanted)):
            yield batch

    async def oldest(self, wanted: Filter, limit: int) -> list[Message]:
        """The oldest that match, at most so many."""
        found: list[Message] = []
        after, most = 0, limit
        while True:
            selection = self.select(wanted, most=most, after=after)
            async for batch in self.matching(selection):
                found += batch
                if len(found) >= limit:
                    return found[:limit]
            if not selection.cut:
                return found
            # candidates of which too few matched: go on behind the last of them, with more at a time
            after = selection.last
            most = min(most * 8, MOST_CANDIDATES)

    async def listing(self, wanted: Filter) -> list[dict[str, Any]]:
        """The oldest that match, described."""
        limit = min(wanted.limit or MOST_LISTED, MOST_LISTED)
        return await self._describe_all(await self.oldest(wanted, limit))

    async def _describe_all(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        described = []
        async for batch in self.with_buffers(messages):
            described += [known for _, _, known in await self.described(batch)]
        return described

    async def described(
        self, batch: Sequence[tuple[Message, MailBuffer | None]]
    ) -> list[tuple[Message, MailBuffer, dict[str, Any]]]:
        """Of a batch of with_buffers, what could be read, each message described with its last replies."""
        tried = [message for message, buffer in batch if buffer is not None and message.outcome_serial]
        loop = asyncio.get_running_loop()
        replies = await loop.run_in_executor(None, self._read_replies, tried) if tried else {}
        return [
            (message, buffer, self._describe(message, buffer, replies.get(message.id, {})))
            for message, buffer in batch
            if buffer is not None
        ]

    def _read_replies(self, messages: Sequence[Message]) -> dict[int, dict[int, tuple[int, bytes]]]:
        found = {}
        for message in messages:
            try:
                found[message.id] = self._dispatcher.journal(message).last_replies(message)
            except OSError as failure:
                log.warning("message %s: its outcomes cannot be read: %s", message.queue_id, failure)
        return found

    async def preview(self, wanted: Filter, ids: Sequence[int] | None) -> dict[str, Any]:
        """What an action would meet: how much, and a few of them."""
        messages = recipients = octets = under_way = 0
        samples: list[Message] = []
        oldest_us = 0
        async for batch in self.all_matching(wanted, ids):
            for message in batch:
                recipients += 1 if message.recipients == 1 else len(message.unfinished())
                octets += message.record_octets
                under_way += message.outstanding > 0
                if not oldest_us or message.received_us < oldest_us:
                    oldest_us = message.received_us
            messages += len(batch)
            if len(samples) < SAMPLES:
                samples += batch[: SAMPLES - len(samples)]
        return {
            "messages": messages,
            "recipients": recipients,
            "octets": octets,
            "oldest": rfc3339(oldest_us * 1e-6) if oldest_us else None,
            "under_way": under_way,
            "samples": await self._describe_all(samples),
        }

    # -------------------------------------------------------------- messages in full

    async def with_buffers(self, messages: Sequence[Message]) -> AsyncIterator[list[tuple[Message, MailBuffer | None]]]:
        """The messages with their octets, read from disk where they must be; None for what cannot be read, or is over.

        The buffers are not put back into the queue's memory.
        """
        loop = asyncio.get_running_loop()
        position = 0
        while position < len(messages):
            batch: list[Message] = []
            octets = 0
            while position < len(messages) and len(batch) < BATCH and octets < BATCH_OCTETS:
                batch.append(messages[position])
                octets += messages[position].record_octets
                position += 1
            absent = [message for message in batch if message.buffer is None and message.segment is not None]
            read = await loop.run_in_executor(None, self._read, absent) if absent else {}
            result = []
            for message in batch:
                buffer = message.buffer if message.buffer is not None else read.get(message.id)
                result.append((message, buffer if message.state != MessageState.MESSAGE_GONE else None))
            yield result
            await asyncio.sleep(0)

    def _read(self, messages: Sequence[Message]) -> dict[int, MailBuffer]:
        found = {}
        for message in messages:
            try:
                record = self._dispatcher.journal(message).read_record(message)
                buffer = load_message(record)
            except (OSError, RecordError) as failure:
                if message.state != MessageState.MESSAGE_GONE:
                    log.warning("message %s cannot be read: %s", message.queue_id, failure)
                continue
            found[message.id] = buffer
        return found

    async def show(self, number: int) -> dict[str, Any] | None:
        """One message with everything that is known of it; None when it is not here."""
        message = self._dispatcher.table.get(number)
        if message is None:
            return None
        async for batch in self.with_buffers([message]):
            for _, buffer, described in await self.described(batch):
                attempts = await asyncio.get_running_loop().run_in_executor(None, self._read_attempts, message, buffer)
                return self._show(message, buffer, described, attempts)
        return None

    def _read_attempts(self, message: Message, buffer: MailBuffer) -> list[dict[str, Any]]:
        """What every attempt that the journal keeps came to, the oldest first."""
        if not message.outcome_serial:
            return []
        try:
            outcomes = self._dispatcher.journal(message).read_outcomes(message)
        except OSError as failure:
            log.warning("message %s: its outcomes cannot be read: %s", message.queue_id, failure)
            return []
        return [
            {
                "number": outcome.attempt,
                "time": rfc3339(outcome.attempted) if outcome.attempted else None,
                "next_hop": outcome.next_hop.decode("utf-8", "replace") or None,
                "host": outcome.host.decode("utf-8", "replace") or None,
                "source": outcome.source.decode("utf-8", "replace") or None,
                "pool": outcome.pool.decode("utf-8", "replace") or None,
                "recipients": [
                    {
                        "address": buffer.recipient(index)[0].decode("utf-8", "replace"),
                        "state": RecipientState(state).word,
                        "reply": f"{code} {text.decode('utf-8', 'replace')}" if code else None,
                    }
                    for index, state, code, text in outcome.entries
                ],
            }
            for outcome in outcomes
        ]

    def _show(
        self, message: Message, buffer: MailBuffer, described: dict[str, Any], attempts: list[dict[str, Any]]
    ) -> dict[str, Any]:
        header, _, _ = buffer.mail_data().partition(b"\r\n\r\n")
        record: dict[str, Any] = {"shard": shard_of(message.id)}
        if message.segment is not None:
            record |= {
                "segment": message.segment.path,
                "offset": message.offset_octets,
                "octets": message.record_octets,
            }
        return described | {
            "header": header.decode("utf-8", "replace"),
            "record": record,
            "envelope": envelope_of(buffer),
            "attempts": attempts,
            "waited": {cause: round(seconds, 6) for cause, seconds in self._dispatcher.waited(message).items()},
            "waits_for": waits_for(
                self._dispatcher, self._steering.suspended, message, buffer, self._permission_of(buffer)
            ),
        }

    def _describe(self, message: Message, buffer: MailBuffer, replies: dict[int, tuple[int, bytes]]) -> dict[str, Any]:
        """A message as `queue list` shows it."""
        envelope = buffer.envelope()
        queue = self._dispatcher.schedule.queue(message)
        next_attempt = message.next_attempt
        if queue is not None and message.state == MessageState.MESSAGE_SCHEDULED:
            next_attempt = max(next_attempt, queue.not_before)  # its next hop is left alone until then
        if not message.attempts and next_attempt <= time.time():
            next_attempt = 0.0  # it could go, and waits for something else
        recipients = []
        for index, (path, _, _) in enumerate(envelope["recipients"]):
            reply = replies.get(index)
            state = RecipientState(message.recipient_state(index))
            recipients.append(
                {
                    "address": path.decode("utf-8", "replace"),
                    "state": state.word,
                    "attempts": message.attempts,
                    "reply": f"{reply[0]} {reply[1].decode('utf-8', 'replace')}" if reply else None,
                    "next_attempt": rfc3339(next_attempt) if next_attempt and not state.is_final else None,
                }
            )
        return {
            "id": format_id(message.id),
            "state": state_name(self._dispatcher.schedule, message),
            "reverse_path": envelope["reverse_path"].decode("utf-8", "replace"),
            "octets": message.record_octets,
            "received": rfc3339(message.received_us * 1e-6),
            "tenant": envelope["tenant"].decode("utf-8", "replace") or None,
            "recipients": recipients,
        }


def envelope_of(buffer: MailBuffer) -> dict[str, Any]:
    """The envelope for people and programs: what the client said, and what the relay made of it."""
    envelope = buffer.envelope()
    texts = {
        name: envelope[name].decode("utf-8", "replace") or None
        for name in ("envid", "listener", "client", "greeting", "login", "tenant", "source_pool")
    }
    return {
        "reverse_path": envelope["reverse_path"].decode("utf-8", "replace"),
        "recipients": [
            {
                "address": path.decode("utf-8", "replace"),
                "notify": [flag.name.removeprefix("NOTIFY_") for flag in Notify if notify & flag],
                "orcpt": orcpt.decode("utf-8", "replace") or None,
            }
            for path, notify, orcpt in envelope["recipients"]
        ],
        "received": rfc3339(envelope["received_us"] * 1e-6),
        "durability": Durability(envelope["durability"]).name.removeprefix("DURABILITY_").lower(),
        "body": _BODIES.get(envelope["body"]),
        "ret": _RETURNS.get(envelope["ret"]),
        "smtputf8": bool(envelope["flags"] & MessageFlag.MESSAGE_SMTPUTF8),
        "requiretls": bool(envelope["flags"] & MessageFlag.MESSAGE_REQUIRETLS),
        "priority": envelope["priority"],
        "hold_until": rfc3339(envelope["hold_until"]) if envelope["hold_until"] else None,
        **texts,
    }


def _octets(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
