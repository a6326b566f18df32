"""The commit thread on a disk that the test plays: what it writes and syncs, in which order, and what it says when."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import subprocess
import sysconfig
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.faults

CEXT = Path(__file__).parents[2] / "cext"
FOLDER = 99
HARNESS = r"""
#include "committer.h"
typedef int64_t (*write_hook)(int fd, int64_t position, int64_t octets);
typedef int (*sync_hook)(int fd);
static write_hook on_write;
static sync_hook on_sync;
static int64_t play_write(int fd, const struct iovec *vector, int count, uint64_t position) {
    int64_t octets = 0;
    for (int i = 0; i < count; i++) octets += (int64_t)vector[i].iov_len;
    return on_write(fd, (int64_t)position, octets);
}
static int play_sync(int fd) { return -on_sync(fd); }
static const angarium_disk disk = {.write_at = play_write, .sync_data = play_sync, .sync_folder = play_sync};
void *start(write_hook writes, sync_hook syncs, int event_fd, uint64_t sync_interval_us) {
    on_write = writes;
    on_sync = syncs;
    return committer_new(event_fd, 99, sync_interval_us, &disk);
}
uint64_t put(committer *c, int fd, uint64_t position, const char *octets, size_t n,
             int must_sync, int new_file, int barrier) {
    return committer_put(c, fd, position, octets, n, 1, must_sync, new_file, barrier);
}
void kick(committer *c, int flush) { committer_kick(c, flush); }
void restart(committer *c) { committer_restart(c, 99); }
void stop(committer *c) { committer_stop(c); }
void finish(committer *c) { committer_free(c); }
uint64_t written(committer *c) { return COMMITTER_GET(c->written); }
uint64_t synced(committer *c) { return COMMITTER_GET(c->synced); }
int failure(committer *c) { return COMMITTER_GET(c->error); }
"""
WRITE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler ({compiler})")
    if not (CEXT / "committer.h").exists():
        pytest.skip("the sources of the compiled core are not here")
    folder = tmp_path_factory.mktemp("committer")
    (folder / "harness.c").write_text(HARNESS)
    target = folder / "harness.so"
    command = [compiler, "-O1", "-D_GNU_SOURCE", "-shared", "-fPIC", "-pthread", f"-I{CEXT}"]
    subprocess.run([*command, "-o", str(target), str(folder / "harness.c")], check=True)
    loaded = ctypes.CDLL(str(target))
    loaded.start.restype = ctypes.c_void_p
    loaded.start.argtypes = (WRITE, SYNC, ctypes.c_int, ctypes.c_uint64)
    loaded.put.restype = ctypes.c_uint64
    loaded.put.argtypes = (
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_uint64,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
    )
    loaded.kick.argtypes = (ctypes.c_void_p, ctypes.c_int)
    for name in ("restart", "stop", "finish", "written", "synced", "failure"):
        getattr(loaded, name).argtypes = (ctypes.c_void_p,)
    loaded.written.restype = loaded.synced.restype = ctypes.c_uint64
    return loaded


class Disk:
    """What the commit thread did, and what the disk answers."""

    def __init__(self, library: ctypes.CDLL, sync_interval_s: float = 3600) -> None:
        self.library = library
        self.operations: list[tuple[object, ...]] = []
        self.write: Callable[[int, int, int], int] = lambda fd, position, octets: octets
        self.sync: Callable[[int], int] = lambda fd: 0
        self._hooks = (WRITE(self._write), SYNC(self._sync))  # they must live as long as the thread
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.thread = library.start(*self._hooks, self._event_fd, int(sync_interval_s * 1e6))

    def _write(self, fd: int, position: int, octets: int) -> int:
        self.operations.append(("write", fd, position, octets))
        return self.write(fd, position, octets)

    def _sync(self, fd: int) -> int:
        self.operations.append(("sync", fd))
        return self.sync(fd)

    def put(
        self,
        fd: int,
        position: int,
        octets: int,
        *,
        must_sync: bool = False,
        new_file: bool = False,
        barrier: bool = False,
    ) -> int:
        return int(self.library.put(self.thread, fd, position, bytes(octets), octets, must_sync, new_file, barrier))

    def kick(self, *, flush: bool = False) -> None:
        self.library.kick(self.thread, flush)

    def until(self, condition: Callable[[], bool]) -> None:
        poll = select.poll()
        poll.register(self._event_fd, select.POLLIN)
        while not condition():
            assert poll.poll(30_000), "the commit thread said nothing"
            os.eventfd_read(self._event_fd)

    @property
    def written(self) -> int:
        return int(self.library.written(self.thread))

    @property
    def synced(self) -> int:
        return int(self.library.synced(self.thread))

    @property
    def error(self) -> int:
        return int(self.library.failure(self.thread))

    def stop(self) -> None:
        self.library.stop(self.thread)

    def close(self) -> None:
        self.library.finish(self.thread)
        os.close(self._event_fd)


@pytest.fixture
def disk(library: ctypes.CDLL) -> Iterator[Disk]:
    disk = Disk(library)
    yield disk
    disk.close()


def test_pieces_that_adjoin_are_written_at_once_and_synced_once(disk: Disk) -> None:
    disk.put(5, 4096, 100)
    disk.put(5, 4196, 50)
    disk.put(6, 4096, 10)
    last = disk.put(6, 5000, 10, must_sync=True)
    disk.kick()
    disk.until(lambda: disk.synced == last)
    assert sorted(disk.operations[-2:]) == [("sync", 5), ("sync", 6)]
    written = [operation for operation in disk.operations if operation[0] == "write"]
    assert written[-2:] == [("write", 6, 4096, 10), ("write", 6, 5000, 10)]
    assert sum(int(operation[3]) for operation in written) == 170  # type: ignore[call-overload]


def test_nothing_is_said_before_the_sync_came_back_and_later_records_share_the_next(disk: Disk) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(fd: int) -> int:
        entered.set()
        return 0 if go_on.wait(30) else errno.ETIMEDOUT

    disk.sync = slow
    first = disk.put(5, 4096, 100, must_sync=True)
    disk.kick()
    assert entered.wait(30)
    assert (disk.written, disk.synced) == (first, 0)
    gathered = [disk.put(5, 4196 + i * 10, 10, must_sync=True) for i in range(300)]
    disk.kick()
    assert (disk.written, disk.synced) == (first, 0)
    go_on.set()
    disk.until(lambda: disk.synced == gathered[-1])
    assert disk.operations.count(("sync", 5)) == 2
    writes = [operation for operation in disk.operations if operation[0] == "write"]
    assert [(position, octets) for _, _, position, octets in writes] == [  # type: ignore[misc]
        (4096, 100),
        (4196, 2560),  # as many as one call takes
        (4196 + 2560, 440),
    ]


def test_a_barrier_stands_between_what_was_put_before_and_after(disk: Disk) -> None:
    entered, go_on = threading.Event(), threading.Event()
    disk.write = lambda fd, position, octets: (entered.set(), go_on.wait(30), octets)[2]
    disk.put(5, 0, 1, must_sync=True)  # keeps the thread busy while the batch is made
    disk.kick()
    assert entered.wait(30)
    disk.operations.clear()
    disk.put(5, 4096, 100)
    disk.put(6, 0, 48, barrier=True, new_file=True)
    disk.put(6, 48, 100)  # adjoins, and is still not written with it
    disk.put(7, 0, 48, barrier=True)
    last = disk.put(7, 4096, 100, must_sync=True)
    disk.kick()
    go_on.set()
    disk.until(lambda: disk.synced == last)
    begin = disk.operations.index(("write", 5, 4096, 100))
    kinds = disk.operations[begin:]
    assert kinds[:2] == [("write", 5, 4096, 100), ("sync", 5)]
    rest = [operation for operation in kinds[2:] if operation != ("sync", FOLDER)]
    assert rest == [
        ("write", 6, 0, 48),
        ("sync", 6),
        ("write", 6, 48, 100),
        ("sync", 6),
        ("write", 7, 0, 48),
        ("sync", 7),
        ("write", 7, 4096, 100),
        ("sync", 7),
    ]
    assert kinds.count(("sync", FOLDER)) == 1
    assert kinds.index(("sync", FOLDER)) < kinds.index(("write", 6, 48, 100))


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_short_writes_go_on_where_they_ended(disk: Disk, step: int) -> None:
    disk.write = lambda fd, position, octets: min(step, octets)
    for i in range(20):
        last = disk.put(5, 4096 + 100 * i, 100, must_sync=i == 19)
    disk.kick()
    disk.until(lambda: disk.synced == last)
    position = 4096
    for operation in disk.operations:
        if operation[0] == "write":
            assert operation[2] == position
            position += min(step, int(operation[3]))  # type: ignore[call-overload]
    assert position == 4096 + 2000


def test_an_interrupted_write_is_tried_again(disk: Disk) -> None:
    answers = iter([-errno.EINTR, -errno.EINTR, 100])
    disk.write = lambda fd, position, octets: next(answers)
    last = disk.put(5, 4096, 100, must_sync=True)
    disk.kick()
    disk.until(lambda: disk.synced == last)
    assert disk.operations == [("write", 5, 4096, 100)] * 3 + [("sync", 5)]


@pytest.mark.parametrize(("answer", "error"), [(-errno.EIO, errno.EIO), (-errno.ENOSPC, errno.ENOSPC), (0, errno.EIO)])
def test_a_failed_write_stops_everything_until_the_restart(disk: Disk, answer: int, error: int) -> None:
    first = disk.put(5, 4096, 100, must_sync=True)
    disk.kick()
    disk.until(lambda: disk.synced == first)
    disk.write = lambda fd, position, octets: answer
    disk.put(5, 4196, 100, must_sync=True)
    disk.kick()
    disk.until(lambda: disk.error == error)
    assert (disk.written, disk.synced) == (first, first)
    seen = len(disk.operations)
    disk.put(6, 4096, 100, must_sync=True)
    disk.kick(flush=True)
    disk.write = lambda fd, position, octets: octets
    disk.library.restart(disk.thread)
    assert disk.error == 0
    last = disk.put(7, 4096, 100, must_sync=True)
    disk.kick()
    disk.until(lambda: disk.synced == last)
    # what was put between failure and restart is gone, and the file that failed is left alone
    assert [operation for operation in disk.operations[seen:] if operation != ("sync", FOLDER)] == [
        ("write", 7, 4096, 100),
        ("sync", 7),
    ]


def test_a_failed_sync_is_not_tried_again(disk: Disk) -> None:
    disk.sync = lambda fd: errno.EIO if fd == 5 else 0
    last = disk.put(5, 4096, 100, must_sync=True)
    disk.kick()
    disk.until(lambda: disk.error == errno.EIO)
    assert (disk.written, disk.synced) == (last, 0)
    disk.library.restart(disk.thread)
    last = disk.put(6, 4096, 100, must_sync=True)
    disk.kick()
    disk.until(lambda: disk.synced == last)
    disk.stop()
    assert disk.operations.count(("sync", 5)) == 1


def test_a_failed_sync_at_a_barrier_writes_nothing_behind_it(disk: Disk) -> None:
    disk.sync = lambda fd: errno.EIO if fd == 6 else 0
    disk.put(6, 0, 48, barrier=True)
    disk.put(6, 4096, 100, must_sync=True)
    disk.kick()
    disk.until(lambda: disk.error == errno.EIO)
    assert ("write", 6, 4096, 100) not in disk.operations
    assert (disk.written, disk.synced) == (0, 0)


def test_a_folder_that_cannot_be_synced_is_a_failure(disk: Disk) -> None:
    disk.sync = lambda fd: errno.EIO if fd == FOLDER else 0
    disk.put(5, 4096, 100, must_sync=True, new_file=True)
    disk.kick()
    disk.until(lambda: disk.error == errno.EIO)
    assert disk.synced == 0


def test_what_nobody_waits_for_is_written_at_a_flush_and_synced_in_time(library: ctypes.CDLL) -> None:
    disk = Disk(library, sync_interval_s=0.05)
    try:
        last = disk.put(5, 4096, 100)
        disk.kick(flush=True)
        disk.until(lambda: disk.written == last)
        disk.until(lambda: disk.synced == last)
        assert disk.operations == [("write", 5, 4096, 100), ("sync", 5)]
    finally:
        disk.close()


def test_many_files_at_once_are_all_synced(disk: Disk) -> None:
    for fd in range(100, 140):
        last = disk.put(fd, 4096, 100, must_sync=fd == 139)
    disk.kick()
    disk.until(lambda: disk.synced == last)
    for fd in range(100, 140):
        assert disk.operations.count(("write", fd, 4096, 100)) == 1
        assert ("sync", fd) in disk.operations[disk.operations.index(("write", fd, 4096, 100)) :]


def test_stopping_writes_and_syncs_what_there_is(disk: Disk) -> None:
    last = disk.put(5, 4096, 100)
    disk.stop()
    assert (disk.written, disk.synced, disk.error) == (last, last, 0)
    assert disk.operations == [("write", 5, 4096, 100), ("sync", 5)]


def test_stopping_after_a_failure_touches_nothing(disk: Disk) -> None:
    disk.write = lambda fd, position, octets: -errno.EIO
    disk.put(5, 4096, 100, must_sync=True)
    disk.kick()
    disk.until(lambda: disk.error == errno.EIO)
    seen = len(disk.operations)
    disk.put(5, 4196, 100, must_sync=True)
    disk.stop()
    assert len(disk.operations) == seen
