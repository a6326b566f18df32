"""What became of an attempt, when it is not simply "delivered to all".

Job: turn each recipient's result into its state (by `classify`), count and log it, write the outcome into the journal,
tell the sender where that is due, and decide what comes next: another attempt later, or the end of the message.

Input: deliveries whose `results` are set: (recipient index, reply code or 0, enhanced status, text, phase). Code 0
means that no reply was seen: before the last octet had left, nothing was delivered and the recipient is deferred; after
it, the recipient is in doubt, and is sent to again (counted as a possible duplicate).

No notification is lost: `tell` says when it is on disk, and only then is the recipient final, in memory and in the
journal. A crash in between leaves the recipient as it was: it is tried again, fails again, and the sender is told then
(a recipient who was delivered is in doubt meanwhile). `tell` may also say that it had no room for the notification:
then who has failed is deferred, and what has expired waits PUT_OFF_S, to come to the same end later.

Fails: when the journal takes no record, the state stays in memory and the message is tried again; after a crash it
would be tried once more from its last journalled state."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from angarium._core.client_session import Phase
from angarium._core.counters import Counters, Slot
from angarium._core.record import MessageState, RecordError, RecordType
from angarium._core.top_k import TopK
from angarium.mail.address import folded_domain, split_mailbox
from angarium.mail.status import EnhancedStatus, RecipientState
from angarium.outcome.classify import Outcome, classify
from angarium.outcome.report import RecipientReport, is_wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.dispatch import Delivery, Dispatcher
    from angarium._core.event_log import EventLog
    from angarium._core.record import Message
    from angarium.clock import Clock
    from angarium.outcome.report import Kind

    # the notifications are on disk, or nobody wants any (True); or there was no room for them (False)
    Told = Callable[[bool], None]
    Result = tuple[int, Outcome, bytes]  # recipient index, outcome, text

__all__ = ["Recorder"]

log = logging.getLogger(__name__)

_EVENTS = {
    RecipientState.DELIVERED: "delivery",
    RecipientState.DEFERRED: "deferral",
    RecipientState.FAILED: "bounce",
    RecipientState.IN_DOUBT: "in_doubt",
}
_SLOTS = {
    RecipientState.DELIVERED: Slot.DELIVERY_DELIVERED_RECIPIENTS,
    RecipientState.DEFERRED: Slot.DELIVERY_DEFERRED_RECIPIENTS,
    RecipientState.FAILED: Slot.DELIVERY_FAILED_RECIPIENTS,
    RecipientState.IN_DOUBT: Slot.QUEUE_IN_DOUBT_TOTAL,
}
_ROW_SLOTS = {
    RecipientState.DELIVERED: (Slot.PROVIDER_DELIVERED, Slot.TENANT_DELIVERED),
    RecipientState.DEFERRED: (Slot.PROVIDER_DEFERRED, Slot.TENANT_DEFERRED),
    RecipientState.FAILED: (Slot.PROVIDER_FAILED, Slot.TENANT_FAILED),
    RecipientState.EXPIRED: (Slot.PROVIDER_EXPIRED, Slot.TENANT_EXPIRED),
}
_REPLY_SLOTS = {  # by the first digit of the reply
    2: (Slot.DELIVERY_REPLIES_2XX, Slot.PROVIDER_REPLIES_2XX, Slot.SOURCE_REPLIES_2XX),
    4: (Slot.DELIVERY_REPLIES_4XX, Slot.PROVIDER_REPLIES_4XX, Slot.SOURCE_REPLIES_4XX),
    5: (Slot.DELIVERY_REPLIES_5XX, Slot.PROVIDER_REPLIES_5XX, Slot.SOURCE_REPLIES_5XX),
}
_NO_REPLY = (Slot.DELIVERY_REPLIES_NONE, Slot.PROVIDER_REPLIES_NONE, Slot.SOURCE_REPLIES_NONE)
_SOURCE_SLOTS = {
    RecipientState.DELIVERED: (Slot.SOURCE_DELIVERED, Slot.POOL_DELIVERED),
    RecipientState.DEFERRED: (Slot.SOURCE_DEFERRED, Slot.POOL_DEFERRED),
    RecipientState.FAILED: (Slot.SOURCE_FAILED, Slot.POOL_FAILED),
}
_LATENCY_SLOTS = (Slot.DELIVERY_LATENCY_FSYNC, Slot.DELIVERY_LATENCY_ASYNC, Slot.DELIVERY_LATENCY_MEMORY)
GIVEN_UP = 554  # what is logged where an operator has ended it
_DURABILITY = ("fsync", "async", "memory")
DEFAULT_SOURCE = b"default"  # of mail that leaves by no source of the configuration
PUT_OFF_S = 300.0  # until the notification about what has expired is tried again
NO_ATTEMPT = b"no attempt was answered"
LOST_REPLY = EnhancedStatus(5, 4, 2)  # RFC 3463 §3.5: bad connection
LOST_REPLY_TEXT = b"the final reply of the next hop was not seen: it may or may not have been delivered"
WENT_DOWN = b"the node went down while it was being sent"
OWN_REPLY = 451  # what is logged where no host said anything


@dataclass(slots=True)
class _Part:
    """What one delivery came to, until it is in the journal."""

    message: Message
    next_hop: bytes = b""
    host: bytes = b""
    source: bytes = b""  # a source of the configuration, and its pool
    pool: bytes = b""
    entries: list[tuple[int, int, int, bytes]] = field(default_factory=list)


class Recorder:
    """Settles what deliveries came to, for one worker.

    `next_attempt(message)` is the unix time of the attempt after those that were made, None when the message's time is
    over; `expires_at(message)` is when that is. `tell(message, reports, told)` notifies the sender, and calls `told`
    once."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        counters: Counters,
        events: EventLog,
        clock: Clock,
        *,
        next_attempt: Callable[[Message], float | None],
        expires_at: Callable[[Message], float],
        tell: Callable[[Message, list[RecipientReport], Told], None],
        in_doubt: str = "resend",
    ) -> None:
        self._dispatcher = dispatcher
        self._counters = counters
        self._events = events
        self._clock = clock
        self._next_attempt = next_attempt
        self._expires_at = expires_at
        self._tell = tell
        self.in_doubt = in_doubt
        self.deferred = TopK()  # destination domains by recipients deferred lately
        self._part: _Part | None = None  # of the delivery that is being settled

    # ------------------------------------------------------------------ a delivery is over

    def settle(self, delivery: Delivery) -> None:
        """Take a delivery's results in."""
        message = delivery.message
        results = delivery.results or []
        self._counters.add(Slot.DELIVERY_ATTEMPTS, 1)
        self._counters.add(Slot.PROVIDER_ATTEMPTS + delivery.provider, 1)
        self._counters.add(Slot.SOURCE_ATTEMPTS + delivery.queue.source_row, 1)
        accepted = sum(1 for _, code, _, _, phase in results if code // 100 == 2 and phase == Phase.PHASE_FINAL)
        if accepted:
            self._counters.add(Slot.DELIVERY_OCTETS, len(memoryview(delivery.mail_buffer())))
        part = self._part_of(delivery)
        doubted = False
        waiting: list[Result] = []
        reports: list[RecipientReport] = []
        for index, code, enhanced, text, phase in results:
            for_all, of_provider, of_source = _REPLY_SLOTS.get(code // 100, _NO_REPLY)
            self._counters.add(for_all, 1)
            self._counters.add(of_provider + delivery.provider, 1)
            self._counters.add(of_source + delivery.queue.source_row, 1)
            outcome = classify(code, enhanced, text, phase, accepted_recipients=accepted)
            if outcome.state is RecipientState.IN_DOUBT:
                doubted = True
                if self.in_doubt == "fail":
                    self._counters.add(Slot.QUEUE_IN_DOUBT_TOTAL, 1)
                    self._dispatcher.log_attempt("in_doubt", delivery, index, OWN_REPLY, outcome.status, text)
                    text = LOST_REPLY_TEXT  # noqa: PLW2901
                    outcome = replace(outcome, state=RecipientState.FAILED, status=LOST_REPLY, text=text)
            report = self._report(delivery, index, outcome, enhanced)
            if report is None:
                self._take(delivery, part, (index, outcome, text))
            else:
                waiting.append((index, outcome, text))
                reports.append(report)
        if doubted:
            self._events.flush()  # it is in the log before it can be sent again
            if self.in_doubt == "hold":
                self._hold(message)
        if not reports:
            self._finish(delivery, part)
            return
        if any(state == RecipientState.DELIVERED for _, state, _, _ in part.entries):
            # a crash before the sender is told must not send to these again
            self._part, part = part, replace(part, entries=[])
            unsure = any(outcome.state is RecipientState.DELIVERED for _, outcome, _ in waiting)
            self._write_outcome(message, message.attempts + 1, 0.0, settled=not unsure)
        self._tell(message, reports, partial(self._told, delivery, part, waiting))

    def _told(self, delivery: Delivery, part: _Part, waiting: list[Result], room: bool) -> None:
        """The sender knows, or will know, what happened: now it is so."""
        if delivery.message.state != MessageState.MESSAGE_GONE:
            for index, outcome, text in waiting:
                if not room and outcome.state is RecipientState.FAILED:
                    outcome = replace(outcome, state=RecipientState.DEFERRED)  # noqa: PLW2901
                self._take(delivery, part, (index, outcome, text))
        self._finish(delivery, part)

    def _take(self, delivery: Delivery, part: _Part, result: Result) -> None:
        """One recipient's result becomes its state."""
        index, outcome, text = result
        message = delivery.message
        message.set_recipient_state(index, outcome.state)
        self._counters.add(_SLOTS[outcome.state], 1)
        self._count_rows(outcome.state, delivery.provider, delivery.tenant, 1)
        if outcome.state in _SOURCE_SLOTS:
            of_source, of_pool = _SOURCE_SLOTS[outcome.state]
            self._counters.add(of_source + delivery.queue.source_row, 1)
            self._counters.add(of_pool + self._dispatcher.pool_row_of(delivery), 1)
        if outcome.state is RecipientState.DEFERRED:
            _, domain = split_mailbox(delivery.mail_buffer().recipient(index)[0])
            self.deferred.add(folded_domain(domain))
        code = outcome.reply_code or OWN_REPLY
        self._dispatcher.log_attempt(_EVENTS[outcome.state], delivery, index, code, outcome.status, text)
        part.entries.append((index, outcome.state, code, b"%s %s" % (str(outcome.status).encode(), text)))
        if outcome.state is RecipientState.DELIVERED:
            age_us = max(0, int(self._clock.now() * 1e6) - message.received_us)
            self._counters.observe_message(_LATENCY_SLOTS[message.durability], age_us, message.id)
        elif outcome.state is RecipientState.IN_DOUBT:
            if self.in_doubt == "resend":
                self._counters.add(Slot.DELIVERY_DUPLICATES_POSSIBLE, 1)
            message.in_doubt = True
        if outcome.soon:
            message.soon = True

    def _count_rows(self, state: RecipientState, provider: int, tenant: int, recipients: int) -> None:
        """Count what became of recipients by provider and by tenant."""
        slots = _ROW_SLOTS.get(state)
        if slots is not None:
            self._counters.add(slots[0] + provider, recipients)
            self._counters.add(slots[1] + tenant, recipients)

    def _finish(self, delivery: Delivery, part: _Part) -> None:
        message = delivery.message
        if message.in_doubt:  # what came of it now may be all that was in doubt
            message.in_doubt = any(
                message.recipient_state(index) == RecipientState.IN_DOUBT for index in message.unfinished()
            )
        self._part = part
        self._dispatcher.finish(delivery)
        self._part = None

    def _part_of(self, delivery: Delivery) -> _Part:
        source = delivery.queue.source
        return _Part(
            delivery.message,
            delivery.queue.next_hop,
            delivery.host or b"",
            b"" if source == DEFAULT_SOURCE else source,
            self._dispatcher.pool_of(delivery),
        )

    def delivered(self, delivery: Delivery, code: int, text: bytes) -> None:
        """Keep the reply of a delivery that went well until the journal is told that some of the message is left."""
        self._part = self._part_of(delivery)
        self._part.entries += [(index, RecipientState.DELIVERED, code, text) for index in delivery.indices()]

    def found_in_doubt(self, message: Message) -> bool:
        """Recovery found message in the in-flight table: its last octets may have left before the process died.

        Which of its recipients they were for is not known, so all that are left are in doubt. False: by policy it is to
        fail, and needs its mail data for that (`fail_in_doubt`).
        """
        self._counters.add(Slot.QUEUE_IN_DOUBT_TOTAL, 1)
        message.in_doubt = True
        self._part = _Part(message)
        for index in message.unfinished():
            message.set_recipient_state(index, RecipientState.IN_DOUBT)
            self._part.entries.append((index, RecipientState.IN_DOUBT, OWN_REPLY, b"4.4.2 " + WENT_DOWN))
        self._write_outcome(message, message.attempts + 1, message.next_attempt)
        if self.in_doubt == "resend":
            self._counters.add(Slot.DELIVERY_DUPLICATES_POSSIBLE, 1)
        elif self.in_doubt == "hold":
            self._hold(message)
        return self.in_doubt != "fail"

    def fail_in_doubt(self, message: Message) -> None:
        """A message of `found_in_doubt` whose mail data is in memory ends: its sender is told."""
        self.give_up(message, message.unfinished(), LOST_REPLY, LOST_REPLY_TEXT)

    def _hold(self, message: Message) -> None:
        """Until an operator releases it, also after a restart."""
        try:
            if message.segment is not None:
                self._dispatcher.journal(message).append_record(RecordType.RECORD_HOLD, message.id, b"")
        except OSError as failure:
            log.error("message %s: that it is held could not be written: %s", message.queue_id, failure)
        self._dispatcher.hold(message)
        self._events.event("hold", {"id": message.queue_id, "by": "policy", "why": "queue.in_doubt"})

    def reconsider(self, message: Message) -> None:
        """All deliveries of this round are over and some recipients are left: schedule the next attempt, or give up."""
        now = self._clock.now()
        attempt = message.attempts + 1
        at: float | None
        if message.soon:
            # the host takes so many recipients at a time: the rest go at once, and that is no new attempt
            message.soon = False
            at = now
        else:
            message.set_attempts(attempt)
            at = self._next_attempt(message)
        try:
            self._dispatcher.persist(message)
        except OSError as failure:
            log.error("message %s (class memory) could not be written: %s", message.queue_id, failure)
        self._write_outcome(message, attempt, now if at is None else at)
        if at is None:
            self.expire(message)
        else:
            self._dispatcher.wait(message, at)

    def partial(self, message: Message) -> None:
        """Some recipients are done while other deliveries go on: a crash must not send to the former again."""
        self._write_outcome(message, message.attempts + 1, 0.0)

    # ------------------------------------------------------------------ time passes

    def expire(self, message: Message, why: bytes = b"") -> None:
        """Give message up: its time is over. No delivery of it is under way, it waits for none, its mail data is in
        memory, and it stays so until this is over.

        `why` is what it waited for, where no attempt of its own has been answered."""
        left = message.unfinished()
        reports = self._of_those_left(message, left, "expired", why)
        ended = list(zip(reports, left, strict=True))
        waited = self._dispatcher.waited(message)
        self._tell(message, reports, partial(self._expired, message, message.loaded.reverse_path(), ended, waited))

    def _expired(
        self,
        message: Message,
        reverse_path: bytes,
        ended: list[tuple[RecipientReport, int]],
        waited: dict[str, float],
        room: bool,
    ) -> None:
        if message.state == MessageState.MESSAGE_GONE:
            return
        now = self._clock.now()
        if not room:
            self._dispatcher.wait(message, now + PUT_OFF_S)
            return
        self._counters.add(Slot.QUEUE_EXPIRED, 1)
        self._count_rows(RecipientState.EXPIRED, *self._dispatcher.rows_of(message), len(ended))
        for report, index in ended:
            message.set_recipient_state(index, RecipientState.EXPIRED)
            self._counters.add(Slot.DELIVERY_EXPIRED_RECIPIENTS, 1)
            self._events.event(
                "expiry",
                {
                    "id": message.queue_id,
                    "reverse_path": reverse_path.decode("utf-8", "replace"),
                    "recipient": report.forward_path.decode("utf-8", "replace"),
                    "class": "expired",
                    "attempts": message.attempts,
                    "age_s": round(now - message.received_us * 1e-6, 3),
                    "reply": {
                        "code": report.reply_code or OWN_REPLY,
                        "enhanced": None,
                        "text": report.text.decode("utf-8", "replace"),
                    },
                }
                | ({"waited": {cause: round(s, 6) for cause, s in waited.items()}} if waited else {}),
            )
        self._dispatcher.drop(message)

    def give_up(self, message: Message, indices: list[int], status: EnhancedStatus, text: bytes) -> None:
        """An operator has decided that these recipients will not get message: they fail, and its sender is told.

        Its mail data is in memory, and no delivery of it is under way. When nobody else is left, that is its end; else
        it waits, or is held, as before."""
        held, at = message.state == MessageState.MESSAGE_HELD, message.next_attempt
        if not self._dispatcher.withdraw(message):
            message.state = MessageState.MESSAGE_READY  # nobody else takes it up meanwhile
        envelope = message.loaded.envelope()
        reports = []
        for index in indices:
            path, notify, orcpt = envelope["recipients"][index]
            reports.append(
                RecipientReport(
                    forward_path=path,
                    kind="failed",
                    status=status,
                    text=text,
                    orcpt=orcpt,
                    notify=notify,
                    last_attempt=self._clock.now() if message.attempts else None,
                )
            )
        self._tell(
            message,
            reports,
            partial(self._given_up, message, list(zip(reports, indices, strict=True)), envelope, held, at),
        )

    def _given_up(
        self,
        message: Message,
        ended: list[tuple[RecipientReport, int]],
        envelope: dict[str, Any],
        held: bool,
        at: float,
        room: bool,
    ) -> None:
        if message.state == MessageState.MESSAGE_GONE:
            return
        if room:
            self._count_rows(RecipientState.FAILED, *self._dispatcher.rows_of(message), len(ended))
            for report, index in ended:
                message.set_recipient_state(index, RecipientState.FAILED)
                self._counters.add(Slot.DELIVERY_FAILED_RECIPIENTS, 1)
                self._events.event(
                    "bounce",
                    {
                        "id": message.queue_id,
                        "reverse_path": envelope["reverse_path"].decode("utf-8", "replace"),
                        "recipient": report.forward_path.decode("utf-8", "replace"),
                        "next_hop": "",
                        "site": "",
                        "source": "",
                        "tenant": envelope["tenant"].decode("utf-8", "replace"),
                        "reply": {
                            "code": GIVEN_UP,
                            "enhanced": str(report.status),
                            "text": report.text.decode("utf-8", "replace"),
                        },
                        "class": "failed",
                        "durability": _DURABILITY[message.durability],
                        "attempts": message.attempts,
                        "age_s": round(self._clock.now() - message.received_us * 1e-6, 3),
                        "attempt_s": 0.0,
                    },
                )
            if not message.unfinished():
                self._dispatcher.drop(message)
                return
            self._part = _Part(message)
            status, text = ended[0][0].status, ended[0][0].text
            self._part.entries += [
                (index, RecipientState.FAILED, GIVEN_UP, b"%s %s" % (str(status).encode(), text)) for _, index in ended
            ]
            self._write_outcome(message, message.attempts, at)
        if held:
            message.state = MessageState.MESSAGE_HELD
        else:
            self._dispatcher.wait(message, at)

    def warn(self, message: Message, why: bytes = b"") -> None:
        """Tell the sender that message is late, and when it will be given up; once, however often this is called.

        The mail data is in memory. `why` is as for `expire`. The journal remembers it (RECORD_WARNED); a crash between
        the notification and that record tells the sender twice."""
        if message.warned or message.state == MessageState.MESSAGE_GONE:
            return
        message.warned = True
        reports = self._of_those_left(message, message.unfinished(), "delayed", why)
        if message.loaded.reverse_path() and any(is_wanted(report.kind, report.notify) for report in reports):
            self._tell(message, reports, partial(self._warned, message))

    def _warned(self, message: Message, room: bool) -> None:
        if not room:
            message.warned = False  # whoever asks next tries again
        elif message.segment is not None and message.state != MessageState.MESSAGE_GONE:
            try:
                self._dispatcher.journal(message).append_record(RecordType.RECORD_WARNED, message.id, b"")
            except OSError as failure:
                log.error("message %s: that its sender was warned could not be written: %s", message.queue_id, failure)

    # ------------------------------------------------------------------ what is told

    def _report(
        self, delivery: Delivery, index: int, outcome: Outcome, enhanced: tuple[int, int, int] | None
    ) -> RecipientReport | None:
        """What the sender may want to know of one result; None when there is nothing to tell."""
        path, notify, orcpt = delivery.mail_buffer().recipient(index)
        kind: Kind
        if outcome.state is RecipientState.FAILED:
            kind = "failed"
        elif outcome.state is RecipientState.DELIVERED and not delivery.dsn_passed_on:
            final = delivery.host is None or delivery.queue.next_hop.startswith(b"lmtp")
            kind = "delivered" if final else "relayed"
            if not is_wanted(kind, notify):
                return None
        else:
            return None
        return RecipientReport(
            forward_path=path,
            kind=kind,
            status=outcome.status,
            text=outcome.text,
            reply_code=outcome.reply_code,
            reply_enhanced=enhanced,
            remote_mta=_name_of(delivery, outcome),
            orcpt=orcpt,
            notify=notify,
            last_attempt=self._clock.now(),
        )

    def _of_those_left(self, message: Message, indices: list[int], kind: Kind, why: bytes) -> list[RecipientReport]:
        """What is told of recipients for whom something is left to do, with the last reply about each."""
        replies = self._last_replies(message)
        reports = []
        for index in indices:
            path, notify, orcpt = message.loaded.recipient(index)
            reply = replies.get(index)
            status, text = _split_status(reply.text) if reply is not None else (EnhancedStatus(4, 0, 0), why)
            host = reply.host if reply is not None else b""
            text = text or NO_ATTEMPT
            if kind == "expired" and not host:
                text = b"expired; " + (text if reply is None else b"the last answer was: " + text)
            reports.append(
                RecipientReport(
                    forward_path=path,
                    kind=kind,
                    status=EnhancedStatus(4, 4, 7) if kind == "expired" else status.with_class(4),
                    text=text,
                    reply_code=reply.code if reply is not None else 0,
                    reply_enhanced=status if host and status[1:] != (0, 0) else None,
                    remote_mta=host.partition(b"[")[0],
                    orcpt=orcpt,
                    notify=notify,
                    last_attempt=reply.attempted if reply is not None else None,
                    retries_until=self._expires_at(message) if kind == "delayed" else None,
                )
            )
        return reports

    def _last_replies(self, message: Message) -> dict[int, _Reply]:
        """The newest reply about each recipient, from the journal (a short read)."""
        replies: dict[int, _Reply] = {}
        if message.segment is None:
            return replies
        try:
            outcomes = self._dispatcher.journal(message).read_outcomes(message, 2)
        except (OSError, RecordError) as failure:
            log.error("message %s: its last replies cannot be read: %s", message.queue_id, failure)
            return replies
        for outcome in outcomes:
            for index, _, code, text in outcome.entries:
                # what the session says where no reply was seen begins with the host's name
                own = _split_status(text)[1].startswith(outcome.host + b": ")
                replies[index] = _Reply(code, text, b"" if own else outcome.host, outcome.attempted)
        return replies

    # ------------------------------------------------------------------ the journal

    def _write_outcome(self, message: Message, attempt: int, next_attempt: float, *, settled: bool = True) -> None:
        part, self._part = self._part, None
        if message.segment is None:
            return  # class memory, and the journal took nothing: the next outcome says what has ended
        if part is None or part.message is not message:
            part = _Part(message)
        journal = self._dispatcher.journal(message)
        try:
            journal.append_outcome(
                message,
                part.entries,
                attempted=self._clock.now(),
                attempt=attempt,
                next_attempt=next_attempt,
                next_hop=part.next_hop,
                host=part.host,
                source=part.source,
                pool=part.pool,
            )
        except OSError as failure:
            log.error("message %s: its outcome could not be written: %s", message.queue_id, failure)
            return
        if settled:
            journal.settle_in_flight(message)


class _Reply(NamedTuple):
    """The last that was heard about a recipient: text with the status in front, host (empty: none said it), when."""

    code: int
    text: bytes
    host: bytes
    attempted: float


def _name_of(delivery: Delivery, outcome: Outcome) -> bytes:
    """The host whose reply this is; the session knows it as name[address]:port."""
    if not outcome.from_host or delivery.host is None:
        return b""
    return delivery.host.partition(b"[")[0]


def _split_status(text: bytes) -> tuple[EnhancedStatus, bytes]:
    """A text of an outcome record: the status stands in front."""
    first, _, rest = text.partition(b" ")
    try:
        return EnhancedStatus.parse(first.decode("ascii", "replace")), rest
    except ValueError:
        return EnhancedStatus(4, 0, 0), text
