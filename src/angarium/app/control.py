"""The worker's side of the admin socket: newline-delimited JSON, one request per line.

`{"op": "status" | "summary" | "list" | "show", …}` is answered by `{"ok": true, "result": …}` or `{"ok": false,
"error": …}`. The shapes of the results are those of the API (angarium.admin.model). Long walks over the queue give way
to the loop every few thousand messages.

Fails: a malformed request is answered with an error; a client that is gone is forgotten. The socket is for the node's
own user only."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from angarium._core.record import MessageState, shard_of
from angarium.admin.workers import short_path
from angarium.mail.status import RecipientState
from angarium.queue.record import RecordError, format_id, load_message, parse_id

if TYPE_CHECKING:
    from pathlib import Path

    from angarium._core.record import MailBuffer, Message
    from angarium.app.worker import Worker

log = logging.getLogger(__name__)

WALK_SLOTS = 2048
MOST_LISTED = 10_000
LONGEST_REQUEST = 65536
FUTURE_S = 1.0  # what waits for less is as good as ready


class Filter(msgspec.Struct, forbid_unknown_fields=True, rename={"sender": "from"}):
    """Which messages a list is to hold."""

    to_domain: str | None = None
    sender: str | None = None
    tenant: str | None = None
    state: str | None = None
    older_than_s: float | None = None
    limit: int = 100


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """One line of a client."""

    op: str
    filter: Filter | None = None
    id: str | None = None


def rfc3339(unix_s: float) -> str:
    """A time as the API writes it."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def state_of(message: Message) -> str:
    """The message's state as the API names it."""
    if message.state == MessageState.MESSAGE_HELD:
        return "held"
    if message.in_doubt:
        return "in_doubt"
    if message.state == MessageState.MESSAGE_SCHEDULED and (
        message.attempts or message.next_attempt > time.time() + FUTURE_S
    ):
        return "scheduled"
    return "ready"  # also what has been put off for a moment because the ready queues are full


class ControlServer:
    """Answers questions about one worker's part of the queue."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._server: asyncio.Server | None = None
        self._path: Path | None = None

    async def start(self, path: Path) -> None:
        """Listen on a Unix socket at path; a stale one is replaced."""
        _make_way(path)
        mask = os.umask(0o177)
        try:
            with short_path(str(path)) as name:
                self._server = await asyncio.start_unix_server(self._serve, path=name, limit=LONGEST_REQUEST)
        finally:
            os.umask(mask)
        self._path = path

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        if self._path is not None:
            _make_way(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(await self._answer(line) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError) as failure:
            log.debug("admin socket: %s", failure)
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> bytes:
        try:
            request = msgspec.json.decode(line, type=Request)
            result = await self._dispatch(request)
        except (msgspec.MsgspecError, ValueError) as failure:
            return msgspec.json.encode({"ok": False, "error": str(failure)})
        return msgspec.json.encode({"ok": True, "result": result})

    async def _dispatch(self, request: Request) -> Any:
        if request.op == "status":
            return self._status()
        if request.op == "summary":
            return await self._summary()
        if request.op == "list":
            return await self._list(request.filter or Filter())
        if request.op == "show":
            return await self._show(request.id or "")
        raise ValueError(f"unknown op: {request.op}")

    def _status(self) -> dict[str, Any]:
        worker = self._worker
        accepting, reason = worker.accepting
        return {
            "worker": worker.number,
            "pid": os.getpid(),
            "accepting": accepting,
            "reason": reason,
            "shards": [journal.shard for journal in worker.journals],
            "uptime_s": round(asyncio.get_running_loop().time() - worker.started, 3),
        }

    async def _walk(self) -> Any:
        """Every message, giving way to the loop in between. What comes or goes meanwhile may be missed."""
        table = self._worker.dispatcher.table
        position = 0
        while position < table.capacity:
            messages, position = table.batch(position, WALK_SLOTS)
            for message in messages:
                yield message
            await asyncio.sleep(0)

    async def _summary(self) -> dict[str, Any]:
        by_state = dict.fromkeys(("ready", "scheduled", "held", "suspended", "in_doubt"), 0)
        messages = recipients = octets = 0
        oldest_us = 0
        async for message in self._walk():
            messages += 1
            recipients += message.recipients
            octets += message.record_octets
            if not oldest_us or message.received_us < oldest_us:
                oldest_us = message.received_us
            by_state[state_of(message)] += 1
        now = datetime.now(UTC).timestamp()
        return {
            "messages": messages,
            "recipients": recipients,
            "octets": octets,
            "oldest_s": round(max(0.0, now - oldest_us * 1e-6), 3) if oldest_us else None,
            "by_state": by_state,
        }

    async def _list(self, wanted: Filter) -> list[dict[str, Any]]:
        """The oldest that match."""
        found: list[dict[str, Any]] = []
        limit = min(wanted.limit, MOST_LISTED)
        now = datetime.now(UTC).timestamp()
        candidates = [message async for message in self._walk()]
        candidates.sort(key=lambda message: message.id)
        for count, message in enumerate(candidates):
            if len(found) >= limit:
                break
            if count % WALK_SLOTS == 0:
                await asyncio.sleep(0)
            if message.state == MessageState.MESSAGE_GONE:
                continue  # delivered meanwhile
            if wanted.state is not None and state_of(message) != wanted.state:
                continue
            if wanted.older_than_s is not None and now - message.received_us * 1e-6 < wanted.older_than_s:
                continue
            buffer = await self._buffer(message)
            if buffer is not None and _matches(buffer, wanted):
                found.append(_describe(message, buffer, await self._replies(message)))
        return found

    async def _show(self, text: str) -> dict[str, Any] | None:
        message = self._worker.dispatcher.table.get(parse_id(text))
        if message is None:
            return None
        buffer = await self._buffer(message)
        if buffer is None:
            return None
        described = _describe(message, buffer, await self._replies(message))
        header, _, _ = buffer.mail_data().partition(b"\r\n\r\n")
        described["header"] = header.decode("utf-8", "replace")
        described["record"] = {"shard": shard_of(message.id)}
        if message.segment is not None:
            described["record"] |= {
                "segment": message.segment.path,
                "offset": message.offset_octets,
                "octets": message.record_octets,
            }
        return described

    async def _buffer(self, message: Message) -> MailBuffer | None:
        if message.buffer is not None:
            return message.buffer
        journal = self._worker.dispatcher.journal(message)
        loop = asyncio.get_running_loop()
        try:
            return load_message(await loop.run_in_executor(None, journal.read_record, message))
        except (OSError, RecordError) as failure:
            log.warning("message %s cannot be read: %s", message.queue_id, failure)
            return None

    async def _replies(self, message: Message) -> dict[int, tuple[int, bytes]]:
        """The last reply of every recipient who waits."""
        if not message.outcome_serial:
            return {}
        journal = self._worker.dispatcher.journal(message)
        try:
            return await asyncio.get_running_loop().run_in_executor(None, journal.last_replies, message)
        except OSError as failure:
            log.warning("message %s: its outcomes cannot be read: %s", message.queue_id, failure)
            return {}


def _make_way(path: Path) -> None:
    """A folder for the socket, and nothing where it will be."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)


def _matches(buffer: MailBuffer, wanted: Filter) -> bool:
    envelope = buffer.envelope()
    if wanted.sender is not None and envelope["reverse_path"] != wanted.sender.encode():
        return False
    if wanted.tenant is not None and envelope["tenant"] != wanted.tenant.encode():
        return False
    if wanted.to_domain is not None:
        domain = b"@" + wanted.to_domain.lower().encode()
        return any(path.lower().endswith(domain) for path, _, _ in envelope["recipients"])
    return True


def _describe(message: Message, buffer: MailBuffer, replies: dict[int, tuple[int, bytes]]) -> dict[str, Any]:
    envelope = buffer.envelope()
    recipients = []
    for index, (path, _, _) in enumerate(envelope["recipients"]):
        reply = replies.get(index)
        state = message.recipient_state(index)
        waits = state not in (RecipientState.DELIVERED, RecipientState.FAILED)
        recipients.append(
            {
                "address": path.decode("utf-8", "replace"),
                "state": RecipientState(state).word,
                "attempts": message.attempts,
                "reply": f"{reply[0]} {reply[1].decode('utf-8', 'replace')}" if reply else None,
                "next_attempt": rfc3339(message.next_attempt) if message.next_attempt and waits else None,
            }
        )
    return {
        "id": format_id(message.id),
        "state": state_of(message),
        "reverse_path": envelope["reverse_path"].decode("utf-8", "replace"),
        "octets": message.record_octets,
        "received": rfc3339(message.received_us * 1e-6),
        "tenant": envelope["tenant"].decode("utf-8", "replace") or None,
        "recipients": recipients,
    }
