"""What the machine gives a relay: descriptors, a disk, a clock, ports.

Each function looks at one thing and yields findings. Input: the configuration. Nothing is changed but for a small file
that is written and removed in the spool to see how long a sync takes, and nothing is sent anywhere: `outbound` alone
makes a connection, when it is asked to.

Fails: not at all; what cannot be looked at is a finding.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import shutil
import socket
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from angarium.cli.doctor.finding import Finding, error, note, ok, warning
from angarium.config.address import split_host_port
from angarium.config.resolve import shard_count, worker_count
from angarium.delivery.source import can_be_bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from angarium.config.address import ListenAddress
    from angarium.config.model import Config

__all__ = ["clock", "descriptors", "disk", "kernel_clock", "outbound", "ports", "sources"]

BESIDE_CONNECTIONS = 200  # descriptors that a worker has for other things
SYNCS = 11
SLOW_SYNC_S, VERY_SLOW_SYNC_S = 0.02, 0.2
LEAST_FREE = 0.1  # share of the disk
UNSAFE_FILE_SYSTEMS = {"tmpfs", "ramfs"}
REMOTE_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"}
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
OUTBOUND_TIMEOUT_S = 15.0


def running_pid(config: Config) -> int | None:
    """The process id of the relay that runs on this spool; None when there is none, or it cannot be seen."""
    lock = Path(config.node.spool, "lock")
    try:
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read(32).strip() or b"0") or None
    except (OSError, ValueError):
        return None
    return None


def descriptors(config: Config, pid: int | None = None) -> Iterator[Finding]:
    """Whether the relay may open as many files as its limits promise connections."""
    subject = "open files"
    limit, whose = _open_files_limit(pid)
    wanted = max([config.limits.connections, *(config.limits_of(one).connections for one in config.listener)])
    wanted = wanted // worker_count(config) + config.delivery.connections_per_host + BESIDE_CONNECTIONS
    remedy = "set LimitNOFILE=65536 in the systemd unit, or lower limits.connections"
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        yield ok(subject, f"{whose} may have {_number(limit)} open; a worker needs {wanted} for the configured limits")
    elif limit < 1024:
        yield error(subject, f"{whose} may have {limit} open, and even a quiet relay needs more", remedy)
    else:
        yield warning(subject, f"{whose} may have {limit} open, and a worker may need {wanted}", remedy)


def _open_files_limit(pid: int | None) -> tuple[int, str]:
    if pid is not None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
                if line.startswith("Max open files"):
                    soft = line.split()[3]
                    return (resource.RLIM_INFINITY if soft == "unlimited" else int(soft)), "the running relay"
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0], "a process of this shell"


def _number(limit: int) -> str:
    return "any number" if limit == resource.RLIM_INFINITY else str(limit)


def disk(config: Config) -> Iterator[Finding]:
    """The spool's file system: what kind it is, what room there is, how long a sync takes."""
    spool = config.node.spool
    folder = spool
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    kind = _file_system(folder)
    if kind in UNSAFE_FILE_SYSTEMS:
        remedy = "put node.spool on a local disk"
        yield error("file system", f"{spool} is on {kind}: a restart of the machine loses all mail", remedy)
    elif kind in REMOTE_FILE_SYSTEMS:
        remedy = "put node.spool on a local disk; network file systems promise less than they should"
        yield error("file system", f"{spool} is on {kind}", remedy)
    else:
        yield ok("file system", f"{spool} is on {kind or 'a file system that is not named'}")
    yield _free_space(config, folder)
    if folder != spool:
        yield error("spool", f"{spool} is not there", "angarium serve makes it, or: angarium init --system")
    else:
        yield _sync_time(spool)


def _file_system(path: str) -> str:
    """The type of the file system of a path, from the mount table."""
    best, kind = "", ""
    real = os.path.realpath(path)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields, _, rest = line.partition(" - ")
            mounted = fields.split()[4].encode().decode("unicode_escape")
            if (real == mounted or real.startswith(mounted.rstrip("/") + "/")) and len(mounted) >= len(best):
                best, kind = mounted, rest.split()[0]
    return kind


def _free_space(config: Config, folder: str) -> Finding:
    room = shutil.disk_usage(folder)
    inodes = os.statvfs(folder)
    needed = config.queue.segment_size_octets * (shard_count(config) + 2 * worker_count(config))
    remedy = "make room, move node.spool to a larger disk, or lower queue.segment_size"
    if room.free < needed:
        reason = f"{format_octets(room.free)} are free, and the journal's first files take {format_octets(needed)}"
        return error("free space", reason, remedy)
    if room.free < room.total * LEAST_FREE:
        return warning("free space", f"{format_octets(room.free)} of {format_octets(room.total)} are free", remedy)
    if inodes.f_files and inodes.f_favail < 1000:
        return error("free space", f"only {inodes.f_favail} files can be made", "remove files; the inodes are used up")
    return ok("free space", f"{format_octets(room.free)} of {format_octets(room.total)}")


def format_octets(octets: int) -> str:
    """To three figures."""
    for unit in ("B", "kB", "MB", "GB"):
        if octets < 1000:
            return f"{octets:.3g} {unit}" if unit != "B" else f"{octets} B"
        octets /= 1000  # type: ignore[assignment]  # a size for people
    return f"{octets:.3g} TB"


def _sync_time(spool: str) -> Finding:
    """The median time that a small write takes to be on disk: what a client in class fsync waits for."""
    path = os.path.join(spool, f".doctor-{os.getpid()}")
    took = []
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, bytes(1 << 20))  # a sync of what is there already changes no metadata, as in the journal
            os.fsync(fd)
            for number in range(SYNCS):
                begin = time.perf_counter()
                os.pwrite(fd, b"\xff" * 4096, number * 4096)
                os.fdatasync(fd)
                took.append(time.perf_counter() - begin)
        finally:
            os.close(fd)
            os.unlink(path)
    except OSError as failure:
        remedy = "run the doctor as the relay's user or as root; else see who owns the spool"
        return warning("disk sync", f"{spool} cannot be written: {failure.strerror}", remedy)
    median, worst = statistics.median(took), max(took)
    reason = f"a write is on disk after {median * 1000:.2g} ms (the slowest of {SYNCS}: {worst * 1000:.2g} ms)"
    remedy = (
        "a disk with a write cache that survives power cuts, or of its own; queue.durability says what a 250 waits for"
    )
    if median > VERY_SLOW_SYNC_S:
        return error("disk sync", reason, remedy)
    return warning("disk sync", reason, remedy) if median > SLOW_SYNC_S else ok("disk sync", reason)


def kernel_clock() -> tuple[bool, float]:
    """Whether the kernel holds the clock for synchronised, and by how many seconds it may be wrong at most.

    OSError where the kernel does not say.
    """
    buffer = (ctypes.c_long * 64)()  # struct timex; all zeros asks and sets nothing
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(buffer))
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return state != TIME_ERROR, buffer[3] / 1e6


def clock(state: tuple[bool, float] | None = None) -> Iterator[Finding]:
    """The clock against what the kernel knows of NTP. Certificates, DKIM and retries go by it."""
    remedy = "run one of systemd-timesyncd, chrony, ntpd: timedatectl set-ntp true"
    try:
        synchronised, wrong_s = kernel_clock() if state is None else state
    except OSError as failure:
        yield note("clock", f"the kernel does not say whether it is synchronised: {failure.strerror}", remedy)
        return
    if not synchronised:
        yield warning("clock", "nothing keeps it: the kernel says that it is not synchronised", remedy)
    elif wrong_s > 1:
        yield warning("clock", f"it is synchronised, and may be wrong by {wrong_s:.0f} s", remedy)
    else:
        yield ok("clock", f"synchronised, to {wrong_s * 1000:.0f} ms")


def ports(config: Config, pid: int | None) -> Iterator[Finding]:
    """Whether each listener's port is the relay's, or can be."""
    for name, address in (*((one.name, one.listen) for one in config.listener), ("admin", config.admin.listen)):
        yield _port(name, address, pid)


def _port(name: str, address: ListenAddress, pid: int | None) -> Finding:
    subject = f"port of {name}"
    if address.path:
        folder = os.path.dirname(address.path)
        if os.path.isdir(folder):
            return ok(subject, f"{address}: its folder is there")
        return error(subject, f"{address}: {folder} is not there", f"install -d -o USER {folder}")
    if address.name:
        return note(subject, f"{address}: systemd opens it", f"systemctl list-sockets shows {address.name}")
    if address.port == 0:
        return note(subject, f"{address}: the port is chosen at the start", "write a port, unless this is a test")
    if pid is not None:
        return _served(subject, address, pid)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as failure:
            return error(subject, f"{address}: {failure.strerror}", _remedy_of(failure, address))
    return ok(subject, f"{address} is free")


def sources(config: Config) -> Iterator[Finding]:
    """Whether mail can leave by the addresses of each source: they must be this machine's."""
    for source in config.source:
        for family, address in source.addresses.items():
            why = can_be_bound(address, family)
            if why is None:
                yield ok(f"source {source.name}", f"{address} is an address of this machine")
            else:
                remedy = f"ip address shows the machine's; add {address} to an interface, or correct the source"
                yield error(f"source {source.name}", f"no connection can be made from {address}: {why}", remedy)


def _served(subject: str, address: ListenAddress, pid: int) -> Finding:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  (compared with)
    try:
        with socket.create_connection((host, address.port), timeout=5.0):
            return ok(subject, f"{address} is served; the relay runs as process {pid}")
    except OSError as failure:
        reason = f"the relay runs as process {pid}, and {address} does not answer: {failure.strerror or failure}"
        return error(subject, reason, "angarium status; the relay's log; a firewall on this machine")


def _remedy_of(failure: OSError, address: ListenAddress) -> str:
    if failure.errno == errno.EADDRINUSE:
        return f"another program has it: ss -ltnp 'sport = :{address.port}'; end it, or choose another port"
    if failure.errno in (errno.EACCES, errno.EPERM):
        return "a port below 1024 needs CAP_NET_BIND_SERVICE: docs/angarium.service has it; or run the doctor as root"
    if failure.errno == errno.EADDRNOTAVAIL:
        return f"{address.host} is no address of this machine: ip address"
    return "see the reason"


def outbound(target: str) -> Iterator[Finding]:
    """Whether port 25 of a host outside can be reached and answers as SMTP does."""
    subject = "outbound SMTP"
    remedy = "many providers block port 25 until they are asked; else route mail through a smart host ([[route]])"
    try:
        host, port = split_host_port(target)
        with socket.create_connection((host, int(port or 25)), timeout=OUTBOUND_TIMEOUT_S) as sock:
            greeting = sock.recv(512).decode("ascii", "replace").splitlines()
            with contextlib.suppress(OSError):
                sock.sendall(b"QUIT\r\n")
    except (OSError, ValueError) as failure:
        yield error(subject, f"{target}: {getattr(failure, 'strerror', None) or failure}", remedy)
        return
    said = greeting[0] if greeting else ""
    if said.startswith("220"):
        yield ok(subject, f"{target} answers: {said[:100]}")
    else:
        yield error(subject, f"{target} answers, and not as a mail host does: {said[:100]!a}", remedy)
