"""What a queued message waits for, in words: held, suspended, a connection, names, its time, its host, room.

Input: the message and its envelope, and what the dispatcher and the steering know. Output: `{"what", "text", "until"}`
as the API gives it; `until` is null when nobody can say. Nothing here fails, and nothing is changed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from angarium._core.record import MessageFlag, MessageState
from angarium.app.moment import rfc3339
from angarium.mail.address import split_mailbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from angarium._core.dispatch import Dispatcher, ReadyQueue
    from angarium._core.record import MailBuffer, Message
    from angarium.config.model import Permission
    from angarium.queue.suspension import Suspension

__all__ = ["waits_for"]


def waits_for(
    dispatcher: Dispatcher,
    suspended: Mapping[tuple[str, str], Suspension],
    message: Message,
    buffer: MailBuffer,
    permission: Permission | None = None,
) -> dict[str, Any]:
    """The first thing that stands in the way of the message's next attempt. `permission`: its sender's."""
    now = time.time()
    if message.state == MessageState.MESSAGE_HELD:
        if message.flags & MessageFlag.MESSAGE_UNUSUAL:
            who = buffer.envelope()["login"].decode("utf-8", "replace")
            return _wait("unusual", f"an operator: log-in {who} sent unusually much, and what it sends is held")
        return _wait("held", "an operator, who holds it")
    ready = dispatcher.waiting_in(message)
    if message.outstanding:
        return _wait("attempt", "the attempt that is under way") if ready is None else _behind(ready)
    domains = _domains(message, buffer)
    queues = [queue for domain in domains if (queue := dispatcher.known(domain, message.outlet)) is not None]
    scheduled = dispatcher.schedule.queue(message)
    keys = [("tenant", buffer.envelope()["tenant"].decode("utf-8", "replace"))]
    keys += [("domain", domain.decode("utf-8", "replace")) for domain in domains]
    keys += [("site", queue.site.decode("ascii", "replace")) for queue in queues]
    keys += [("source", queue.source.decode("ascii")) for queue in queues]
    for key in keys:
        suspension = suspended.get(key)
        if suspension is not None and suspension.until.timestamp() > now:
            by = f" by {suspension.by}" if suspension.by else ""
            return _wait(
                "suspended",
                f"{suspension.kind} {suspension.name}, suspended{by}: {suspension.reason}",
                suspension.until.timestamp(),
            )
    if message.next_attempt > now and message.flags & MessageFlag.MESSAGE_OVER_QUOTA and not message.attempts:
        return _wait("quota", f"its sender's limit{_limits_text(permission)}", message.next_attempt)
    if message.next_attempt > now:
        return _wait("schedule", "the time of its next attempt", message.next_attempt)
    if scheduled is not None and scheduled.not_before > now:
        why = (scheduled.reason or b"").decode("utf-8", "replace")
        if why.startswith("source pool "):
            return _wait("source", f"an address to leave by: {why}", scheduled.not_before)
        domain = scheduled.domain.decode("utf-8", "replace")
        if scheduled.nameless:
            return _wait("dns", f"the next look-up of the names of {domain}: {why}", scheduled.not_before)
        return _wait("site", f"the next probe of the host of {domain}: {why}", scheduled.not_before)
    if message.buffer is None and message.state == MessageState.MESSAGE_READY:
        return _wait("disk", "its mail data, which is being read")
    return _wait("room", "room in the queue of its next hop") if ready is None else _behind(ready)


def _behind(ready: ReadyQueue) -> dict[str, Any]:
    """What mail waits for that may go to this next hop."""
    hop, cause = ready.site.decode("ascii", "replace"), ready.waits_for
    if cause == "concurrency":
        return _wait(cause, f"a connection to {hop}: all {ready.limit} that there may be are busy")
    if cause == "connection":
        return _wait(cause, f"a connection to {hop}, which is being opened")
    return _wait("room", f"its turn at {hop}")


def _limits_text(permission: Permission | None) -> str:
    if permission is None:
        return ""
    limits = [
        f"{limit} recipients {per}"
        for limit, per in ((permission.recipients_per_hour, "an hour"), (permission.recipients_per_day, "a day"))
        if limit is not None
    ]
    name = f" (permission {permission.name})" if permission.name is not None else ""
    return f", {' and '.join(limits)}{name}" if limits else ""


def _domains(message: Message, buffer: MailBuffer) -> list[bytes]:
    """Of the recipients for whom something is left to do, lower case, each once."""
    paths = (buffer.recipient(index)[0] for index in message.unfinished())
    return list(dict.fromkeys(split_mailbox(path)[1].lower() for path in paths))


def _wait(what: str, text: str, until: float | None = None) -> dict[str, Any]:
    return {"what": what, "text": text, "until": None if until is None else rfc3339(until)}
