"""The systemd journal by its native protocol: a datagram an event, a file in memory where that is too long.

Fields: MESSAGE (the event in words), PRIORITY, SYSLOG_IDENTIFIER, SYSLOG_FACILITY, ANGARIUM_SCHEMA, ANGARIUM_KEY, and
of each field of the event ANGARIUM_NAME: texts and numbers as they are, the rest as JSON. So `journalctl -t angarium
ANGARIUM_ID=0SAQS2V780G00` is the story of a message.

Fails: SinkFailure when the journal's socket does not take it. What the journal does with it, it does not say.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING, Any

import msgspec

from angarium.app.stream.datagram import DatagramSocket
from angarium.app.stream.sink import SinkFailure
from angarium.app.stream.syslog import FACILITIES, severity_of
from angarium.mail.event_schema import SCHEMA_VERSION
from angarium.mail.event_text import describe

if TYPE_CHECKING:
    from angarium.app.stream.sink import Batch, Item
    from angarium.config.model import Facility

__all__ = ["JOURNAL_SOCKET", "Journald", "entry"]

JOURNAL_SOCKET = "/run/systemd/journal/socket"
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def entry(item: Item, facility: Facility) -> bytes:
    """An event in the journal's export format; ValueError for what is no JSON object."""
    event: dict[str, Any] = msgspec.json.decode(item.line, type=dict[str, Any])
    fields = [
        ("MESSAGE", describe(event)),
        ("PRIORITY", str(severity_of(event))),
        ("SYSLOG_IDENTIFIER", "angarium"),
        ("SYSLOG_FACILITY", str(FACILITIES.index(facility))),
        ("ANGARIUM_SCHEMA", str(SCHEMA_VERSION)),
        ("ANGARIUM_KEY", item.key),
    ]
    for name, value in event.items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode("utf-8")
        fields.append((f"ANGARIUM_{name.upper()}", text))
    return b"".join(_field(name, text.encode("utf-8", "replace")) for name, text in fields)


def _field(name: str, value: bytes) -> bytes:
    key = name.encode("ascii")
    if b"\n" not in value:
        return key + b"=" + value + b"\n"
    return key + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"


def _write_all(fd: int, octets: bytes) -> None:
    with open(fd, "wb", closefd=False) as file:
        file.write(octets)


class Journald:
    """The journal of this machine."""

    def __init__(self, facility: Facility, path: str = JOURNAL_SOCKET) -> None:
        self._facility = facility
        self._path = path
        self._socket: DatagramSocket | None = None

    async def send(self, batch: Batch) -> None:
        """Hand them over one by one."""
        for number, item in enumerate(batch.items):
            try:
                if self._socket is None:
                    self._socket = DatagramSocket(socket.AF_UNIX, self._path)
                await self._hand_over(self._socket, entry(item, self._facility))
            except (OSError, ValueError) as failure:
                await self.close()
                raise SinkFailure(f"{self._path}: {failure}", taken=number) from failure

    async def _hand_over(self, opened: DatagramSocket, octets: bytes) -> None:
        try:
            await opened.send(octets)
        except OSError as failure:
            if failure.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            fd = os.memfd_create("angarium-event", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                _write_all(fd, octets)
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
                opened.socket.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            finally:
                os.close(fd)

    async def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
