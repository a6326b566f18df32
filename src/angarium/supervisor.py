"""The supervisor: binds the sockets, starts the other processes, restarts what dies, and carries signals.

It runs no event loop and touches no mail. Each worker has its own listening sockets (SO_REUSEPORT) that the supervisor
made and keeps: when a worker dies, connections that the kernel had given to its socket wait there until its successor
answers them. Unix sockets, and those that systemd has opened, are one for all workers: who is free accepts.

Started as root with node.user, it binds ports below 1024 and Unix sockets first, and becomes that user, with the groups
that the user is in, before it touches the spool or starts anything: nothing that speaks with a client ever was root.

Signals: SIGTERM and SIGINT drain and stop; SIGHUP reads the configuration again and replaces the lookup process, the
access process, the workers and the admin process one after the other (an error keeps the old one; listeners, spool and
worker count need a restart, and it says so); SIGUSR1 reopens the event log.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from angarium._core.counters import Slab
from angarium.app.inherited import take_sockets
from angarium.app.process import give_orders
from angarium.config.address import ListenAddress
from angarium.config.model import Config, dump
from angarium.config.resolve import needs_access, shard_count, worker_count
from angarium.delivery.lookup_protocol import socket_path
from angarium.delivery.short_path import short_path
from angarium.policy.access_protocol import access_socket_path
from angarium.queue.dropped import make_folders
from angarium.queue.placement import describe_spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@dataclass
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
    waiters: list[Callable[[], None]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For the log."""
        return self.role if self.role != "worker" else f"worker {self.number}"


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
        reload: Callable[[], Config] | None = None,
        sink: ListenAddress | None = None,
        on_ready: Callable[[], None] | None = None,
        config_file: str = "",
    ) -> None:
        """config_file: where the configuration was read from, for who asks where a route stands."""
        self.config = config
        self._config_file = config_file
        self._reload = reload
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
        # one for the lookup process, one for the access process, the last one for the supervisor
        self._slab = Slab.create(self._workers + 3)
        self._inherit()
        for number in range(self._workers):
            sockets = [self._listening(listener, number) for listener in self.config.listener]
            self._children.append(Child("worker", number, sockets))
        if self._sink is not None:
            self._children.append(Child("sink", self._workers, [bind(self._sink)]))
        self._children.append(Child("admin", 0, [bind(self.config.admin.listen)]))
        self._drop_privileges()
        # bound by the user whom the workers are; it stays open while the process behind it is replaced
        lookup = ListenAddress(path=socket_path(self._spool))
        self._children.insert(0, Child("lookup", self._workers, [_bind_path(lookup, mode=0o600)]))
        if needs_access(self.config):
            access = ListenAddress(path=access_socket_path(self._spool))
            self._children.insert(1, Child("access", self._workers + 1, [_bind_path(access, mode=0o600)]))
        if self.config.events.file is not None:
            end_half_line(Path(self.config.events.file))
        self._shards = describe_spool(self._spool, shard_count(self.config), self._workers)

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

    def _listening(self, listener: Listener, worker: int) -> socket.socket:
        """The socket of a listener for one worker: its own, or one for all of them."""
        listen = listener.listen
        if listen.host:
            return bind(listen, shared=True, first=worker == 0)
        if worker > 0:
            return self._children[0].sockets[self.config.listener.index(listener)]
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
            config_file=self._config_file,
        )
        child.process = subprocess.Popen(
            [sys.executable, "-m", "angarium.app.process", child.role],
            stdin=subprocess.PIPE,
            # the spool stays locked until the last process that may write to it has ended
            pass_fds=(*fds, self._slab.fd, write_fd, self._lock_fd),
        )
        os.close(write_fd)
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
        while not self._stopping:
            ready_fds = [child.ready_fd for child in self._children if child.ready_fd >= 0]
            due = [child.start_at for child in self._children if child.start_at is not None]
            timeout = max(0.0, min(due) - time.monotonic()) if due else 5.0
            readable, _, _ = select.select([wake_fd, *ready_fds], [], [], timeout)
            for child in self._children:
                if child.ready_fd in readable:
                    self._note_ready(child)
            if wake_fd in readable:
                for number in sorted(set(os.read(wake_fd, 4096))):
                    self._on_signal(number)
            self._reap()
            now = time.monotonic()
            for child in self._children:
                if child.start_at is not None and child.start_at <= now and not self._stopping:
                    self._start(child)

    def _note_ready(self, child: Child) -> None:
        octets = os.read(child.ready_fd, 16)
        os.close(child.ready_fd)
        child.ready_fd = -1
        if not octets:
            return  # it died before it was ready; _reap says so
        child.ready = True
        if not self._announced and all(other.ready for other in self._children):
            self._announced = True
            if self._on_ready is not None:
                self._on_ready()
        if self._replacing:
            self._replace_next()

    def _reap(self) -> None:
        for child in self._children:
            if child.process is None or child.process.poll() is None:
                continue
            status = child.process.returncode
            was_ready = child.ready
            child.process = None
            child.ready = False
            if child.ready_fd >= 0:
                os.close(child.ready_fd)
                child.ready_fd = -1
            if self._stopping:
                continue
            now = time.monotonic()
            if child.retiring:
                child.start_at = now
                continue
            if now - child.started > CALM_S:
                child.pause_s = PAUSE_FIRST_S
            why = f"signal {-status}" if status < 0 else f"exit status {status}"
            child.early_deaths += not was_ready
            if not self._announced and child.early_deaths >= MOST_EARLY_DEATHS:
                raise StartFailure(f"{child.name} cannot start ({why}); see its messages above")
            log.error("%s ended (%s); starting it again in %.1f s", child.name, why, child.pause_s)
            child.start_at = now + child.pause_s
            child.pause_s = min(child.pause_s * 2, PAUSE_LONGEST_S)

    # -------------------------------------------------------------- signals

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
        elif number == signal.SIGHUP:
            self._on_reload()
        elif number == signal.SIGUSR1:
            for child in self._children:
                if child.role in {"worker", "lookup", "access"} and child.process is not None and child.ready:
                    child.process.send_signal(signal.SIGUSR1)

    def _on_reload(self) -> None:
        if self._reload is None:
            log.warning("reload: nothing to read again in the sandbox")
            return
        try:
            config = self._reload()
        except Exception as failure:  # noqa: BLE001  # whatever is wrong with the file, the old configuration stays
            log.error("reload: the old configuration stays: %s", failure)
            return
        fixed = [
            name
            for name, old, new in (
                ("listeners", [x.listen for x in self.config.listener], [x.listen for x in config.listener]),
                ("node.spool", self.config.node.spool, config.node.spool),
                ("node.workers", self._workers, worker_count(config)),
                ("admin.listen", self.config.admin.listen, config.admin.listen),
                ("whether there are [[credentials]]", needs_access(self.config), needs_access(config)),
            )
            if old != new
        ]
        if fixed:
            log.error("reload: the old configuration stays: %s cannot change without a restart", ", ".join(fixed))
            return
        self.config = config
        self._replacing = [child for child in self._children if child.role in ("lookup", "access", "worker", "admin")]
        log.info("reload: replacing %d processes, one after the other", len(self._replacing))
        self._replace_next()

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
        log.info("reload: done")

    # -------------------------------------------------------------- the end

    def _end(self) -> None:
        self._stopping = True
        for sock in (sock for child in self._children for sock in child.sockets):
            sock.close()
        # the sink goes last: deliveries under way still end there, and may need a name
        for roles in (("worker",), ("lookup", "access", "sink", "admin")):
            self._terminate([child for child in self._children if child.role in roles])
        self._slab.close()
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
