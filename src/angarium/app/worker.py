"""A worker: one loop, its shards, its sessions, its connections. With angarium.app.wiring it alone wires the stages
together; angarium.app.renewal changes its configuration while it runs.

Input: the configuration, its number, the sockets that the supervisor bound, the slab of shared counters, the channel on
which the supervisor gives orders. It runs until SIGTERM, then drains: listeners close, sessions between two
transactions are told 421, deliveries under way end, and the journal is synced. SIGUSR1 reopens the event log.

Fails: an exception here ends the process; the supervisor starts another, which recovers the shards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from angarium._core.counters import Counters, Slab, Slot, Top
from angarium._core.dialogue import Dialogues, Keep
from angarium._core.dispatch import Dispatcher, JournalIntake
from angarium._core.event_log import EventLog
from angarium._core.ledger import DropReason
from angarium._core.memory_budget import MemoryBudget, MemoryState
from angarium._core.record import MessageState, keep_heap, memory_octets, trim_heap
from angarium._core.server_session import Reception
from angarium.admin.heartbeat import WHY_NOT, State
from angarium.app.bouncer import Bouncer
from angarium.app.collection import settle_garbage_collection
from angarium.app.control import ControlServer
from angarium.app.drop import LocalMail, settle_crash
from angarium.app.journal_care import DiskWatch, JournalCare
from angarium.app.lateness import Lateness
from angarium.app.renewal import Renewal, wordings_of
from angarium.app.retry_schedules import RetrySchedules
from angarium.app.submission import Submission
from angarium.app.wiring import Ground, Ways
from angarium.clock import SystemClock
from angarium.config.resolve import memory_budget_octets
from angarium.delivery.call_line import SLICE_S
from angarium.delivery.lookup_client import LookupClient
from angarium.delivery.lookup_protocol import socket_path
from angarium.delivery.route import RouteTable
from angarium.delivery.source import change_pools
from angarium.delivery.tls_account import TlsAccount
from angarium.ingress.listeners import Listeners
from angarium.mail.address import folded_domain
from angarium.outcome.dialogue_files import DialogueFiles
from angarium.outcome.recorder import Recorder
from angarium.policy.access_protocol import access_socket_path
from angarium.policy.inbound import InboundPolicies
from angarium.policy.quota import Quotas
from angarium.queue.backoff import expires_at, next_attempt_at
from angarium.queue.compaction import Compactor
from angarium.queue.damaged import keep_aside
from angarium.queue.indexer import Indexer
from angarium.queue.ledger import LedgerWatch
from angarium.queue.loader import Loader
from angarium.queue.placement import shard_folder, shards_of
from angarium.queue.recovery import RecoveryReport, open_shard

if TYPE_CHECKING:
    import socket

    from angarium._core.dispatch import ReadyQueue
    from angarium._core.journal import Journal, Segment
    from angarium._core.record import Message
    from angarium.admin.heartbeat import Heart
    from angarium.app.channel import Channel
    from angarium.config.model import Config, Retry
    from angarium.delivery.attempt import Router
    from angarium.delivery.connection import Connector
    from angarium.queue.damaged import Damage

log = logging.getLogger(__name__)

DEFERRED_TICKS = 12_000  # half of what was deferred by domain is forgotten
TICK_S = 0.05  # journal flush, timer, gauges
SWEEP_TICKS = 20  # timeouts of sessions
TIDY_TICKS = 1200  # dialogues that are too old
HEAL_TICKS = 100  # another try of a failed or full journal
DRAIN_S = 20.0  # transactions under way may take so long when the worker is told to stop
UNREADABLE_RETRY_S = 600.0
HEAP_KEPT_OCTETS = 24 << 20  # free memory that is not given back: what bursts of mail need again at once
HEAP_MAPPED_OCTETS = 4 << 20
LET_GO_S = 0.2
IDLE_OCTETS = 8 << 20  # with no more mail data than that in memory, and none under way, a worker is idle, and then
KEPT_OCTETS = 1 << 20  # no more free memory is kept
KEEP = {"none": Keep.KEEP_NONE, "failures": Keep.KEEP_FAILURES, "all": Keep.KEEP_ALL}
LAST_RESULTS_S = 1.0  # for what was counted of TLS, when a worker ends


class Worker:
    """One worker process."""

    def __init__(
        self,
        config: Config,
        number: int,
        workers: int,
        shards: int,
        slab: Slab,
        channel: Channel,
        heart: Heart,
        *,
        config_file: str = "",
        draining: bool = False,
    ) -> None:
        """config_file: where the configuration was read from, for who asks where a route stands. draining: it takes no
        mail until the supervisor says so."""
        keep_heap(HEAP_KEPT_OCTETS, HEAP_MAPPED_OCTETS)
        self.config = config
        self.config_file = config_file
        self.number = number
        self._workers = workers
        self._shards = shards
        self.spool = Path(config.node.spool)
        self._clock = SystemClock()
        self.quotas = Quotas(self.spool, self._clock)
        self.counters: Counters = slab.region(number)
        self.counters.reset_gauges()
        self.counters.add(Slot.WORKER_STARTS, 1)
        self.events = EventLog(config.event_file, self.counters)
        self.dispatcher = Dispatcher(self.counters, self.events)
        self.dialogues = Dialogues()
        self._dialogue_files = DialogueFiles(self.spool / "trace", number, workers, self.dialogues.mark)
        self._dialogues_counted = 0  # of those lost
        self.journals: list[Journal] = []
        self.reports: list[RecoveryReport] = []
        self.started = self._clock.monotonic()
        self.draining = False
        self._stop = asyncio.Event()
        self.ways: Ways
        self.ledger: LedgerWatch
        self._refusing = draining
        self._former: list[Ways] = []  # that were replaced, while something goes by them
        self._heart = heart
        self._renewal = Renewal(self, channel)
        self.set_flush_interval(config.events.flush_interval_s)
        self.keep_dialogues()
        self._background: set[asyncio.Future[None]] = set()

    # -------------------------------------------------------------- life

    async def run(self, sockets: list[socket.socket], ready_fd: int) -> None:
        """Recover, serve, and on SIGTERM drain. One octet on ready_fd says that the sockets are served."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(max_workers=4, thread_name_prefix="worker"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_events)
        self._routes = RouteTable(self.config.route)
        self.retries = RetrySchedules(self.config, self._routes, self.dispatcher)
        self.dispatcher.schedule.fold_domain = folded_domain
        self.retries.install()  # before recovery makes the first scheduled queue
        change_pools(self.dispatcher, self.config.source_pool)
        self._open_shards(loop)
        self.care = JournalCare(self.journals)
        self._disk = DiskWatch(self.journals, lambda: self.counters.value(Slot.QUEUE_COMMITS_TOTAL))
        self.care.first_spare()
        self._wire()
        inbound = InboundPolicies(self.lookup, self.counters, self.events, self._clock)
        self.listeners = Listeners(self.reception, self.access, inbound, self.quotas)
        self.control = ControlServer(self)
        self.control.read_suspensions()
        settle_crash(
            self.config,
            shards_of(self.number, self._workers, self._shards),
            lambda number: self.dispatcher.table.get(number) is not None,
        )
        self._requeue()
        self.ledger.publish_now()
        by_address = {str(listener.listen): sock for listener, sock in zip(self.config.listener, sockets, strict=True)}
        if self._refusing:
            self.refuse_mail(True)
        await self.listeners.commit(self.listeners.prepare(self.config, by_address))
        await self.control.start(self.spool / "run" / f"worker-{self.number}.sock")
        if self.local_mail is not None:
            await self.local_mail.start()
        settle_garbage_collection()
        self._renewal.start()
        self._heart.say(self.state)
        os.write(ready_fd, b"1")
        os.close(ready_fd)
        try:
            await self._tick()
        finally:
            await self._drain()
            await self.control.close()

    def _open_shards(self, loop: asyncio.AbstractEventLoop) -> None:
        for shard in shards_of(self.number, self._workers, self._shards):
            journal, report = open_shard(
                shard_folder(self.spool, shard),
                shard,
                self.dispatcher.table,
                segment_octets=self.config.queue.segment_size_octets,
                counters=self.counters,
                taker=self.dispatcher,
                sync_interval_s=self.config.queue.sync_interval_s,
                aside=self.spool / "damaged",
            )
            journal.kick_later = loop.call_soon
            journal.telling_s = SLICE_S
            journal.let_go = self._let_go
            loop.add_reader(journal.event_fd, journal.on_commit)
            self.dispatcher.journals[shard] = journal
            self.journals.append(journal)
            self.reports.append(report)
            self._heart.beat()
            for line in report.harmed:
                log.warning("shard %d: %s", shard, line)
            for damage in report.damaged:
                self._say_damaged(damage, Slot.QUEUE_DAMAGED_START)
            self.counters.add(Slot.QUEUE_TORN_RECORDS, len(report.harmed) - len(report.damaged))
            self.counters.add(Slot.QUEUE_RECOVERED, report.messages)
            if report.lost_memory:
                log.warning(
                    "shard %d: %d recipients of class memory were lost with the process", shard, report.lost_memory
                )
            if report.missing:
                log.error("shard %d: damage: %d recipients are missing from the queue", shard, report.missing)
            if report.unexpected:
                log.warning(
                    "shard %d: %d recipients are queued of whom the ledger did not know", shard, report.unexpected
                )

    # -------------------------------------------------------------- what a change of the configuration changes

    @property
    def router(self) -> Router:
        """The routes in force."""
        return self.ways.router

    @property
    def connector(self) -> Connector:
        """Who opens connections by them."""
        return self.ways.connector

    def set_flush_interval(self, seconds: float) -> None:
        """How often the event log is written."""
        self._flush_ticks = max(1, round(seconds / TICK_S))

    @property
    def dialogues_lost(self) -> int:
        """Attempts of which it could not be kept what was said, for want of room in memory or on disk."""
        return self.dialogues.lost + self._dialogue_files.lost

    def _write_dialogues(self) -> None:
        if self.dialogues.gathered:
            self._dialogue_files.write(self.dialogues.take(), self._clock.now())
        lost = self.dialogues_lost
        if lost > self._dialogues_counted:
            self.counters.add(Slot.OUTCOME_DIALOGUES_DROPPED, lost - self._dialogues_counted)
            self._dialogues_counted = lost

    def keep_dialogues(self) -> None:
        """As much of what is said in attempts as the configuration says."""
        trace = self.config.trace
        self.dialogues.keep = KEEP[trace.dialogues]
        self._dialogue_files.set_bounds(trace.size_octets, trace.keep_s)

    def weigh_tenants(self) -> None:
        """The tenants' shares of a busy next hop are as the configuration says."""
        weights = self.dispatcher.weights
        weights.clear()
        weights.update({tenant.name.encode("utf-8"): tenant.weight for tenant in self.config.tenant})
        for queue in self.router.queues:
            queue.reweigh()

    def go_by(self, ways: Ways) -> None:
        """Mail goes other ways from now on; what is under way ends by those that it took."""
        before, self.ways = self.ways, ways
        ways.take_over(before)
        self._former.append(before)

    def forget_names(self) -> None:
        """Who knows names will know them by other rules."""
        for ways in (self.ways, *self._former):
            ways.router.forget_names()

    def refuse_mail(self, refuse: bool) -> None:
        """Take no mail, as `angarium drain` says, or take it again. Deliveries go on."""
        self._refusing = refuse
        if refuse:
            self._end_sessions()
        elif not self.draining:
            self.reception.draining = False
        self._heart.say(self.state)

    def _end_sessions(self) -> None:
        if self._refusing and self.reception.drain(SLICE_S):
            asyncio.get_running_loop().call_soon(self._end_sessions)  # others have their turn meanwhile

    def _retry_of(self, message: Message) -> Retry:
        return self.retries.of(message)

    # -------------------------------------------------------------- the queue

    def _load(self, message: Message, ready: ReadyQueue | None) -> None:
        self.loader.load(message, lambda read: self.dispatcher.loaded(read, ready))

    def _let_go(self, segments: list[Segment]) -> None:
        """Close a file that went in a thread, when nobody here holds it any more: that may take long."""
        loop = asyncio.get_running_loop()
        loop.call_later(LET_GO_S, loop.run_in_executor, None, segments.clear)

    def _wire(self) -> None:
        config, clock = self.config, self._clock
        dispatcher = self.dispatcher
        self.intake = JournalIntake(dispatcher, self.journals)
        self.memory = MemoryBudget(
            self.counters,
            memory_budget_octets(config),
            soft=config.queue.memory_soft_mark,
            hard=config.queue.memory_hard_mark,
        )
        self._share_memory()
        self.reception = Reception(self.counters, self.events, self.intake, self.memory)
        self.bouncer = Bouncer(
            self.intake,
            self.counters,
            self.events,
            clock,
            hostname=config.node.hostname,
            wordings=wordings_of(config),
            longest_original_octets=config.notification.original_size_octets,
        )
        self.local_mail = self._make_local_mail()
        self.submission = Submission(self.intake, clock, hostname=config.node.hostname)
        chance = random.Random()
        self.recorder = recorder = Recorder(
            dispatcher,
            self.counters,
            self.events,
            clock,
            next_attempt=lambda message: next_attempt_at(
                self._retry_of(message), message.received_us * 1e-6, clock.now(), message.attempts, chance
            ),
            expires_at=lambda message: expires_at(self._retry_of(message), message.received_us * 1e-6),
            tell=self.bouncer.tell,
            in_doubt=config.queue.in_doubt,
        )
        self.tls_account = TlsAccount(clock)
        self.lookup = LookupClient(
            socket_path(self.spool), monotonic=clock.monotonic, random=chance, on_change=self._say_lookup
        )
        self.access = LookupClient(  # it connects with the first log-in
            access_socket_path(self.spool),
            monotonic=clock.monotonic,
            random=chance,
            on_change=self._say_access,
            away="the access process does not answer",
        )
        self.ground = Ground(
            dispatcher,
            self.counters,
            clock,
            chance,
            self.lookup,
            settle=recorder.settle,
            note_tls=self.tls_account.note,
            workers=self._workers,
            dialogues=self.dialogues,
        )
        self.ways = Ways(config, self.ground, self._routes)
        self.ways.take_over(None)
        self.weigh_tenants()
        self.compactor = Compactor(
            dispatcher.table,
            clock,
            rate_octets=config.queue.compaction_rate_octets,
            damaged=self._cannot_be_moved,
        )
        self.ledger = LedgerWatch(dispatcher, self.journals, self.counters)
        self.loader = Loader(dispatcher.journals, self._unreadable, self._damaged, self.spool / "damaged")
        self.lateness = Lateness(dispatcher, recorder, self.loader, clock, self._retry_of, tick_s=TICK_S)
        self.indexer = Indexer(self.journals)
        dispatcher.load = self._load
        dispatcher.settle = recorder.settle
        dispatcher.reconsider = recorder.reconsider
        dispatcher.partial = recorder.partial
        dispatcher.keep_reply = recorder.delivered

    def _make_local_mail(self) -> LocalMail | None:
        """This machine's own mail is the first worker's."""
        listener = self.config.sendmail_listener
        if listener is None or self.number:
            return None
        return LocalMail(
            self.config,
            listener,
            self.reception,
            self.intake,
            self.dispatcher,
            now=self._clock.monotonic,
            quotas=self.quotas,
        )

    async def renew_local_mail(self) -> None:
        """Under the configuration in force. Who cannot reach the socket in between uses the drop folder."""
        if self.local_mail is not None:
            await self.local_mail.close()
        self.local_mail = self._make_local_mail()
        if self.local_mail is not None:
            await self.local_mail.start()

    def _requeue(self) -> None:
        """What recovery found waits for its time, or goes as soon as there is room."""
        in_doubt = {number for report in self.reports for number in report.in_doubt}
        for message in list(self.dispatcher.table):
            resend = True
            if message.id in in_doubt:
                # its last octets may have left before the node went down: it is sent again, and that is said
                resend = self.recorder.found_in_doubt(message)
                self.events.event(
                    "in_doubt", {"id": message.queue_id, "why": "the node went down while it was being sent"}
                )
            elif message.in_doubt:
                # counted when it came to this; that event may have been lost with the process
                self.events.event(
                    "in_doubt", {"id": message.queue_id, "why": "no final reply was seen before the node went down"}
                )
            if message.state != MessageState.MESSAGE_HELD:
                self.dispatcher.wait(message, message.next_attempt)
                if not resend and self.dispatcher.withdraw(message):
                    self.lateness.with_mail_data(message, self._fail_in_doubt)
        # that a message is in doubt is in the log before it can be sent again
        self.events.flush()

    def _fail_in_doubt(self, message: Message) -> None:
        buffer = message.buffer
        if buffer is None:
            return  # it cannot be read, and that has been dealt with
        self.dispatcher.wait(message, self._clock.now())
        message.buffer = buffer
        self.recorder.fail_in_doubt(message)

    def _cannot_be_moved(self, message: Message, why: str) -> None:
        """Compaction found its record harmed: what there is of it is kept aside, and it leaves the queue."""
        segment = message.segment
        if segment is None:
            return
        try:
            damage = keep_aside(
                self.spool / "damaged", message.id, segment, message.offset_octets, message.record_octets, why
            )
        except OSError as failure:
            log.error("message %s is damaged (%s) and cannot be kept aside: %s", message.queue_id, why, failure)
        else:
            self._damaged(message, damage)

    def _unreadable(self, message: Message, why: str) -> None:
        log.error("message %s cannot be read: %s", message.queue_id, why)
        self.events.event("unreadable", {"id": message.queue_id, "why": why})
        self.dispatcher.wait(message, self._clock.now() + UNREADABLE_RETRY_S)

    def _damaged(self, message: Message, damage: Damage) -> None:
        self._say_damaged(damage, Slot.QUEUE_DAMAGED_READ)
        self.dispatcher.drop(message, DropReason.DROP_DAMAGED)

    def _say_damaged(self, damage: Damage, slot: Slot) -> None:
        log.error(
            "%s: %s (%d octets at %d of %s)", damage.name, damage.why, damage.octets, damage.offset, damage.segment
        )
        self.counters.add(slot, 1)
        self.events.event("damaged", {"id": damage.name, "why": damage.why, "kept": damage.kept})

    # -------------------------------------------------------------- what happens again and again

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        count = 0
        while not self._stop.is_set():
            due = loop.time() + TICK_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), TICK_S)
            self.counters.observe(Slot.LOOP_LAG, max(0, int((loop.time() - due) * 1e6)))
            count += 1
            self._beat(count)

    def _share_memory(self) -> None:
        """Tell the dispatcher what the other workers leave of the node's budget."""
        self.dispatcher.memory_soft_octets = self.memory.soft_left_octets
        self.dispatcher.memory_load_octets = self.memory.load_left_octets

    def _beat(self, count: int) -> None:
        dispatcher = self.dispatcher
        self.memory.refresh()
        self._disk.look(self._clock.monotonic())
        self._heart.say(self.state, events_failing=self.events.failing)
        self._share_memory()
        dispatcher.tick()
        self.reception.pace(SLICE_S)
        if self.reception.unswept:
            self.reception.sweep(SLICE_S)
        for ways in (self.ways, *self._former):
            ways.egress.go_on()
        for journal in self.journals:
            journal.flush()
        if count % self._flush_ticks == 0:
            self.events.flush()
        self._write_dialogues()
        dispatcher.grow()
        self.lateness.look()
        if self._former:
            self._tend_former()
        dispatcher.publish_gauges()
        looking_up = sum(ways.router.looking_up for ways in (self.ways, *self._former))
        if looking_up:
            self.counters.add(Slot.QUEUE_WAITED_DNS, looking_up * int(TICK_S * 1e6))
        if not self._disk.is_slow:  # a file that is made now would hold up the loop
            self.care.tick()
        if count % DEFERRED_TICKS == 0:
            self.recorder.deferred.halve()
        if count % SWEEP_TICKS == 0:
            self.recorder.deferred.publish(self.counters, Top.TOP_DEFERRED)
            for shard, journal in dispatcher.journals.items():
                self.counters.set(Slot.SHARD_JOURNAL + shard, journal.octets_on_disk)
                self.counters.set(Slot.SHARD_LIVING + shard, journal.living_octets)
                self.counters.set(Slot.SHARD_CLOSED + shard, bool(journal.failed or journal.full))
            self.indexer.step(self._clock.monotonic())
            self.reception.sweep(SLICE_S)
            self.listeners.inbound.refresh()
            if self.local_mail is not None:
                self.local_mail.tick()
            for ways in (self.ways, *self._former):
                ways.egress.sweep()
            self.router.tend_sources()
            self.counters.set(Slot.QUEUE_JOURNAL_OCTETS, sum(journal.octets_on_disk for journal in self.journals))
            self.care.checkpoint()
            self.ledger.check()
            self.counters.set(Slot.QUEUE_LIVING_OCTETS, sum(journal.living_octets for journal in self.journals))
            self.compactor.tick(self.journals)
            self._hand_over_tls_results()
            self.control.read_suspensions(only_if_changed=True)
        if count % TIDY_TICKS == 0:
            self._dialogue_files.tidy(self._clock.now())
        if count % HEAL_TICKS == 0:
            self.care.heal()
            self._heart.say(self.state, events_failing=self.events.failing)
            if memory_octets() < IDLE_OCTETS and not dispatcher.ready and not dispatcher.loading:
                trim_heap(KEPT_OCTETS)  # a pause of some milliseconds, when nobody waits

    def _tend_former(self) -> None:
        for ways in self._former:
            ways.tend()
        self._former = [ways for ways in self._former if ways.under_way]

    def _say_lookup(self, away: bool) -> None:
        if away:
            log.error("the lookup process does not answer; mail whose hosts are not known waits")
        else:
            log.info("the lookup process answers again")

    def _say_access(self, away: bool) -> None:
        if away:
            log.error("the access process does not answer; AUTH is answered 454")
        else:
            log.info("the access process answers again")

    def _hand_over_tls_results(self) -> None:
        if self.tls_account.dropped:
            self.counters.add(Slot.OUTCOME_TLS_RESULTS_DROPPED, self.tls_account.dropped)
            self.tls_account.dropped = 0
        if not self.tls_account.pending:
            return
        task = asyncio.ensure_future(self.tls_account.hand_over(self.lookup))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _reopen_events(self) -> None:
        try:
            self.events.reopen()
        except OSError as failure:
            log.error("the event log cannot be reopened: %s", failure)

    # -------------------------------------------------------------- the end

    async def _drain(self) -> None:
        """Stop intake, let what is under way end, sync."""
        self.draining = True
        self._heart.say(State.STOPPING)
        loop = asyncio.get_running_loop()
        self._renewal.close()
        self.listeners.close()
        if self.local_mail is not None:
            await self.local_mail.close()
        more = self.reception.drain(SLICE_S)
        self.dispatcher.stopped = True
        all_ways = (self.ways, *self._former)
        for ways in all_ways:
            ways.tend()
        until = loop.time() + DRAIN_S
        # a notification that is on its way to the disk ends its message's story: wait for it, or it is written twice
        while loop.time() < until and (
            self.reception.sessions
            or any(ways.egress.sessions or ways.router.hand_offs.under_way for ways in all_ways)
            or self.bouncer.committing
        ):
            await asyncio.sleep(0 if more else TICK_S)
            self._heart.beat()
            more = self.reception.drain(SLICE_S)
            for ways in all_ways:
                ways.tend()
                ways.egress.sweep()  # or a host that does not answer QUIT holds the end up
            self.events.flush()
            for journal in self.journals:
                journal.flush()
        await self.listeners.inbound.close()
        for ways in all_ways:
            await ways.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.tls_account.hand_over_last(self.lookup), LAST_RESULTS_S)
        await self.lookup.close()
        await self.access.close()
        await self.compactor.close()
        self.care.checkpoint()
        for journal in self.journals:
            loop.remove_reader(journal.event_fd)
            journal.close()
        self.ledger.publish_now()
        self.dispatcher.publish_gauges()
        self._write_dialogues()
        self._dialogue_files.close()
        self.events.close()
        log.info("worker %d: stopped with %d messages queued", self.number, len(self.dispatcher.table))

    @property
    def state(self) -> State:
        """What is done with mail now."""
        if self.draining:
            return State.STOPPING
        if self._refusing:
            return State.DRAINING
        if not self.intake.accepting:
            return State.DISK_FULL if any(journal.full for journal in self.journals) else State.DISK_FAILED
        if self.memory.state == MemoryState.MEMORY_REFUSING:
            return State.MEMORY_FULL
        return State.DISK_SILENT if self._disk.is_silent else State.SERVING

    @property
    def accepting(self) -> tuple[bool, str]:
        """Whether mail is taken now, and if not, why."""
        state = self.state
        return state == State.SERVING, WHY_NOT.get(state, "")
