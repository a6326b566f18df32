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
the workers' loops turn (angarium.app.service_manager).

Fails: a socket that cannot be bound, a spool that is in use or cannot be written: one line, exit status 1, before
anything starts. A child that dies is started again, after a pause that grows while it keeps dying."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import logging
import os
import pwd
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from angarium._core.counters import Dimension, Slab, Slot
from angarium.app.channel import Channel, Order, pair
from angarium.app.inherited import take_sockets
from angarium.app.node_socket import Client, NodeSocket, Request, node_socket_path
from angarium.app.process import give_orders
from angarium.app.reloads import Reloads
from angarium.app.service_manager import START_S, Heartbeats, ServiceManager
from angarium.config.address import ListenAddress
from angarium.config.change import part_of
from angarium.config.model import SENDMAIL, Config, dump
from angarium.config.resolve import needs_access, needs_events, shard_count, worker_count
from angarium.delivery.event_protocol import events_socket_path
from angarium.delivery.lookup_protocol import socket_path
from angarium.delivery.short_path import short_path
from angarium.policy.access_protocol import access_socket_path
from angarium.queue.dropped import make_folders
from angarium.queue.placement import describe_spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from angarium.app.reading import Source
    from angarium.app.reload import Decision
    from angarium.config.model import Listener, Sendmail

log = logging.getLogger("angarium")

BACKLOG = 1024
PAUSE_FIRST_S = 0.2
PAUSE_LONGEST_S = 30.0
CALM_S = 60.0  # a child that lived so long dies afresh
STOP_S = 30.0  # then children that have not ended are killed
MOST_EARLY_DEATHS = 3  # of a child that was never ready: the relay does not start
LOCK_WAIT_S = 2.0  # for the processes of a relay that was just killed
LOCK_LOOK_S = 0.02


class StartFailure(Exception):
    """The relay cannot start; the text says why."""


@dataclass(eq=False)
class Child:
    """One process and how it has fared."""

    role: str
    number: int
    sockets: list[socket.socket]
    process: subprocess.Popen[bytes] | None = None
    ready_fd: int = -1
    ready: bool = False
    started: float = 0.0
    pause_s: float = PAUSE_FIRST_S
    early_deaths: int = 0  # before it was ready
    start_at: float | None = None
    retiring: bool = False
    leaving: bool = False  # it is not started again
    channel: Channel | None = None  # to a worker

    @property
    def name(self) -> str:
        """For the log."""
        return self.role if self.role != "worker" else f"worker {self.number}"

    def kill(self) -> None:
        """End it at once; it is started again."""
        if self.process is not None:
            self.process.kill()


def end_half_line(events: Path) -> None:
    """What is appended to the event log begins a new line, whatever a killed process left at its end.

    Call it while nobody writes there. A log that cannot be written is the workers' to report.
    """
    with contextlib.suppress(OSError), events.open("r+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


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
        self._replaced: list[Child] = []  # for the last change of the configuration
        self._parts: dict[str, object] = {}  # what the lookup and admin processes were started with
        self._sink = sink
        self._on_ready = on_ready
        self._workers = worker_count(config)
        self._spool = Path(config.node.spool)
        self._shards = 0
        self._slab: Slab
        self._children: list[Child] = []
        self._signals: list[int] = []
        self._stopping = False
        self._announced = False
        self._lock_fd = -1
        self._replacing: list[Child] = []
        self._inherited: dict[str, socket.socket] = {}
        self._node_socket: NodeSocket | None = None
        self._manager = ServiceManager(os.environ, os.getpid())
        self._heartbeats = Heartbeats(self._manager.watchdog_s)
        self._beat_at = 0.0
        self._reloads_told = 0  # the last one whose beginning the service manager was told
        self._reloading = False  # its end is still to be told
        self._reloads = Reloads(
            source,
            sha256,
            running=lambda: self.config,
            members=lambda: [child for child in self._workers_that_hear() if child.ready and not child.retiring],
            workers=self._workers,
            bind=self._bind_new,
            decided=self._take,
            settled=self._is_settled,
            tell=self._tell,
        )

    # -------------------------------------------------------------- life

    def run(self) -> int:
        """Serve until told to stop. Returns the exit status; StartFailure when it cannot begin."""
        with self._signal_pipe() as wake_fd:
            self._prepare()
            for child in self._children:
                self._start(child)
            try:
                self._supervise(wake_fd)
            finally:
                self._end()
        return 0

    def _prepare(self) -> None:
        try:
            self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(self._spool / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._lock_spool()
        except OSError as failure:
            raise StartFailure(f"the spool {self._spool} cannot be used: {failure.strerror}") from failure
        os.ftruncate(self._lock_fd, 0)
        os.write(self._lock_fd, f"{os.getpid()}\n".encode())
        (self._spool / "run").mkdir(mode=0o700, exist_ok=True)
        # one for the lookup process, the access process and the events process, the last one for the supervisor
        self._slab = Slab.create(self._workers + 4)
        self._inherit()
        for number in range(self._workers):
            before = self._children[0].sockets if number else [None] * len(self.config.listener)
            sockets = [
                self._listening(listener, number, first)
                for listener, first in zip(self.config.listener, before, strict=True)
            ]
            self._children.append(Child("worker", number, sockets))
        if self._sink is not None:
            self._children.append(Child("sink", self._workers, [bind(self._sink)]))
        self._children.append(Child("admin", 0, [bind(self.config.admin.listen)]))
        self._drop_privileges()
        # bound by the user whom the workers are; it stays open while the process behind it is replaced
        lookup = ListenAddress(path=socket_path(self._spool))
        self._children.insert(0, Child("lookup", self._workers, [_bind_path(lookup, mode=0o600)]))
        access = ListenAddress(path=access_socket_path(self._spool))
        self._access = Child("access", self._workers + 1, [_bind_path(access, mode=0o600)])
        if needs_access(self.config):
            self._children.insert(1, self._access)
        events = ListenAddress(path=events_socket_path(self._spool))
        self._events = Child("events", self._workers + 2, [_bind_path(events, mode=0o600)])
        if needs_events(self.config):
            self._children.insert(1, self._events)
        control = ListenAddress(path=str(node_socket_path(self._spool)))
        self._node_socket = NodeSocket(_bind_path(control, mode=0o600), self._on_request)
        self._reloads.count_in(self._slab.region(self._slab.regions - 1))
        self._parts = {role: part_of(role, self.config) for role in ("lookup", "access", "events", "admin")}
        self._ready_event_file()
        self._shards = describe_spool(self._spool, shard_count(self.config), self._workers)
        self._slab.assign(Dimension.DIMENSION_SHARD, range(self._shards))
        self._assign_labels()

    def _lock_spool(self) -> None:
        """Take the spool's lock. Children of a supervisor that was killed hold it until they are gone as well."""
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as failure:
                if time.monotonic() > until:
                    raise StartFailure(f"the spool {self._spool} is in use by another relay") from failure
                time.sleep(LOCK_LOOK_S)
            else:
                return

    def _inherit(self) -> None:
        """Take the sockets that systemd has opened."""
        try:
            self._inherited = take_sockets(os.environ, os.getpid())
        except ValueError as failure:
            raise StartFailure(str(failure)) from failure
        for name in sorted(self._inherited.keys() - {listener.listen.name for listener in self.config.listener}):
            log.warning('systemd has opened a socket "%s" that no listener has as "systemd:%s"', name, name)

    def _listening(self, listener: Listener, worker: int, first: socket.socket | None) -> socket.socket:
        """The socket of a listener for one worker: its own, or one for all of them. `first`: that of worker 0."""
        listen = listener.listen
        if listen.host:
            return bind(listen, shared=True, first=worker == 0)
        if first is not None:
            return first
        if listen.path:
            return self._bind_door(listener)
        if listen.name not in self._inherited:
            known = ", ".join(sorted(self._inherited)) or "none"
            raise StartFailure(
                f'listener "{listener.name}": systemd has opened no socket "{listen.name}" (there: {known})'
            )
        return self._inherited[listen.name]

    def _bind_door(self, listener: Listener) -> socket.socket:
        """A Unix socket that clients connect to: who may is said by its mode and its group."""
        uid, gid = self._identity()
        try:
            if listener.socket_group is not None:
                gid = grp.getgrnam(listener.socket_group).gr_gid
        except KeyError as failure:
            raise StartFailure(f'listener "{listener.name}": socket_group: {failure}') from failure
        return _bind_path(listener.listen, mode=int(listener.socket_mode, 8), owner=(uid, gid))

    def _identity(self) -> tuple[int, int]:
        """User and group that the relay runs as; -1: as which it was started."""
        node = self.config.node
        if node.user is None or os.geteuid() != 0:
            return -1, -1
        try:
            user = pwd.getpwnam(node.user)
            return user.pw_uid, grp.getgrnam(node.group).gr_gid if node.group else user.pw_gid
        except KeyError as failure:
            raise StartFailure(f"node.user or node.group: {failure}") from failure

    def _drop_privileges(self) -> None:
        """Become the configured user, with the groups that the user is in; the sockets are bound already."""
        uid, gid = self._identity()
        if uid == -1:
            return
        for path in (self._spool, self._spool / "run", self._spool / "lock"):
            os.chown(path, uid, gid)
        if self.config.sendmail is not None:
            self._make_local_folders(self.config.sendmail, uid, gid)
        assert self.config.node.user is not None
        os.initgroups(self.config.node.user, gid)  # a key that only the group ssl-cert may read, for one
        os.setgid(gid)
        os.setuid(uid)
        self._gave_up_rights = True

    @staticmethod
    def _make_local_folders(sendmail: Sendmail, uid: int, gid: int) -> None:
        """What only root can make: where the socket of this machine's users will be, and their drop folder."""
        folder = Path(sendmail.socket).parent
        try:
            if not folder.exists():
                folder.mkdir(mode=0o755, parents=True)
                os.chown(folder, uid, gid)
            make_folders(sendmail.drop, uid, gid)
        except OSError as failure:
            raise StartFailure(f"[sendmail]: {failure.filename}: {failure.strerror}") from failure

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

    # -------------------------------------------------------------- children

    def _start(self, child: Child) -> None:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        fds = [sock.fileno() for sock in child.sockets]
        theirs: Channel | None = None
        if child.role == "worker":
            child.channel, theirs = pair()
        orders = give_orders(
            dump(self.config),
            role=child.role,
            number=child.number,
            workers=self._workers,
            shards=self._shards,
            slab_fd=self._slab.fd,
            socket_fds=fds,
            ready_fd=write_fd,
            worker_sockets=[str(self._spool / "run" / f"worker-{number}.sock") for number in range(self._workers)],
            supervisor_pid=os.getpid(),
            config_file="" if self._source is None else self._source.file,
            channel_fd=-1 if theirs is None else theirs.fileno(),
            draining=self._draining,
        )
        child.process = subprocess.Popen(
            [sys.executable, "-m", "angarium.app.process", child.role],
            stdin=subprocess.PIPE,
            # the spool stays locked until the last process that may write to it has ended
            pass_fds=(*fds, self._slab.fd, write_fd, self._lock_fd, *([] if theirs is None else [theirs.fileno()])),
        )
        os.close(write_fd)
        if theirs is not None:
            theirs.close()
        assert child.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.process.stdin.write(orders)
            child.process.stdin.close()
        os.set_blocking(read_fd, False)
        child.ready_fd = read_fd
        child.ready = False
        child.retiring = False
        child.started = time.monotonic()
        child.start_at = None

    def _supervise(self, wake_fd: int) -> None:
        assert self._node_socket is not None
        while not self._stopping:
            ready_fds = [child.ready_fd for child in self._children if child.ready_fd >= 0]
            channels = {child.channel.fileno(): child for child in self._children if child.channel is not None}
            asking = self._node_socket.files
            reading = self._reloads.files
            readable, _, _ = select.select([wake_fd, *ready_fds, *channels, *asking, *reading], [], [], self._pause())
            for child in self._children:
                if child.ready_fd in readable:
                    self._note_ready(child)
            for fd, child in channels.items():
                if fd in readable:
                    self._on_answer(child)
            if wake_fd in readable:
                for number in sorted(set(os.read(wake_fd, 4096))):
                    self._on_signal(number)
            self._reap()
            for fd in asking:
                if fd in readable:
                    self._node_socket.on_readable(fd)
            self._reloads.advance(any(fd in readable for fd in reading))
            now = time.monotonic()
            if self._manager.listening:
                self._keep_told(now)
            for child in self._children:
                if child.start_at is not None and child.start_at <= now and self._may_start(child):
                    self._start(child)

    def _may_start(self, child: Child) -> bool:
        """A worker does not start while it is open which configuration it is to start with."""
        return not self._stopping and not (child.role == "worker" and self._reloads.undecided)

    def _pause(self) -> float:
        """Seconds until something is due."""
        due = [child.start_at for child in self._children if child.start_at is not None and self._may_start(child)]
        if self._reloads.due is not None:
            due.append(self._reloads.due)
        if self._announced and self._manager.watchdog_s:
            due.append(self._beat_at)
        return max(0.0, min([5.0, *(moment - time.monotonic() for moment in due)]))

    def _note_ready(self, child: Child) -> None:
        octets = os.read(child.ready_fd, 16)
        os.close(child.ready_fd)
        child.ready_fd = -1
        if not octets:
            return  # it died before it was ready; _reap says so
        child.ready = True
        self._announce()
        if self._replacing:
            self._replace_next()

    def _announce(self) -> None:
        """Say that the node serves, once. It does without a process that keeps the event log, if that cannot start."""
        if self._announced or not all(
            child.ready or (child.role == "events" and child.early_deaths) for child in self._children
        ):
            return
        self._announced = True
        self._manager.ready()
        if self._on_ready is not None:
            self._on_ready()

    def _reap(self) -> None:
        for child in tuple(self._children):
            if child.process is None or child.process.poll() is None:
                continue
            status = child.process.returncode
            was_ready = child.ready
            child.process = None
            if child.channel is not None:
                child.channel.close()
                child.channel = None
            if child.role == "worker":
                self._reloads.on_end(child)
                self._heartbeats.ended(child.number)
            child.ready = False
            if child.ready_fd >= 0:
                os.close(child.ready_fd)
                child.ready_fd = -1
            if self._stopping:
                continue
            now = time.monotonic()
            if child.leaving:
                self._children.remove(child)
                continue
            if child.retiring:
                child.start_at = now
                continue
            if now - child.started > CALM_S:
                child.pause_s = PAUSE_FIRST_S
            why = f"signal {-status}" if status < 0 else f"exit status {status}"
            child.early_deaths += not was_ready
            if child.role == "events":
                self._announce()
            elif not self._announced and child.early_deaths >= MOST_EARLY_DEATHS:
                raise StartFailure(f"{child.name} cannot start ({why}); see its messages above")
            log.error("%s ended (%s); starting it again in %.1f s", child.name, why, child.pause_s)
            child.start_at = now + child.pause_s
            child.pause_s = min(child.pause_s * 2, PAUSE_LONGEST_S)

    # -------------------------------------------------------------- signals

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
        elif number == signal.SIGHUP:
            self._reloads.begin([])
        elif number == signal.SIGUSR1:
            for child in self._children:
                if child.role in {"worker", "lookup", "access", "events"} and child.process is not None and child.ready:
                    child.process.send_signal(signal.SIGUSR1)

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
        for child in self._workers_that_hear():
            self._order(child, Order("drain", on=on))

    def _workers_that_hear(self) -> list[Child]:
        return [child for child in self._children if child.role == "worker" and child.channel is not None]

    def _order(self, child: Child, order: Order) -> None:
        """Give an order that a worker which cannot take it need not carry out: it is about to end."""
        assert child.channel is not None
        try:
            child.channel.order(order)
        except OSError as failure:
            log.error("%s takes no orders: %s", child.name, failure)

    # -------------------------------------------------------------- the service manager

    def _keep_told(self, now: float) -> None:
        """Reloads, how the node is, and that the workers are well."""
        if self._reloads.count != self._reloads_told:
            self._reloads_told = self._reloads.count
            self._reloading = True
            self._manager.reloading()
        if self._reloading and not self._reloads.under_way:
            self._reloading = False
            self._manager.ready()
        troubles = self._troubles(now)
        if self._announced and self._manager.watchdog_s and now >= self._beat_at:
            self._beat_at = now + self._heartbeats.interval_s
            if not troubles:
                self._manager.alive()
            for child in self._workers_that_hear():
                if child.ready and not child.retiring:
                    self._heartbeats.asked(child.number, now)
                    self._order(child, Order("beat"))
        self._manager.status("; ".join(troubles) or self._at_a_glance(), now)

    def _troubles(self, now: float) -> list[str]:
        """What is wrong with the workers; empty: all serve, or are about to."""
        found = []
        for child in self._children:
            if child.role != "worker":
                continue
            if child.process is None:
                found.append(f"{child.name} has ended, and is started again")
            elif not child.ready and now - child.started > START_S:
                found.append(f"{child.name} has not been ready for {now - child.started:.0f} s")
            elif child.ready and (silent_s := self._heartbeats.silent_s(child.number, now)):
                found.append(f"{child.name} has not answered for {silent_s:.0f} s")
        return found

    def _at_a_glance(self) -> str:
        if not self._announced:
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
            return self._listening(listener, worker, first)
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
        if answer is None:  # it has ended, or is about to; _reap says so
            child.channel.close()
            child.channel = None
            self._reloads.on_end(child)
        elif answer.op == "beat":
            self._heartbeats.answered(child.number, time.monotonic())
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
                for sock in old:
                    if sock not in child.sockets and sock not in self._inherited.values():
                        sock.close()
                if child.process is not None and child not in hearing:
                    child.retiring = True  # not ready yet: it starts again with this configuration
                    child.process.terminate()
            elif child.role == "admin" and decision.admin is not None:
                for sock in child.sockets:
                    sock.close()
                child.sockets = [decision.admin]
        for listener in before.listener:
            if listener.listen.path and listener.listen not in [other.listen for other in self.config.listener]:
                with contextlib.suppress(OSError), short_path(listener.listen.path) as name:
                    os.unlink(name)
        self._add_or_end(self._access, needs_access(self.config))
        self._add_or_end(self._events, needs_events(self.config))
        parts = {role: part_of(role, self.config) for role in self._parts}
        self._replaced = [
            child
            for child in self._children
            if not child.leaving and parts.get(child.role) != self._parts.get(child.role)
        ]
        self._replacing = list(self._replaced)
        self._parts = parts
        self._replace_next()

    def _add_or_end(self, child: Child, needed: bool) -> None:
        """Log-ins are verified where there are some to verify, and so on; who asks meanwhile waits in the socket."""
        child.leaving = not needed
        if child.leaving:
            if child.process is not None:
                child.process.terminate()
            elif child in self._children:
                self._children.remove(child)
        elif child not in self._children:
            self._children.insert(1, child)
            child.start_at = time.monotonic()

    def _ready_event_file(self) -> None:
        """Where the workers will write events. A log that cannot be written is theirs to report."""
        file = self.config.event_file
        if file is None:
            return
        if self.config.events.file is None:  # in the spool
            with contextlib.suppress(OSError):
                Path(file).parent.mkdir(mode=0o700, exist_ok=True)
        end_half_line(Path(file))

    def _is_settled(self) -> bool:
        """Whether every process that was replaced serves."""
        return not self._replacing and all(child.ready and not child.retiring for child in self._replaced)

    def _tell(self, fields: dict[str, Any]) -> None:
        """Have one worker write the event `reload`."""
        for child in self._workers_that_hear():
            if child.ready:
                self._order(child, Order("result", fields=fields))
                break

    def _replace_next(self) -> None:
        """Let the next process end and start again with the new configuration; its sockets stay open meanwhile."""
        if any(child.retiring for child in self._children):
            return
        while self._replacing:
            child = self._replacing.pop(0)
            if child.process is not None:
                child.retiring = True
                child.process.terminate()
                return

    # -------------------------------------------------------------- the end

    def _end(self) -> None:
        self._stopping = True
        self._manager.stopping()
        self._reloads.give_up()
        if self._node_socket is not None:
            self._node_socket.close()
        for sock in (sock for child in (*self._children, self._access, self._events) for sock in child.sockets):
            sock.close()
        # the sink goes last: deliveries under way still end there, and may need a name
        for roles in (("worker",), ("lookup", "access", "sink", "admin"), ("events",)):
            self._terminate([child for child in self._children if child.role in roles])
        for child in self._children:
            if child.channel is not None:
                child.channel.close()
                child.channel = None
        self._slab.close()
        self._manager.close()
        os.close(self._lock_fd)

    def _terminate(self, children: list[Child]) -> None:
        alive = [child for child in children if child.process is not None]
        for child in alive:
            assert child.process is not None
            child.process.terminate()
        until = time.monotonic() + STOP_S
        for child in alive:
            assert child.process is not None
            try:
                child.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("%s does not end; killing it", child.name)
                child.process.kill()
                child.process.wait()


def bind(address: ListenAddress, *, shared: bool = False, first: bool = True) -> socket.socket:
    """A listening socket.

    With `shared` there will be several on this address, and the kernel spreads connections over them. The `first` one
    is bound as if it were alone: or a second relay of the same user would join in unnoticed, and take half of the mail.
    """
    if address.path:
        return _bind_path(address)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared and not first:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((address.host, address.port))
        if shared and first:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.listen(BACKLOG)
    except OSError as failure:
        sock.close()
        raise StartFailure(f"cannot listen on {address}: {failure.strerror}") from failure
    return sock


def _bind_path(address: ListenAddress, *, mode: int | None = None, owner: tuple[int, int] = (-1, -1)) -> socket.socket:
    """A listening Unix socket. `mode`: None: as the umask says; `owner`: user and group, -1: as they are."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = None if mode is None else os.umask(0o777 & ~mode)  # there is no moment at which more may connect
    try:
        with short_path(address.path) as name:
            _make_room(address, name)
            sock.bind(name)
            if owner != (-1, -1):
                os.chown(name, *owner)
        sock.listen(BACKLOG)
    except OSError as failure:
        sock.close()
        raise StartFailure(f"cannot listen on {address}: {failure.strerror}") from failure
    except StartFailure:
        sock.close()
        raise
    finally:
        if mask is not None:
            os.umask(mask)
    return sock


def _make_room(address: ListenAddress, name: str) -> None:
    """Remove the socket that a relay left behind; one that somebody listens on, and any other file, stays."""
    path = Path(name)
    if not path.is_socket():
        return  # nothing there, or bind will say that it is in the way
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(name) == 0:
            raise StartFailure(f"cannot listen on {address}: Address already in use")
    path.unlink(missing_ok=True)
