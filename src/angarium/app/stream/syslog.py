"""Syslog as in RFC 5424: to a socket or by UDP (RFC 5426) a datagram an event, by TCP with octet counting
(RFC 6587 §3.4.1), by TLS likewise (RFC 5425).

    <22>1 2026-11-26T04:22:27.123456Z relay.example.org angarium - delivery - {"time":…}

MSGID is the name of the event, MSG its JSON. The socket of this machine's own daemon is spoken to as syslog(3) does,
without a host's name, for that is what daemons read there (rsyslog takes RFC 5424 on it only when it is told to):

    <22>Nov 26 04:22:27 angarium: {"time":…}

A datagram takes so much as its socket does: what is longer is cut
(RFC 5424 §6.1), which by TCP and TLS it is not.

Fails: SinkFailure. Nothing in syslog says that a message has arrived: what was written to a connection that then breaks
may be lost. Bounds: what the socket holds.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from angarium.app.stream.datagram import DatagramSocket
from angarium.app.stream.log_in import context_of
from angarium.app.stream.sink import SinkFailure
from angarium.config.model import Facility

if TYPE_CHECKING:
    from collections.abc import Mapping

    from angarium.app.stream.sink import Batch, Item
    from angarium.config.check_stream import SyslogTarget

__all__ = ["FACILITIES", "Syslog", "message", "severity_of"]

# RFC 5424 §6.2.1: the number is the place; 12 to 15 are nobody's
FACILITIES: tuple[str, ...] = (*get_args(Facility)[:12], "ntp", "audit", "alert", "clock", *get_args(Facility)[12:])
WARNING, NOTICE, INFO = 4, 5, 6
_SEVERITIES = {
    "bounce": WARNING,
    "rejection": NOTICE,
    "deferral": NOTICE,
    "expiry": WARNING,
    "in_doubt": WARNING,
    "double_bounce": WARNING,
    "damaged": 3,
    "unreadable": 3,
    "events_lost": 3,
    "stream_lost": 3,
    "dead_letter": 3,
    "unreachable": WARNING,
    "tls_failed": WARNING,
    "log_in_failed": WARNING,
    "ban": WARNING,
    "certificate_refused": 3,
    "drop_refused": WARNING,
    "unusual": WARNING,
}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SHORTEST_OCTETS = 480  # that every receiver takes (§6.1)


def severity_of(event: Mapping[str, Any]) -> int:
    """RFC 5424 §6.2.1."""
    name = str(event.get("event"))
    failed = event.get("class") in {"failing", "failed", "refused", "unreachable"} and name not in {"bounce"}
    return min(_SEVERITIES.get(name, INFO), WARNING if failed and name != "notification" else INFO)


def message(item: Item, node: str, facility: Facility) -> bytes:
    """An event as a message of RFC 5424; ValueError for what is no JSON object."""
    event: dict[str, Any] = msgspec.json.decode(item.line, type=dict[str, Any])
    priority = FACILITIES.index(facility) * 8 + severity_of(event)
    stamp = event.get("time", "-")
    return f"<{priority}>1 {stamp} {node} angarium - {event.get('event', '-')} - ".encode("ascii") + item.line


def local_message(item: Item, facility: Facility) -> bytes:
    """The same as syslog(3) writes it, in the machine's own time."""
    event: dict[str, Any] = msgspec.json.decode(item.line, type=dict[str, Any])
    priority = FACILITIES.index(facility) * 8 + severity_of(event)
    try:
        moment = datetime.fromisoformat(str(event.get("time"))).astimezone()
    except ValueError:
        moment = datetime.now().astimezone()
    stamp = f"{_MONTHS[moment.month - 1]} {moment.day:2} {moment:%H:%M:%S}"  # whatever the locale calls a month
    return f"<{priority}>{stamp} angarium: ".encode("ascii") + item.line


class Syslog:
    """One receiver."""

    def __init__(self, target: SyslogTarget, node: str, facility: Facility) -> None:
        self._target = target
        self._node = node
        self._facility = facility
        self._datagrams: DatagramSocket | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, batch: Batch) -> None:
        """Hand them over."""
        if self._target.transport in {"tcp", "tls"}:
            await self._send_stream(batch)
            return
        for number, item in enumerate(batch.items):
            try:
                await self._send_datagram(
                    local_message(item, self._facility)
                    if self._target.local
                    else message(item, self._node, self._facility)
                )
            except (OSError, ValueError) as failure:
                await self.close()
                raise SinkFailure(f"syslog: {failure}", taken=number) from failure

    async def _send_datagram(self, octets: bytes) -> None:
        if self._datagrams is None:
            self._datagrams = await self._connect()
        while True:
            try:
                await self._datagrams.send(octets)
            except OSError as failure:
                if failure.errno != errno.EMSGSIZE or len(octets) <= SHORTEST_OCTETS:
                    raise
                octets = octets[: max(SHORTEST_OCTETS, len(octets) // 2)]
            else:
                return

    async def _connect(self) -> DatagramSocket:
        target = self._target
        if target.transport == "unix":
            return DatagramSocket(socket.AF_UNIX, target.path)
        found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
        family, _, _, _, address = found[0]
        return DatagramSocket(family, (str(address[0]), int(address[1])))

    async def _send_stream(self, batch: Batch) -> None:
        try:
            if self._reader is not None and self._reader.at_eof():
                await self.close()  # it has closed; what was written last may not have been read
            if self._writer is None:
                context = context_of(None) if self._target.transport == "tls" else None
                self._reader, self._writer = await asyncio.open_connection(
                    self._target.host, self._target.port, ssl=context
                )
            for item in batch.items:
                octets = message(item, self._node, self._facility)
                self._writer.write(b"%d %s" % (len(octets), octets))
            await self._writer.drain()
        except (OSError, ValueError) as failure:
            await self.close()
            raise SinkFailure(f"syslog: {failure or type(failure).__name__}") from failure

    async def close(self) -> None:
        """Close the connection."""
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        if self._writer is not None:
            writer, self._writer, self._reader = self._writer, None, None
            writer.close()
