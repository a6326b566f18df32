"""Syslog and the journal, against sockets that listen as theirs do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
from typing import TYPE_CHECKING

import pytest

from angarium.app.stream.journald import Journald, entry
from angarium.app.stream.sink import Batch, Item, SinkFailure
from angarium.app.stream.syslog import FACILITIES, Syslog, local_message, message, severity_of
from angarium.config.check_stream import SyslogTarget
from tests.support.stream import event_line

if TYPE_CHECKING:
    from pathlib import Path

FORM = re.compile(rb"<(\d{1,3})>1 (\S+) (\S+) angarium - (\w+) - (\{.*\})", re.S)
ITEMS = tuple(Item(event_line(number)[:-1], f"abc-{number}") for number in range(3))


def numbers_of(messages: list[bytes]) -> list[int]:
    found = []
    for octets in messages:
        match = FORM.fullmatch(octets)
        assert match is not None, octets
        found.append(json.loads(match[5])["number"])
    return found


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(10)
    return sock


def test_a_message() -> None:
    match = FORM.fullmatch(message(ITEMS[1], "relay.example.org", "mail"))
    assert match is not None
    assert match.groups()[:4] == (b"22", b"2026-11-26T00:00:01.000001Z", b"relay.example.org", b"delivery")


def test_a_message_as_syslog_3_writes_it() -> None:
    octets = local_message(ITEMS[1], "local0")
    head, _, body = octets.partition(b": ")
    assert re.fullmatch(rb"<134>Nov (26|25) \d\d:\d\d:01 angarium", head)  # the machine's own time
    assert json.loads(body)["number"] == 1


def test_facilities_have_the_numbers_of_the_rfc() -> None:
    assert [FACILITIES.index(name) for name in ("kern", "mail", "ftp", "local0", "local7")] == [0, 2, 11, 16, 23]


@pytest.mark.parametrize(
    ("event", "severity"),
    [
        ({"event": "delivery", "class": "delivered"}, 6),
        ({"event": "deferral", "class": "deferred"}, 5),
        ({"event": "bounce", "class": "failed"}, 4),
        ({"event": "notification", "class": "failed"}, 6),
        ({"event": "reload", "class": "refused"}, 4),
        ({"event": "damaged"}, 3),
        ({"event": "something new"}, 6),
    ],
)
def test_how_grave_it_is(event: dict[str, str], severity: int) -> None:
    assert severity_of(event) == severity


async def test_to_a_socket_of_this_machine(tmp_path: Path) -> None:
    with listening(tmp_path / "log") as receiver:
        sink = Syslog(SyslogTarget("unix", path=str(tmp_path / "log")), "n", "mail")
        await sink.send(Batch(ITEMS))
        await sink.close()
        assert numbers_of([receiver.recv(65536) for _ in ITEMS]) == [0, 1, 2]


async def test_by_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        sink = Syslog(SyslogTarget("udp", host="127.0.0.1", port=receiver.getsockname()[1]), "n", "mail")
        await sink.send(Batch(ITEMS))
        await sink.close()
        assert numbers_of([receiver.recv(65536) for _ in ITEMS]) == [0, 1, 2]


async def test_what_is_too_long_for_a_datagram_is_cut(tmp_path: Path) -> None:
    with listening(tmp_path / "log") as receiver:
        sink = Syslog(SyslogTarget("unix", path=str(tmp_path / "log")), "n", "mail")
        long = Item(event_line(0, text="x" * 3_000_000)[:-1], "abc")
        await sink.send(Batch((long, ITEMS[1])))
        await sink.close()
        cut = receiver.recv(4_000_000)
        assert message(long, "n", "mail").startswith(cut)
        assert len(cut) > 10_000
        assert numbers_of([receiver.recv(65536)]) == [1]


async def counted(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readuntil(b" ")
    return await reader.readexactly(int(length))


async def test_by_tcp() -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await got.put(await counted(reader))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        sink = Syslog(SyslogTarget("tcp", host="127.0.0.1", port=server.sockets[0].getsockname()[1]), "n", "mail")
        await sink.send(Batch(ITEMS[:2]))
        assert numbers_of([await got.get(), await got.get()]) == [0, 1]
        async with asyncio.timeout(10):  # it has closed: the next batch goes by a new connection
            while got.empty():
                with contextlib.suppress(SinkFailure):  # seen while it was written: the stream would try again
                    await sink.send(Batch((ITEMS[2], ITEMS[2])))
                await asyncio.sleep(0)
        assert numbers_of([await got.get()]) == [2]
        await sink.close()


async def test_by_tls() -> None:
    """Nobody whose certificate the system does not trust is told anything."""
    spoken: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        spoken.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        sink = Syslog(SyslogTarget("tls", host="127.0.0.1", port=port), "n", "mail")
        with pytest.raises(SinkFailure, match="syslog"):
            await sink.send(Batch(ITEMS))
    assert spoken == [b"\x16"]  # a handshake, and nothing else


async def test_nobody_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = Syslog(SyslogTarget("unix", path=str(path)), "n", "mail")
    with pytest.raises(SinkFailure, match="No such file"):
        await sink.send(Batch(ITEMS))
    with listening(path) as receiver:
        await sink.send(Batch(ITEMS))  # and then there is
        assert numbers_of([receiver.recv(65536)]) == [0]
    with pytest.raises(SinkFailure):
        await sink.send(Batch(ITEMS))


async def test_who_reads_slowly_is_waited_for(tmp_path: Path) -> None:
    with listening(tmp_path / "log") as receiver:
        sink = Syslog(SyslogTarget("unix", path=str(tmp_path / "log")), "n", "mail")
        many = Batch(tuple(Item(event_line(number)[:-1], str(number)) for number in range(2000)))
        sending = asyncio.ensure_future(sink.send(many))
        got: list[bytes] = []
        while len(got) < 2000:
            got.append(await asyncio.to_thread(receiver.recv, 65536))
        await sending
        await sink.close()
        assert numbers_of(got) == list(range(2000))


# ---------------------------------------------------------------- the journal


def fields_of(octets: bytes) -> dict[str, str]:
    """What the journal makes of an entry, by its own format."""
    fields = {}
    while octets:
        name, mark, rest = re.match(rb"([A-Z0-9_]+)([=\n])(.*)", octets, re.S).groups()  # type: ignore[union-attr]
        if mark == b"=":
            value, _, octets = rest.partition(b"\n")
        else:
            length = int.from_bytes(rest[:8], "little")
            value, octets = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields[name.decode()] = value.decode()
    return fields


def test_an_entry_of_the_journal_has_every_field() -> None:
    line = event_line(
        7, "bounce", id="0SAQS2V780G00", reply={"code": 550, "enhanced": None, "text": "no\nsuch"}, text="a\nb"
    )
    fields = fields_of(entry(Item(line[:-1], "abc-7"), "mail"))
    assert fields["MESSAGE"].startswith("bounce 0SAQS2V780G00")
    assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"], fields["SYSLOG_FACILITY"]) == ("4", "angarium", "2")
    assert (fields["ANGARIUM_EVENT"], fields["ANGARIUM_NUMBER"], fields["ANGARIUM_TEXT"]) == ("bounce", "7", "a\nb")
    assert json.loads(fields["ANGARIUM_REPLY"]) == {"code": 550, "enhanced": None, "text": "no\nsuch"}
    assert fields["ANGARIUM_KEY"] == "abc-7"


async def test_the_journal_gets_a_datagram_an_event_and_a_file_for_what_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(path) as receiver:
        sink = Journald("mail", str(path))
        await sink.send(Batch((ITEMS[0], Item(event_line(1, text="x" * 3_000_000)[:-1], "abc"))))
        await sink.close()
        assert fields_of(receiver.recv(65536))["ANGARIUM_NUMBER"] == "0"
        octets, ancillary, _, _ = receiver.recvmsg(65536, socket.CMSG_SPACE(4))
        assert octets == b""
        ((_, _, passed),) = ancillary
        fd = int.from_bytes(passed[:4], "little")
        try:
            assert len(fields_of(os.pread(fd, 8_000_000, 0))["ANGARIUM_TEXT"]) == 3_000_000
        finally:
            os.close(fd)


async def test_a_journal_that_is_away_is_told_later(tmp_path: Path) -> None:
    sink = Journald("mail", str(tmp_path / "socket"))
    with pytest.raises(SinkFailure) as failure:
        await sink.send(Batch(ITEMS))
    assert failure.value.taken == 0
