"""The supervisor: binds the sockets, starts the other processes, restarts what dies, and carries signals.

It runs no event loop and touches no mail. Each worker has its own listening sockets (SO_REUSEPORT) that the supervisor
made and keeps: when a worker dies, connections that the kernel had given to its socket wait there until its successor
answers them. Unix sockets, and those that systemd has opened, are one for all workers: who is free accepts.

Started as root with node.user, it binds ports below 1024 and Unix sockets first, and becomes that user, with the groups
that the user is in, before it touches the spool or starts anything: nothing that speaks with a client ever was root.

Signals: SIGTERM and SIGINT drain and stop; SIGHUP reads the configuration again and has the workers change to it while
they serve (angarium.app.reload; an error keeps the old one, and what needs a restart is said by key); the lookup,
access and admin processes are replaced when their part of it has changed. SIGUSR1 reopens the event log. Commands reach
it by a Unix socket (angarium.app.node_socket). A service manager is told how the node is, and its watchdog is fed while
this loop turns (angarium.app.service_manager).

A child that hangs is found by its heartbeat (angarium.app.hang_watch) and killed; one that dies is started again, after
a pause that grows while it keeps dying. Both are said in the log, in the event log by a worker that can, and counted.

Fails: a socket that cannot be bound, a spool that is in use or cannot be written: one line, exit status 1, before
anything starts. A child that the kernel cannot kill, for it waits for a disk, is waited for; the others serve."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from angarium._core.counters import Dimension, Slab, Slot
from angarium.admin.heartbeat import Board, Heart, State
from angarium.app.channel import Order
from angarium.app.child import Child, Launch
from angarium.app.children import Children
from angarium.app.identity import drop_privileges, identity_of
from angarium.app.listening import ListeningSockets, bind, bind_path, unlink
from angarium.app.node_socket import Client, NodeSocket, Request, node_socket_path
from angarium.app.process import give_orders
from angarium.app.reloads import Reloads
from angarium.app.service_manager import ServiceManager
from angarium.app.spool import lock_spool, ready_event_file
from angarium.app.start_failure import StartFailure
from angarium.config.address import ListenAddress
from angarium.config.change import part_of
from angarium.config.model import SENDMAIL, Config, Listener, dump
from angarium.config.resolve import needs_access, needs_events, shard_count, worker_count
from angarium.delivery.event_protocol import events_socket_path
from angarium.delivery.lookup_protocol import socket_path
from angarium.policy.access_protocol import access_socket_path
from angarium.queue.placement import describe_spool

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from angarium.app.reading import Source
    from angarium.app.reload import Decision

__all__ = ["StartFailure", "Supervisor"]

log = logging.getLogger("angarium")

TURN_S = 1.0  # the loop turns at least so often, for its own heartbeat
FEEDS_A_PERIOD = 4  # of the service manager's watchdog


class Supervisor:
    """Runs one node."""

    def __init__(
        self,
        config: Config,
        *,
        source: Source | None = None,
        sha256: str = "",
        sink: ListenAddress | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        """source: where the configuration was read from, None: nowhere, and there is nothing to read again. sha256: of
        the file as it was read."""
        self.config = config
        self._source = source
        self._draining = False
        self._gave_up_rights = False
        self._stop_asked: list[Client] = []
        self._access: Child
        self._events: Child
        self._parts: dict[str, object] = {}  # what the lookup and admin processes were started with
        self._sink = sink
        self._on_ready = on_ready
        self._workers = worker_count(config)
        self._spool = Path(config.node.spool)
        self._shards = 0
        self._slab: Slab
        self._board: Board
        self._heart: Heart
        self._children: Children
        self._stopping = False
        self._lock_fd = -1
        self._sockets = ListeningSockets()
        self._node_socket: NodeSocket | None = None
        self._manager = ServiceManager(os.environ, os.getpid())
        self._feed_at = 0.0
        self._in_trouble = False
        self._reloads_told = 0  # the last one whose beginning the service manager was told
        self._reloading = False  # its end is still to be told
        self._reloads = Reloads(
            source,
            sha256,
            running=lambda: self.config,
            members=lambda: [c for c in self._children.workers_that_hear if c.ready and not c.retiring],
            workers=self._workers,
            bind=self._bind_new,
            decided=self._take,
            settled=lambda: self._children.settled,
            tell=self._tell,
        )

    # -------------------------------------------------------------- life

    def run(self) -> int:
        """Serve until told to stop. Returns the exit status; StartFailure when it cannot begin."""
        with self._signal_pipe() as wake_fd:
            self._prepare()
            self._children.start(self._children)
            try:
                self._supervise(wake_fd)
            finally:
                self._end()
        return 0

    def _prepare(self) -> None:
        config, spool = self.config, self._spool
        self._lock_fd = lock_spool(spool)
        # one for the lookup process, the access process and the events process, the last one for the supervisor
        self._slab = Slab.create(self._workers + 4)
        self._board = Board.create(self._workers)
        # the spool stays locked until the last process that may write to it has ended
        launch = Launch(self._board, self._orders, (self._slab.fd, self._board.fd, self._lock_fd))
        counters = self._slab.region(self._slab.regions - 1)
        self._children = Children(launch, counters, config.node.hang_timeout_s)
        self._sockets.inherit(os.environ, config.listener)
        owner = identity_of(config.node)
        children: list[Child] = []
        for number in range(self._workers):
            before = children[0].sockets if number else [None] * len(config.listener)
            sockets = [
                self._sockets.of_listener(listener, number, first, owner)
                for listener, first in zip(config.listener, before, strict=True)
            ]
            children.append(Child("worker", number, sockets, self._board))
        if self._sink is not None:
            children.append(Child("sink", self._workers, [bind(self._sink)], self._board))
        children.append(Child("admin", 0, [bind(config.admin.listen)], self._board))
        self._gave_up_rights = drop_privileges(config)
        # bound by the user whom the workers are; they stay open while the processes behind them are replaced
        children.insert(0, self._answering("lookup", self._workers, socket_path(spool)))
        self._access = self._answering("access", self._workers + 1, access_socket_path(spool))
        if needs_access(config):
            children.insert(1, self._access)
        self._events = self._answering("events", self._workers + 2, events_socket_path(spool))
        if needs_events(config):
            children.insert(1, self._events)
        self._children.members = children
        control = ListenAddress(path=str(node_socket_path(spool)))
        self._node_socket = NodeSocket(bind_path(control, mode=0o600), self._on_request)
        self._reloads.count_in(counters)
        self._parts = {role: part_of(role, config) for role in ("lookup", "access", "events", "admin")}
        ready_event_file(config)
        self._shards = describe_spool(spool, shard_count(config), self._workers)
        self._slab.assign(Dimension.DIMENSION_SHARD, range(self._shards))
        self._assign_labels()
        self._heart = self._board.heart("supervisor")
        self._board.started("supervisor", 0, os.getpid())
        self._heart.say(State.SERVING)

    def _answering(self, role: str, number: int, path: str) -> Child:
        """A process that is asked over a Unix socket."""
        return Child(role, number, [bind_path(ListenAddress(path=path), mode=0o600)], self._board)

    def _orders(self, child: Child, ready_fd: int, channel_fd: int) -> bytes:
        """What a process is told when it is started."""
        return give_orders(
            dump(self.config),
            role=child.role,
            number=child.number,
            workers=self._workers,
            shards=self._shards,
            slab_fd=self._slab.fd,
            board_fd=self._board.fd,
            socket_fds=[sock.fileno() for sock in child.sockets],
            ready_fd=ready_fd,
            worker_sockets=[str(self._spool / "run" / f"worker-{number}.sock") for number in range(self._workers)],
            supervisor_pid=os.getpid(),
            config_file="" if self._source is None else self._source.file,
            channel_fd=channel_fd,
            draining=self._draining,
        )

    @contextlib.contextmanager
    def _signal_pipe(self) -> Iterator[int]:
        """Signals as octets of a pipe, so that one wait serves them and the children."""
        read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        old_fd = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
        old = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
        try:
            yield read_fd
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in old.items():
                signal.signal(number, handler)
            os.close(read_fd)
            os.close(write_fd)

    # -------------------------------------------------------------- the loop

    def _supervise(self, wake_fd: int) -> None:
        assert self._node_socket is not None
        while not self._stopping:
            ready_fds = [child.ready_fd for child in self._children if child.ready_fd >= 0]
            channels = {child.channel.fileno(): child for child in self._children if child.channel is not None}
            asking = self._node_socket.files
            reading = self._reloads.files
            readable, _, _ = select.select([wake_fd, *ready_fds, *channels, *asking, *reading], [], [], self._pause())
            self._heart.beat()
            for child in self._children:
                if child.ready_fd in readable:
                    self._children.note_ready(child)
            for fd, child in channels.items():
                if fd in readable:
                    self._on_answer(child)
            if wake_fd in readable:
                for number in sorted(set(os.read(wake_fd, 4096))):
                    self._on_signal(number)
            for child in self._children.reap(time.monotonic()):
                if child.role == "worker":
                    self._reloads.on_end(child)
            self._announce()
            for fd in asking:
                if fd in readable:
                    self._node_socket.on_readable(fd)
            self._reloads.advance(any(fd in readable for fd in reading))
            now = time.monotonic()
            self._children.look(now)
            self._tell_incidents()
            if self._manager.listening:
                self._keep_told(now)
            self._children.start(
                [c for c in self._children if c.start_at is not None and c.start_at <= now and self._may_start(c)]
            )

    def _may_start(self, child: Child) -> bool:
        """A worker does not start while it is open which configuration it is to start with."""
        return not self._stopping and not (child.role == "worker" and self._reloads.undecided)

    def _pause(self) -> float:
        """Seconds until something is due."""
        due = [child.start_at for child in self._children if child.start_at is not None and self._may_start(child)]
        due += [child.kill_at for child in self._children if child.kill_at is not None]
        if self._reloads.due is not None:
            due.append(self._reloads.due)
        if self._children.watch.watches:
            due.append(self._children.watch.due)
        if self._children.announced and self._manager.watchdog_s:
            due.append(self._feed_at)
        return max(0.0, min([TURN_S, *(moment - time.monotonic() for moment in due)]))

    def _announce(self) -> None:
        """Say that the node serves, once."""
        if self._children.announced or not self._children.all_serve:
            return
        self._children.announced = True
        self._manager.ready(self._at_a_glance())
        if self._on_ready is not None:
            self._on_ready()

    # -------------------------------------------------------------- signals

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
        elif number == signal.SIGHUP:
            self._reloads.begin([])
        elif number == signal.SIGUSR1:
            for child in self._children:
                if child.role in {"worker", "lookup", "access", "events"} and child.ready:
                    child.send(signal.SIGUSR1)

    # -------------------------------------------------------------- commands

    def _on_request(self, request: Request, client: Client) -> None:
        match request.op:
            case "reload":
                self._reloads.begin([client])
            case "drain":
                self._drain(request.on)
                client.answer({"ok": True, "draining": self._draining})
            case "stop":
                self._stop_asked.append(client)  # its connection ends with this process
                self._stopping = True
            case "status":
                client.answer({"ok": True, "result": self._status()})

    def _status(self) -> dict[str, Any]:
        totals = self._slab.totals()
        return {
            "pid": os.getpid(),
            "draining": self._draining,
            "connections": totals[Slot.INGRESS_CONNECTIONS],
            "messages": totals[Slot.QUEUE_MESSAGES],
            "configuration": self._reloads.status(),
        }

    def _drain(self, on: bool) -> None:
        """Take no mail, or take it again; deliveries go on. Workers that start later are told with their orders."""
        self._draining = on
        self._slab.region(self._slab.regions - 1).set(Slot.NODE_DRAINING, on)
        log.info("drain: %s", "no mail is taken any more" if on else "mail is taken again")
        for child in self._children.workers_that_hear:
            self._order(child, Order("drain", on=on))

    def _order(self, child: Child, order: Order) -> bool:
        """Give an order. A worker that cannot take it need not carry it out: it is about to end."""
        assert child.channel is not None
        try:
            child.channel.order(order)
        except OSError as failure:
            log.error("%s takes no orders: %s", child.name, failure)
            return False
        return True

    def _tell(self, fields: dict[str, Any]) -> None:
        """Have one worker write the event `reload`."""
        hearing = [child for child in self._children.workers_that_hear if child.ready]
        for child in sorted(hearing, key=lambda child: not self._children.is_well(child))[:1]:
            self._order(child, Order("result", fields=fields))

    def _tell_incidents(self) -> None:
        """Have one worker that is well write down what befell processes; without one it waits."""
        incidents = self._children.incidents
        writer = next((child for child in self._children.workers_that_hear if self._children.is_well(child)), None)
        while incidents and writer is not None:
            if not self._order(writer, Order(incidents[0].what, fields=incidents[0].fields)):
                break
            del incidents[0]

    # -------------------------------------------------------------- the service manager

    def _keep_told(self, now: float) -> None:
        """Reloads, how the node is, and that this loop turns."""
        if self._reloads.count != self._reloads_told:
            self._reloads_told = self._reloads.count
            self._reloading = True
            self._manager.reloading()
        if self._reloading and not self._reloads.under_way:
            self._reloading = False
            self._manager.ready(self._at_a_glance())
        if self._children.announced and self._manager.watchdog_s and now >= self._feed_at:
            self._feed_at = now + self._manager.watchdog_s / FEEDS_A_PERIOD
            self._manager.alive()
        troubles = "; ".join(filter(None, (self._children.trouble_of(child, now) for child in self._children)))
        # how long it has lasted is no news
        news = bool(troubles) and not self._in_trouble
        self._in_trouble = bool(troubles)
        self._manager.status(troubles or self._at_a_glance(), now, at_once=news)

    def _at_a_glance(self) -> str:
        if not self._children.announced:
            return "starting"
        totals = self._slab.totals()
        what = "draining" if self._draining else "serving"
        return f"{what}: {totals[Slot.INGRESS_CONNECTIONS]} connections, {totals[Slot.QUEUE_MESSAGES]} messages queued"

    # -------------------------------------------------------------- the configuration

    def _assign_labels(self) -> None:
        """What metrics count by has rows in the slab; names that are new get theirs, and all keep what they have."""
        config = self.config
        listeners = [listener.name for listener in config.listener]
        if config.sendmail is not None:
            listeners.append(SENDMAIL)
        for dimension, names, what in (
            (Dimension.DIMENSION_PROVIDER, [provider.name for provider in config.provider], "provider"),
            (Dimension.DIMENSION_TENANT, [tenant.name for tenant in config.tenant], "tenant"),
            (Dimension.DIMENSION_LISTENER, listeners, "listener"),
            (Dimension.DIMENSION_SOURCE, [source.name for source in config.source], "source"),
            (Dimension.DIMENSION_POOL, [pool.name for pool in config.source_pool], "source pool"),
        ):
            left = self._slab.assign(dimension, names)
            if left:
                log.warning("metrics have no row left for %s %s: counted with others", what, ", ".join(left))

    def _bind_new(self, listener: Listener | ListenAddress, worker: int, first: socket.socket | None) -> socket.socket:
        """A socket of a new listener for one worker, or of the admin process; OSError says why there is none.

        PermissionError: a restart could bind it, for the rights that it takes were given up after the start.
        """
        try:
            if isinstance(listener, ListenAddress):
                return bind(listener)
            return self._sockets.of_listener(listener, worker, first, identity_of(self.config.node))
        except StartFailure as failure:
            if isinstance(failure.__cause__, PermissionError) and self._gave_up_rights:
                raise PermissionError(str(failure)) from failure
            raise OSError(str(failure)) from failure

    def _on_answer(self, child: Child) -> None:
        assert child.channel is not None
        try:
            answer = child.channel.next_answer()
        except OSError:
            return
        if answer is None:  # it has ended, or is about to; reap says so
            child.close_channel()
            self._reloads.on_end(child)
        else:
            self._reloads.on_answer(child, answer)

    def _take(self, decision: Decision) -> None:
        """It is decided: this is the configuration that every process has, or starts with, from now on."""
        before, self.config = self.config, decision.change.config
        self._assign_labels()  # before any worker takes it
        by_address = {str(listener.listen): position for position, listener in enumerate(before.listener)}
        hearing = self._reloads.taking
        for child in self._children:
            if child.role == "worker":
                old = child.sockets
                child.sockets = [
                    decision.sockets[address][child.number]
                    if (address := str(listener.listen)) in decision.sockets
                    else old[by_address[address]]
                    for listener in self.config.listener
                ]
                self._sockets.close(old, child.sockets)
                if child not in hearing:
                    child.retire()  # not ready yet: it starts again with this configuration
            elif child.role == "admin" and decision.admin is not None:
                for sock in child.sockets:
                    sock.close()
                child.sockets = [decision.admin]
        for listener in before.listener:
            if listener.listen.path and listener.listen not in [other.listen for other in self.config.listener]:
                with contextlib.suppress(OSError):
                    unlink(listener.listen.path)
        self._children.watch.change(self.config.node.hang_timeout_s)
        self._children.add_or_end(self._access, needs_access(self.config))
        self._children.add_or_end(self._events, needs_events(self.config))
        parts = {role: part_of(role, self.config) for role in self._parts}
        self._children.replace(
            [
                child
                for child in self._children
                if not child.leaving and parts.get(child.role) != self._parts.get(child.role)
            ]
        )
        self._parts = parts

    # -------------------------------------------------------------- the end

    def _end(self) -> None:
        self._stopping = self._children.stopping = True
        self._heart.say(State.STOPPING)
        self._manager.stopping()
        self._reloads.give_up()
        if self._node_socket is not None:
            self._node_socket.close()
        for sock in (sock for child in (*self._children, self._access, self._events) for sock in child.sockets):
            sock.close()
        # the sink goes last: deliveries under way still end there, and may need a name
        for roles in (("worker",), ("lookup", "access", "sink", "admin"), ("events",)):
            self._children.terminate(roles, self._still_there)
        for child in self._children:
            child.close_channel()
        self._slab.close()
        self._manager.close()
        os.close(self._lock_fd)

    def _still_there(self) -> None:
        """The node ends, and this process is well."""
        self._heart.beat()
        if self._manager.watchdog_s:
            self._manager.alive()
