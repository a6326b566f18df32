"""Between the supervisor and one of its workers: orders one way, answers the other, open files along with them.

One SOCK_SEQPACKET pair for each process, made when it is started: a message is one packet of JSON, and nothing of it is
ever seen in part. What is large, a configuration, goes along as a memfd.

Fails: OSError when the other side is gone or its buffer is full (BlockingIOError): who does not read does not answer.
Bounds: PACKET_OCTETS a message, MOST_FILES open files with it.
"""

from __future__ import annotations

import os
import socket
from array import array
from typing import Any

import msgspec

__all__ = ["MOST_FILES", "Answer", "Channel", "Order", "contents_of", "file_of", "pair"]

PACKET_OCTETS = 64 << 10
MOST_FILES = 200  # the kernel takes 253
MOST_ERRORS = 50
LONGEST_ERROR = 1000


class Order(msgspec.Struct, omit_defaults=True):
    """What a worker is to do.

    `prepare`: build the configuration in the first file; the others are sockets of the listeners at `addresses`.
    `commit`, `abort`: of that one. `drain`: take no mail, or (`on` false) take it again. `result`: what became of a
    reload, `hung` and `ended`: what befell a process, for the event log.
    """

    op: str
    number: int = 0  # which change of the configuration
    addresses: list[str] = []
    on: bool = True
    fields: dict[str, Any] = {}


class Answer(msgspec.Struct, omit_defaults=True):
    """What became of it: `prepared`, `failed` (with errors), `committed`."""

    op: str
    number: int = 0
    errors: list[str] = []


class Channel:
    """One end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    def fileno(self) -> int:
        """For select and add_reader."""
        return self._socket.fileno()

    def close(self) -> None:
        """No more messages."""
        self._socket.close()

    def order(self, order: Order, files: list[int] | None = None) -> None:
        """Send an order; the files stay the caller's."""
        socket.send_fds(self._socket, [msgspec.json.encode(order)], files or [], socket.MSG_NOSIGNAL)

    def next_order(self) -> tuple[Order, list[int]] | None:
        """The next order and its files, which are the caller's; None when nobody will send any more."""
        files = array("i")
        room = socket.CMSG_SPACE((MOST_FILES + 1) * files.itemsize)
        octets, ancillary, _, _ = self._socket.recvmsg(PACKET_OCTETS, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(data)
        return (msgspec.json.decode(octets, type=Order), files.tolist()) if octets else None

    def answer(self, answer: Answer) -> None:
        """Send an answer; of many errors the first ones."""
        answer.errors = [error[:LONGEST_ERROR] for error in answer.errors[:MOST_ERRORS]]
        self._socket.send(msgspec.json.encode(answer), socket.MSG_NOSIGNAL)

    def next_answer(self) -> Answer | None:
        """The next answer; None when nobody will send any more."""
        octets = self._socket.recv(PACKET_OCTETS)
        return msgspec.json.decode(octets, type=Answer) if octets else None


def pair() -> tuple[Channel, Channel]:
    """Both ends."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(one), Channel(other)


def contents_of(fd: int) -> bytes:
    """All of a file in memory. Whoever else has it open reads at the same place in it: so this goes by position."""
    octets = bytearray()
    while piece := os.pread(fd, 1 << 20, len(octets)):
        octets += piece
    return bytes(octets)


def file_of(octets: bytes) -> int:
    """A file in memory that holds octets, to be passed on; the descriptor is the caller's."""
    fd = os.memfd_create("angarium-configuration", os.MFD_CLOEXEC)
    done = 0
    while done < len(octets):
        done += os.pwrite(fd, memoryview(octets)[done:], done)
    return fd
