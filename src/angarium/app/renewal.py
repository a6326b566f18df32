"""A worker's part in a change of the configuration: build all of it first, then swap, both when the supervisor says so.

Input: orders on the channel (angarium.app.channel). `prepare` builds what the new configuration needs (TLS contexts,
profiles, routes, retry schedules, wordings, the event log's file) while everything goes on as it was; `commit` takes
it, in one turn of the loop but for the opening of new listeners; `abort` lets go of it.

What a commit changes for what is under way: a mail transaction ends under the terms that it began with, a delivery by
the way that it took; what waits in the queue goes the new way at once, unless its own retry schedule says later.

Fails: what cannot be built is answered `failed`, with reasons, and nothing has changed. A commit has nothing left that
could fail; should it all the same, the worker ends itself, and its successor starts with the configuration in force.
When the channel closes, the supervisor is gone, and so will this process be.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from angarium._core.event_log import open_log
from angarium.app.channel import Answer, contents_of
from angarium.app.collection import settle_garbage_collection
from angarium.app.retry_schedules import RetrySchedules
from angarium.app.wiring import Ways, routing_part
from angarium.config.change import part_of
from angarium.config.model import load_dump
from angarium.config.resolve import memory_budget_octets
from angarium.config.wording import read_wordings
from angarium.delivery.route import RouteTable

if TYPE_CHECKING:
    from angarium.app.channel import Channel, Order
    from angarium.app.worker import Worker
    from angarium.config.model import Config
    from angarium.config.wording import Wording
    from angarium.ingress.listeners import Prepared

__all__ = ["Renewal", "wordings_of"]

log = logging.getLogger(__name__)

EXIT_SOFTWARE = 70  # <sysexits.h>
SETTLE_S = 1.0


@dataclass
class _Parts:
    """What one configuration needs, built and not in force."""

    number: int
    config: Config
    listeners: Prepared
    retries: RetrySchedules
    ways: Ways | None  # None: those in force stay
    wordings: list[Wording]
    memory_octets: int
    events_fd: int | None = None  # None: the log stays where it is; -1: there is to be none

    def discard(self) -> None:
        self.listeners.discard()
        if self.events_fd is not None and self.events_fd >= 0:
            os.close(self.events_fd)


class Renewal:
    """Carries out the orders of the supervisor."""

    def __init__(self, worker: Worker, channel: Channel) -> None:
        self._worker = worker
        self._channel = channel
        self._parts: _Parts | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen to the supervisor."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._on_order)

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._channel.fileno())
        self._channel.close()
        self._discard()

    def _on_order(self) -> None:
        try:
            received = self._channel.next_order()
        except BlockingIOError:
            return
        except OSError as failure:
            log.error("the supervisor cannot be heard: %s", failure)
            received = None
        if received is None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            return
        order, files = received
        match order.op:
            case "prepare":
                self._prepare(order, files)
            case "commit":
                self._commit(order)
            case "abort":
                self._discard()
            case "drain":
                self._worker.refuse_mail(order.on)
            case "result":
                self._worker.events.event("reload", order.fields)
                self._worker.events.flush()
            case "hung":
                self._worker.events.event("process_hung", order.fields)
                self._worker.events.flush()
            case "ended":
                self._worker.events.event("process_ended", order.fields)
                self._worker.events.flush()

    def _answer(self, answer: Answer) -> None:
        with contextlib.suppress(OSError):  # whoever does not hear it takes this worker for one that does not answer
            self._channel.answer(answer)

    # -------------------------------------------------------------- first

    def _prepare(self, order: Order, files: list[int]) -> None:
        self._discard()
        dumped = contents_of(files[0])
        os.close(files[0])
        sockets = {address: socket.socket(fileno=fd) for address, fd in zip(order.addresses, files[1:], strict=True)}
        try:
            self._parts = self._build(order.number, load_dump(dumped), sockets)
        except (OSError, ssl.SSLError, ValueError) as failure:
            self._answer(Answer("failed", order.number, [str(failure)]))
        except Exception as failure:  # a defect must not end a worker that has done nothing yet
            log.exception("the configuration cannot be built")
            self._answer(Answer("failed", order.number, [f"{type(failure).__name__}: {failure}"]))
        else:
            self._answer(Answer("prepared", order.number))

    def _build(self, number: int, config: Config, sockets: dict[str, socket.socket]) -> _Parts:
        worker = self._worker
        for sock in sockets.values():
            sock.setblocking(False)
        prepared = worker.listeners.prepare(config, sockets)
        try:
            routes = RouteTable(config.route)
            ways = None
            if routing_part(config) != worker.ways.part:
                ways = Ways(config, worker.ground, routes, order=worker.connector.order)
            parts = _Parts(
                number,
                config,
                prepared,
                RetrySchedules(config, routes, worker.dispatcher),
                ways,
                wordings_of(config),
                memory_budget_octets(config),
            )
            if config.event_file != worker.events.path:
                parts.events_fd = -1 if config.event_file is None else open_log(config.event_file)
        except BaseException:
            prepared.discard()
            raise
        return parts

    def _discard(self) -> None:
        if self._parts is not None:
            self._parts.discard()
            self._parts = None

    # -------------------------------------------------------------- then

    def _commit(self, order: Order) -> None:
        parts = self._parts
        if parts is None or parts.number != order.number:
            return  # of a change that was given up
        self._parts = None
        task = asyncio.get_running_loop().create_task(self._take(parts))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, parts: _Parts) -> None:
        try:
            self._swap(parts)
            await self._worker.listeners.commit(parts.listeners)
            await self._worker.renew_local_mail()
            self._worker.control.renew()
        except BaseException:  # half of it may be in force: the successor has all of it
            log.exception("the configuration could not be taken; this worker ends")
            os._exit(EXIT_SOFTWARE)
        self._answer(Answer("committed", parts.number))
        asyncio.get_running_loop().call_later(SETTLE_S, _collect)

    def _swap(self, parts: _Parts) -> None:
        worker, config = self._worker, parts.config
        other_names = part_of("lookup", worker.config) != part_of("lookup", config)
        worker.config = config
        worker.counters.read_labels()  # the supervisor has given new names their rows
        if parts.events_fd is not None:
            worker.events.move(config.event_file, parts.events_fd)
        worker.set_flush_interval(config.events.flush_interval_s)
        worker.keep_dialogues()
        worker.memory.resize(parts.memory_octets, config.queue.memory_soft_mark, config.queue.memory_hard_mark)
        for journal in worker.journals:
            journal.set_sync_interval(config.queue.sync_interval_s)
        worker.compactor.rate_octets = config.queue.compaction_rate_octets
        worker.recorder.in_doubt = config.queue.in_doubt
        worker.submission.hostname = config.node.hostname
        worker.bouncer.change(
            hostname=config.node.hostname,
            wordings=parts.wordings,
            longest_original_octets=config.notification.original_size_octets,
        )
        worker.weigh_tenants()
        worker.retries = parts.retries
        parts.retries.install()
        if parts.ways is None:
            worker.connector.forget_files()
        else:
            worker.go_by(parts.ways)
        if other_names:  # the process is replaced when all workers have taken this
            worker.lookup.expect_another(worker.forget_names)
            worker.forget_names()


def _collect() -> None:
    """What a change leaves behind is in cycles, and would else wait long for Python to look."""
    gc.unfreeze()
    settle_garbage_collection()


def wordings_of(config: Config) -> list[Wording]:
    """What notifications are written in; a file that went bad since the configuration was checked is left out."""
    known, problems = read_wordings(config.notification.templates)
    for problem in problems:
        log.error("notification.templates: %s", problem)
    languages = [language for language in config.notification.languages if language in known]
    return [known[language] for language in languages or ["en"]]
