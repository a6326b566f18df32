"""What an operator does to many messages: one operation runs over a worker's part of the queue, in slices.

Input: an action, the messages that are meant (ids or a filter), a reason, who asked. Output: a report that grows while
the operation runs, and stays for a while after it has ended; the admin process asks for it and adds up what the workers
say. An operation can be cancelled; what is done stays done.

No slice holds the loop for longer than about SLICE_S. Bounds: RUNNING operations of one worker at a time, KEPT reports.

Fails: what goes wrong with one message is counted, and the first few errors are in the report; the rest goes on. A
worker that restarts forgets its operations.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from angarium._core.record import MessageState
from angarium.app.inspection import Filter  # noqa: TC001 - msgspec looks it up when it decodes an Order
from angarium.app.moment import rfc3339
from angarium.app.steering import Effect, recipients_in
from angarium.mail.address import folded_domain

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.event_log import EventLog
    from angarium._core.record import MailBuffer, Message
    from angarium.app.inspection import Inspector
    from angarium.app.steering import Steering

__all__ = ["ACTIONS", "Action", "Operations", "Order", "Report"]

log = logging.getLogger(__name__)

Action = Literal["hold", "release", "retry", "delete", "bounce"]
ACTIONS: tuple[Action, ...] = get_args(Action)

SLICE_S = 0.004
RUNNING = 8
KEPT = 100
ERRORS_KEPT = 5


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be done, and to which messages: those of `ids`, or those that match `filter`."""

    operation: str
    action: Action
    ids: list[int] | None
    filter: Filter
    reason: str
    by: str


class Report(msgspec.Struct):
    """How far an operation is. The counts are of messages."""

    operation: str
    action: Action
    state: Literal["running", "done", "cancelled", "failed"]
    by: str
    reason: str
    started: str
    ended: str | None = None
    selected: int = 0
    done: int = 0
    under_way: int = 0
    unchanged: int = 0
    others: int = 0
    failed: int = 0
    errors: list[str] = msgspec.field(default_factory=list)


class Refusal(ValueError):
    """The operation is not begun; the text says why."""


class Operations:
    """The operations of one worker."""

    def __init__(
        self, inspector: Inspector, steering: Steering, events: EventLog, trust: Callable[[str], bool]
    ) -> None:
        """trust: a log-in that was found to send unusually much does so no more; whether it was."""
        self._inspector = inspector
        self._trust = trust
        self._steering = steering
        self._events = events
        self._reports: dict[str, Report] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, order: Order) -> Report:
        """Begin; the report says how far it is. Refusal when too many run, or the id is taken."""
        if order.operation in self._reports:
            raise Refusal(f"operation {order.operation} has been begun already")
        if len(self._tasks) >= RUNNING:
            raise Refusal(f"{RUNNING} operations are running; wait, or cancel one")
        report = Report(
            operation=order.operation,
            action=order.action,
            state="running",
            by=order.by,
            reason=order.reason,
            started=rfc3339(time.time()),
        )
        self._reports[order.operation] = report
        while len(self._reports) > KEPT:
            ended = next((key for key, kept in self._reports.items() if kept.state != "running"), None)
            if ended is None:
                break
            del self._reports[ended]
        task = asyncio.get_running_loop().create_task(self._run(order, report))
        self._tasks[order.operation] = task
        task.add_done_callback(lambda _task: self._ended(report))
        return report

    def _ended(self, report: Report) -> None:
        self._tasks.pop(report.operation, None)
        if report.state == "running":  # cancelled before it had begun
            report.state = "cancelled"
            report.ended = rfc3339(time.time())

    def reports(self) -> list[Report]:
        """All that are known, in the order in which they were begun."""
        return list(self._reports.values())

    def report(self, operation: str) -> Report | None:
        """How far one operation is; None when it is not known here."""
        return self._reports.get(operation)

    def cancel(self, operation: str) -> Report | None:
        """Have it end after the message at hand; None when it is not known here."""
        task = self._tasks.get(operation)
        if task is not None:
            task.cancel()
        return self._reports.get(operation)

    async def wait(self, operation: str, most_s: float) -> Report | None:
        """Its report when it has ended, or after so long."""
        task = self._tasks.get(operation)
        if task is not None:
            await asyncio.wait([task], timeout=most_s)
        return self._reports.get(operation)

    async def close(self) -> None:
        """Cancel what runs."""
        for task in tuple(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    # -------------------------------------------------------------- one operation

    async def _run(self, order: Order, report: Report) -> None:
        domain = None if order.filter.to_domain is None else folded_domain(order.filter.to_domain.encode())
        if order.action == "release" and order.filter.log_in is not None and order.ids is None:
            if self._trust(order.filter.log_in):
                self._events.event("trusted", {"login": order.filter.log_in, "by": order.by})
            order.filter.before_us = None  # what came and was held since somebody looked is meant as well
        try:
            async for batch in self._inspector.all_matching(order.filter, order.ids):
                report.selected += len(batch)
                whole = [message for message in batch if _needs_mail(order, message, domain)]
                light = [message for message in batch if not _needs_mail(order, message, domain)] if whole else batch
                await self._by_entry(order, report, light)
                await self._with_mail(order, report, whole, domain)
            report.state = "done"
        except asyncio.CancelledError:
            report.state = "cancelled"
        except Exception:
            report.state = "failed"
            report.errors.append("the operation ended by an error of the relay: see its standard error")
            log.exception("operation %s (%s) failed", order.operation, order.action)
        finally:
            report.ended = rfc3339(time.time())
            self._steering.flush()
            self._events.event(
                "operation",
                {
                    "operation": order.operation,
                    "action": order.action,
                    "class": report.state,
                    "by": order.by,
                    "why": order.reason,
                    "selected": report.selected,
                    "done": report.done,
                },
            )

    async def _by_entry(self, order: Order, report: Report, messages: list[Message]) -> None:
        """What needs no more of a message than its entry in the queue."""
        until = time.monotonic() + SLICE_S
        for message in messages:
            try:
                effect = self._act(order, message)
            except OSError as failure:
                effect = _note(report, message, failure)
            _count(report, effect)
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + SLICE_S

    def _act(self, order: Order, message: Message) -> Effect:
        if order.action == "hold":
            return self._steering.hold(message, order.reason, order.by)
        if order.action == "release":
            return self._steering.release(message, order.by)
        if order.action == "retry":
            return self._steering.retry(message)
        return self._steering.delete(message, order.reason, order.by)

    async def _with_mail(self, order: Order, report: Report, messages: list[Message], domain: bytes | None) -> None:
        """What needs the message itself: its recipients, or what is sent back."""
        async for loaded in self._inspector.with_buffers(messages):
            until = time.monotonic() + SLICE_S
            for message, buffer in loaded:
                if buffer is None:
                    over = message.state == MessageState.MESSAGE_GONE
                    _count(report, Effect.UNCHANGED if over else _note(report, message, "it cannot be read"))
                    continue
                try:
                    effect = self._act_with_mail(order, message, buffer, domain)
                except OSError as failure:
                    effect = _note(report, message, failure)
                _count(report, effect)
                if time.monotonic() > until:
                    await asyncio.sleep(0)
                    until = time.monotonic() + SLICE_S

    def _act_with_mail(self, order: Order, message: Message, buffer: MailBuffer, domain: bytes | None) -> Effect:
        meant, others = recipients_in(buffer, message, domain)
        if order.action == "bounce":
            return self._steering.bounce(message, buffer, meant, order.reason)
        if others:
            return Effect.OTHERS
        return self._steering.delete(message, order.reason, order.by)


def _needs_mail(order: Order, message: Message, domain: bytes | None) -> bool:
    """Whether the envelope must be seen: to bounce, and to delete one domain's mail that may be another's as well."""
    return order.action == "bounce" or (order.action == "delete" and domain is not None and message.recipients > 1)


def _count(report: Report, effect: Effect) -> None:
    setattr(report, effect.value, getattr(report, effect.value) + 1)


def _note(report: Report, message: Message, failure: OSError | str) -> Effect:
    """One message that could not be acted on."""
    if len(report.errors) < ERRORS_KEPT:
        report.errors.append(f"{message.queue_id}: {failure}")
    return Effect.FAILED
