"""The worker's side of the admin socket: newline-delimited JSON, one request per line.

`{"op": …}` is answered by `{"ok": true, "result": …}` or `{"ok": false, "error": …}`; docs/api.md lists the ops.
`export` alone is answered by several lines, each but the last with a message's octets behind it.

What is asked of the queue is answered by angarium.app.inspection, what is done to it by angarium.app.operations and
angarium.app.steering; where mail would go is angarium.app.explain's matter.

Fails: a malformed request is answered with an error; a client that is gone is forgotten. The socket is for the node's
own user only. Bounds: LONGEST_REQUEST octets a line."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from angarium.app.explain import Explainer, Inquiry
from angarium.app.inspection import Filter, Inspector, envelope_of
from angarium.app.operations import Action, Operations, Order
from angarium.app.steering import Steering
from angarium.app.watch import Hub, Watcher, WatchFilter
from angarium.clock import SystemClock
from angarium.delivery.short_path import short_path
from angarium.policy.permission import permission_of
from angarium.queue.record import parse_id
from angarium.queue.suspension import SuspensionError, in_force, load

if TYPE_CHECKING:
    from pathlib import Path

    from angarium.app.worker import Worker
    from angarium.queue.suspension import Suspension

log = logging.getLogger(__name__)

LONGEST_REQUEST = 4 << 20
MOST_SELECTED = 100_000
LONGEST_WAIT_S = 30.0
BEAT_S = 1.0  # who watches hears something so often


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """One line of a client."""

    op: str
    filter: Filter | None = None
    id: str | None = None
    ids: list[str] | None = None
    action: Action | None = None
    operation: str | None = None
    reason: str = ""
    by: str = ""
    wait_s: float = 0.0
    reverse_path: str = ""
    recipient: str = ""
    mail_data: str = ""
    inquiry: Inquiry | None = None
    watch: WatchFilter | None = None

    def numbers(self) -> list[int] | None:
        """The ids; None when none are given."""
        return None if self.ids is None else [parse_id(text) for text in self.ids]


class ControlServer:
    """Answers for one worker's part of the queue, and acts on it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._steering = Steering(worker.dispatcher, worker.recorder, worker.events, lambda: worker.router.queues)
        self._inspector = Inspector(
            worker.dispatcher, self._steering, lambda buffer: permission_of(worker.config, buffer)
        )
        self._operations = Operations(
            self._inspector, self._steering, worker.events, lambda log_in: worker.quotas.trust(worker.config, log_in)
        )
        self._hub = Hub(worker.reception, worker.dialogues)
        self.renew()
        self._suspensions: list[Suspension] = []
        self._suspensions_seen: tuple[int, int] | None = None
        self._server: asyncio.Server | None = None
        self._path: Path | None = None

    def renew(self) -> None:
        """Answer by the worker's configuration as it is now."""
        worker = self._worker
        self._explainer = Explainer(
            worker=worker.number,
            config=worker.config,
            config_file=worker.config_file,
            router=worker.router,
            connector=worker.connector,
            mail_hosts=worker.lookup.mail_hosts,
            inbound=self._explain_inbound,
            suspended=lambda: self._steering.suspended,
            draining=lambda: worker.draining,
            clock=SystemClock(),
        )

    async def _explain_inbound(self, address: bytes) -> list[tuple[str, str]]:
        """By the policies in force when it is asked."""
        return await self._worker.listeners.inbound.explain(address)

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
        """Stop listening; operations that run are cancelled."""
        if self._server is not None:
            self._server.close()
        await self._operations.close()
        if self._path is not None:
            _make_way(self._path)

    def read_suspensions(self, *, only_if_changed: bool = False) -> int:
        """Bring what is suspended here to what the file says, and end what is over. Returns how many are in force.

        Call it once a second, with only_if_changed. A file that cannot be read is logged; what was suspended stays so.
        """
        spool = self._worker.spool
        try:
            status = (spool / "suspensions.json").stat()
            seen = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            seen = (0, 0)
        if not only_if_changed or seen != self._suspensions_seen:
            self._suspensions_seen = seen
            try:
                self._suspensions = load(spool)
            except (OSError, SuspensionError) as failure:
                log.error("suspensions cannot be read: %s", failure)
        self._steering.apply(in_force(self._suspensions, datetime.now(UTC)))
        return len(self._steering.suspended)

    # -------------------------------------------------------------- requests

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(await self._answer(line, writer) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError) as failure:
            log.debug("admin socket: %s", failure)
        finally:
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> bytes:
        try:
            request = msgspec.json.decode(line, type=Request)
            if request.op == "watch":
                await self._watch(request.watch or WatchFilter(), writer)
            result = await (self._export(request, writer) if request.op == "export" else self._dispatch(request))
        except (msgspec.MsgspecError, ValueError) as failure:
            return msgspec.json.encode({"ok": False, "error": str(failure)})
        return msgspec.json.encode({"ok": True, "result": result})

    async def _dispatch(self, request: Request) -> Any:
        wanted = request.filter or Filter()
        match request.op:
            case "status":
                return self._status()
            case "summary":
                return await self._inspector.summary()
            case "list":
                return await self._inspector.listing(wanted)
            case "show":
                return await self._inspector.show(parse_id(request.id or ""))
            case "select":
                limit = min(wanted.limit or MOST_SELECTED, MOST_SELECTED)
                return [message.queue_id for message in await self._inspector.oldest(wanted, limit)]
            case "preview":
                return await self._inspector.preview(wanted, request.numbers())
            case "act":
                return await self._act(request, wanted)
            case "operations":
                return self._operations.reports()
            case "operation":
                return await self._operations.wait(request.operation or "", min(request.wait_s, LONGEST_WAIT_S))
            case "cancel":
                return self._operations.cancel(request.operation or "")
            case "explain":
                if request.inquiry is None:
                    raise ValueError("explain needs an inquiry")
                return await self._explainer.explain(request.inquiry)
            case "suspensions":
                return self.read_suspensions()
            case "submit":
                return await self._submit(request)
        raise ValueError(f"unknown op: {request.op}")

    def _status(self) -> dict[str, Any]:
        worker = self._worker
        accepting, reason = worker.accepting
        return {
            "worker": worker.number,
            "pid": os.getpid(),
            "accepting": accepting,
            "reason": reason,
            "watchers": self._hub.watchers,
            "dialogues_lost": worker.dialogues_lost,
            "shards": [journal.shard for journal in worker.journals],
            "uptime_s": round(asyncio.get_running_loop().time() - worker.started, 3),
        }

    async def _act(self, request: Request, wanted: Filter) -> Any:
        if request.action is None or not request.operation:
            raise ValueError("act needs an action and the operation's id")
        if request.ids is None and request.filter is None:
            raise ValueError("act needs ids or a filter")
        order = Order(
            operation=request.operation,
            action=request.action,
            ids=request.numbers(),
            filter=wanted,
            reason=request.reason,
            by=request.by,
        )
        self._operations.start(order)
        return await self._operations.wait(order.operation, min(request.wait_s, LONGEST_WAIT_S))

    async def _submit(self, request: Request) -> str:
        """Queue a message of the relay's own; its id, when it is on disk."""
        try:
            return await self._worker.submission.submit(
                request.reverse_path.encode(), request.recipient.encode(), request.mail_data.encode()
            )
        except OSError as failure:
            raise ValueError(f"no journal takes it: {failure}") from None

    async def _watch(self, wanted: WatchFilter, writer: asyncio.StreamWriter) -> None:
        """Write what is said in sessions, until who asked is gone: that ends as a ConnectionError."""
        watcher = Watcher(wanted)
        self._hub.add(watcher)
        seen = self._hub.seen
        try:
            if (note := self._unknown_site(wanted.site)) is not None:
                writer.write(msgspec.json.encode({"note": note, "worker": self._worker.number}) + b"\n")
            while True:
                lines = watcher.take()
                beat = {
                    "beat": True,
                    "worker": self._worker.number,
                    "dropped": watcher.dropped,
                    "seen": self._hub.seen - seen,
                }
                writer.writelines(msgspec.json.encode(line) + b"\n" for line in (*lines, *(() if lines else (beat,))))
                if lines and watcher.dropped:
                    writer.write(msgspec.json.encode(beat) + b"\n")
                await writer.drain()  # while it does not read, lines are dropped
                if writer.transport.is_closing() or self._worker.draining:
                    raise ConnectionResetError("who watched is gone")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(watcher.ready.wait(), BEAT_S)
        finally:
            self._hub.remove(watcher)

    def _unknown_site(self, site: str) -> str | None:
        """What to say of a site to which nothing goes at the moment."""
        known = {queue.site.decode("ascii", "replace").lower() for queue in self._worker.router.queues}
        if not site or site.lower() in known:
            return None
        near = difflib.get_close_matches(site.lower(), known, 3, 0.5)
        return f'there is no connection to a site "{site}" yet, nor mail for it' + (
            f"; there are {', '.join(near)}" if near else ""
        )

    async def _export(self, request: Request, writer: asyncio.StreamWriter) -> dict[str, int]:
        """Write every message that is meant: a line with what is known of it, then its mail data."""
        messages = unreadable = 0
        async for batch in self._inspector.all_matching(request.filter or Filter(), request.numbers()):
            async for loaded in self._inspector.with_buffers(batch):
                unreadable += sum(buffer is None and message.segment is not None for message, buffer in loaded)
                for message, buffer, described in await self._inspector.described(loaded):
                    mail_data = buffer.mail_data()
                    head = {
                        "id": message.queue_id,
                        "octets": len(mail_data),
                        "message": described | {"envelope": envelope_of(buffer)},
                    }
                    writer.write(msgspec.json.encode(head) + b"\n")
                    writer.write(mail_data)
                    messages += 1
                    await writer.drain()
        return {"messages": messages, "unreadable": unreadable}


def _make_way(path: Path) -> None:
    """A folder for the socket, and nothing where it will be."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
