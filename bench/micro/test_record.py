"""How long a message's record and its log line take: compiled, in the reference model, and by the standard library."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.counters import Slab
from angarium._core.dispatch import Delivery, Dispatcher, ReadyQueue
from angarium._core.event_log import EventLog
from angarium._core.record import MailBuffer, checksum, load_message, make_accepted, new_message
from tests.reference.record import (
    ACCEPTED,
    ACCEPTED_META,
    TEXTS,
    crc32c,
    decode_record,
    encode_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

ID = 0x0123456789ABCDEF
SIZES = {"1 KiB": 1 << 10, "10 KiB": 10 << 10, "100 KiB": 100 << 10}
ENVELOPE: dict[str, Any] = {
    "reverse_path": b"sender@example.org",
    "listener": b"relay",
    "client": b"192.0.2.1",
    "greeting": b"client.example.org",
    "recipients": [(b"recipient@example.net", 0, b"")],
    "received_us": 1_800_000_000_000_000,
}


def plain_encode(envelope: dict[str, Any], mail_data: bytes, number: int) -> bytes:
    body = ACCEPTED_META.pack(
        envelope["received_us"], 0, crc32c(mail_data), len(envelope["recipients"]), 0, 0, 0, 0, 0, 0
    )
    for name in TEXTS:
        text = envelope.get(name, b"")
        body += len(text).to_bytes(2, "little") + text
    for path, notify, orcpt in envelope["recipients"]:
        body += len(path).to_bytes(2, "little") + path + bytes((notify,)) + len(orcpt).to_bytes(2, "little") + orcpt
    return encode_record(ACCEPTED, number, 0, body, mail_data)


def sealed(buffer: MailBuffer) -> bytes:
    record = bytearray(buffer.record())
    record[4:8] = checksum(bytes(record[8 : int.from_bytes(record[8:12], "little")])).to_bytes(4, "little")
    return bytes(record)


def compiled_encode(envelope: dict[str, Any], mail_data: bytes, number: int) -> MailBuffer:
    """Layout and checksum of the mail data, from plain values: the server session skips the dict."""
    return make_accepted(envelope, mail_data, number)


@pytest.mark.parametrize("encode", [compiled_encode, plain_encode], ids=["compiled", "reference"])
@pytest.mark.parametrize("size", ["1 KiB", "10 KiB"])
def test_encode(benchmark: BenchmarkFixture, size: str, encode: Callable[..., MailBuffer | bytes]) -> None:
    benchmark.group = f"record: encode and checksum {size}"
    mail_data = bytes(SIZES[size])
    record = benchmark(encode, ENVELOPE, mail_data, ID)
    plain = plain_encode(ENVELOPE, mail_data, ID)
    assert (sealed(record) if isinstance(record, MailBuffer) else record) == plain
    assert decode_record(plain).mail_data == mail_data


@pytest.mark.parametrize("decode", [load_message, decode_record], ids=["compiled", "reference"])
@pytest.mark.parametrize("size", ["1 KiB", "10 KiB"])
def test_decode(benchmark: BenchmarkFixture, size: str, decode: Callable[[bytes], Any]) -> None:
    benchmark.group = f"record: check and decode {size}"
    record = sealed(make_accepted(ENVELOPE, bytes(SIZES[size]), ID))
    found = benchmark(decode, record)
    assert (found.mail_data() if isinstance(found, MailBuffer) else found.mail_data) == bytes(SIZES[size])


@pytest.mark.parametrize("function", [checksum, zlib.crc32], ids=["CRC-32C compiled", "CRC-32 of zlib"])
@pytest.mark.parametrize("size", SIZES)
def test_checksum(benchmark: BenchmarkFixture, size: str, function: Callable[[bytes], int]) -> None:
    benchmark.group = f"record: checksum {size}"
    octets = bytes(range(256)) * (SIZES[size] // 256)
    assert benchmark(function, octets) == function(octets)


def delivery_line(tmp_path: Path) -> Callable[[], None]:
    """The line of one delivery, composed in C."""
    counters = Slab.create(1).region(0)
    dispatcher = Dispatcher(counters, EventLog(str(tmp_path / "events.jsonl"), counters))
    queue = ReadyQueue(dispatcher, b"smtp://192.0.2.25:25", b"mx.example.net", connect=lambda queue: None)
    dispatcher.send(new_message(make_accepted(ENVELOPE, b"", ID)), queue, [0])
    delivery = queue.take()
    assert isinstance(delivery, Delivery)
    return lambda: dispatcher.log_attempt("delivery", delivery, 0, 250, (2, 0, 0), b"queued as 4XyZ1234")


def json_line(tmp_path: Path) -> Callable[[], None]:
    """The same by the standard library, gathered and not even written."""
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    gathered = bytearray()

    def write() -> None:
        line = encode(
            {
                "time": datetime.now(UTC).isoformat(),
                "event": "delivery",
                "id": "014D2PF2DBSQF",
                "reverse_path": "sender@example.org",
                "recipient": "recipient@example.net",
                "next_hop": "smtp://192.0.2.25:25",
                "site": "mx.example.net",
                "tenant": "",
                "reply": {"code": 250, "enhanced": "2.0.0", "text": "queued as 4XyZ1234"},
                "class": "delivered",
                "durability": "fsync",
                "attempts": 1,
                "age_s": 0.012345,
                "attempt_s": 0.001234,
            }
        )
        gathered.extend(line.encode() + b"\n")
        if len(gathered) > 1 << 16:
            gathered.clear()

    return write


@pytest.mark.parametrize("make", [delivery_line, json_line], ids=["compiled", "json.dumps"])
def test_event_line(benchmark: BenchmarkFixture, tmp_path: Path, make: Callable[[Path], Callable[[], None]]) -> None:
    benchmark.group = "event log: a delivery"
    benchmark(make(tmp_path))
