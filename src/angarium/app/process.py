"""What a child of the supervisor runs: `python -m angarium.app.process ROLE`, with its orders as JSON on standard
input.

The supervisor passes sockets and the slab as inherited descriptors and names their numbers in the orders, so that a
child holds nothing else of its parent and starts from a clean interpreter. Its heartbeat goes to its record of the
board (angarium.admin.heartbeat); a child that hangs says on SIGUSR2, on standard error, where its threads are."""

from __future__ import annotations

import base64
import ctypes
import faulthandler
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import uvloop

from angarium._core.counters import Slab
from angarium.admin.heartbeat import Board
from angarium.app.channel import Channel
from angarium.config.model import Config, load_dump

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Orders(msgspec.Struct):
    """What a child is to do."""

    role: str  # worker | lookup | access | events | sink | admin
    config: str  # base64 of config.model.dump
    number: int
    workers: int
    shards: int
    slab_fd: int
    board_fd: int
    socket_fds: list[int]
    ready_fd: int
    worker_sockets: list[str]
    supervisor_pid: int
    config_file: str = ""
    channel_fd: int = -1  # of a worker
    draining: bool = False  # a worker takes no mail until it is told to


def give_orders(config_dump: bytes, **rest: object) -> bytes:
    """Orders as the supervisor writes them."""
    return msgspec.json.encode({"config": base64.b64encode(config_dump).decode("ascii"), **rest})


def read_orders(octets: bytes) -> Orders:
    """The orders that the supervisor wrote. SystemExit when it was killed before it had written them all."""
    try:
        return msgspec.json.decode(octets, type=Orders)
    except msgspec.ValidationError:
        raise  # whole, and not what this release writes
    except msgspec.DecodeError:
        sys.exit("the supervisor is gone before its orders were whole")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its supervisor ends without ending it.

    A worker that outlives its supervisor would go on writing to shards that the next supervisor gives to another.
    SIGKILL, because the journal is made for it, and a drain would keep the spool locked for long.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the supervisor is gone")


def main() -> None:
    """Read the orders and carry them out."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until the worker can reopen its log, there is none to reopen
    orders = read_orders(sys.stdin.buffer.read())
    die_with_parent(orders.supervisor_pid)
    logging.basicConfig(
        level=logging.INFO, format=f"angarium {orders.role}[{orders.number}]: %(message)s", stream=sys.stderr
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = load_dump(base64.b64decode(orders.config))
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2)  # sent to a process that hangs, before it is killed
    board = Board.attach(orders.board_fd)
    if orders.role == "admin":
        _admin(config, orders, board)
        return
    heart = board.heart(orders.role, orders.number if orders.role == "worker" else 0)
    slab = Slab.attach(orders.slab_fd)
    sockets = [socket.socket(fileno=fd) for fd in orders.socket_fds]
    for sock in sockets:
        sock.setblocking(False)
    if orders.role == "sink":
        from angarium.app.sink import Sink  # noqa: PLC0415  # a worker needs none of it

        # counters of its own: what the sink takes is not what the relay took
        sink = Sink(Path(config.node.spool) / "sink" / "Maildir", Slab.create(1).region(0))
        uvloop.run(sink.run(sockets[0], orders.ready_fd, heart))
        return
    if orders.role == "lookup":
        from angarium.app.lookup import Lookup  # noqa: PLC0415  # a worker needs none of it

        async def look_up() -> None:
            lookup = Lookup(config, slab.region(orders.number), orders.worker_sockets)
            await lookup.run(sockets[0], orders.ready_fd, heart)

        uvloop.run(look_up())
        return
    if orders.role == "access":
        from angarium.app.access import Access  # noqa: PLC0415  # a worker needs none of it

        async def give_access() -> None:
            await Access(config, slab.region(orders.number)).run(sockets[0], orders.ready_fd, heart)

        uvloop.run(give_access())
        return
    if orders.role == "events":
        from angarium.app.events import Events  # noqa: PLC0415  # a worker needs none of it

        async def keep_events() -> None:
            await Events(config, slab.region(orders.number)).run(sockets[0], orders.ready_fd, heart)

        uvloop.run(keep_events())
        return
    from angarium.app.worker import Worker  # noqa: PLC0415  # the admin process needs none of it

    async def work() -> None:
        worker = Worker(
            config,
            orders.number,
            orders.workers,
            orders.shards,
            slab,
            Channel(socket.socket(fileno=orders.channel_fd)),
            heart,
            config_file=orders.config_file,
            draining=orders.draining,
        )
        await worker.run(sockets, orders.ready_fd)

    uvloop.run(work())


def _admin(config: Config, orders: Orders, board: Board) -> None:
    from angarium.admin.server import run  # noqa: PLC0415  # a worker needs none of it

    run(
        config,
        orders.slab_fd,
        orders.worker_sockets,
        board,
        sock_fd=orders.socket_fds[0],
        ready_fd=orders.ready_fd,
        supervisor_pid=orders.supervisor_pid,
    )


if __name__ == "__main__":
    main()
