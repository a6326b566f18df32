"""The compiled record format against the plain decoder of tests/reference/record.py, over mail of any kind."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium._core.outcome_record import decode_outcome, encode_outcome
from angarium._core.record import RecordError, checksum, format_id, load_message, make_accepted, parse_id
from tests.reference.record import (
    ACCEPTED,
    OUTCOME,
    POOL,
    RECORD_HEADER,
    TEXTS,
    HarmedError,
    crc32c,
    decode_record,
    encode_record,
)

ids = st.integers(1, 2**64 - 1)
texts = st.binary(max_size=300)
octets = st.integers(0, 255)
recipients = st.lists(st.tuples(texts, octets, texts), max_size=40)
envelopes = st.fixed_dictionaries(
    dict.fromkeys(TEXTS, texts)
    | {
        "recipients": recipients,
        "received_us": st.integers(0, 2**64 - 1),
        "hold_until": st.integers(0, 2**64 - 1),
        "durability": octets,
        "body": octets,
        "flags": st.integers(0, POOL - 1),
        "ret": octets,
        "priority": st.integers(-128, 127),
        "source_pool": texts,
    }
).map(lambda envelope: envelope | {"flags": envelope["flags"] | (POOL if envelope["source_pool"] else 0)})
mail_data = st.binary(max_size=9000)


def seal(record: bytes, serial: int) -> bytes:
    """What the journal does to a record when it knows where it goes."""
    meta_length = int.from_bytes(record[8:12], "little")
    meta = record[8:16] + serial.to_bytes(8, "little") + record[24:meta_length]
    return record[:4] + checksum(meta).to_bytes(4, "little") + meta + record[meta_length:]


@given(st.binary(max_size=400), st.integers(0, 2**32 - 1))
def test_checksums_agree(data: bytes, crc: int) -> None:
    assert checksum(data, crc) == crc32c(data, crc)


@given(ids)
def test_ids_come_back(number: int) -> None:
    assert parse_id(format_id(number)) == number


@given(st.text(alphabet="0123456789ABCDEFGHJKMNPQRSTVWXYZabcilouzI -", min_size=12, max_size=14))
def test_a_text_is_an_id_only_if_it_is_the_text_of_that_id(text: str) -> None:
    try:
        number = parse_id(text)
    except ValueError:
        return
    assert format_id(number) == text.upper()


@given(envelopes, mail_data, ids, st.integers(0, 2**64 - 1))
def test_the_plain_decoder_reads_what_the_core_wrote(
    envelope: dict[str, object], data: bytes, number: int, serial: int
) -> None:
    record = seal(make_accepted(envelope, data, number).record(), serial)
    found = decode_record(record)
    assert (found.type, found.id, found.serial, found.length) == (ACCEPTED, number, serial, len(record))
    assert found.envelope == envelope
    assert found.mail_data == data


@given(envelopes, mail_data, ids, st.integers(0, 2**64 - 1))
def test_the_core_reads_what_it_wrote(envelope: dict[str, object], data: bytes, number: int, serial: int) -> None:
    loaded = load_message(seal(make_accepted(envelope, data, number).record(), serial))
    assert loaded.envelope() == envelope
    assert loaded.mail_data() == data


@given(
    envelopes,
    st.binary(max_size=200),
    ids,
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), octets), min_size=1, max_size=4),
)
def test_both_refuse_the_same_harm(
    envelope: dict[str, object], data: bytes, number: int, harm: list[tuple[float, int]]
) -> None:
    record = bytearray(seal(make_accepted(envelope, data, number).record(), 7))
    for where, value in harm:
        record[int(where * len(record))] = value
    try:
        expected = decode_record(bytes(record))
    except HarmedError:
        with pytest.raises(ValueError):
            load_message(record)
    else:
        assert load_message(record).mail_data() == expected.mail_data


entries = st.lists(
    st.tuples(st.integers(0, 65535), st.integers(0, 5), st.integers(0, 599), st.binary(max_size=1100)), max_size=10
)


short = st.integers(0, 2**16 - 1)
long = st.integers(0, 2**32 - 1)
names = st.binary(max_size=300)


@given(
    short,
    short,
    st.integers(0, 2**34),
    entries,
    names,
    names,
    st.tuples(long, long),
    st.tuples(short, short, short),
    st.just((b"", b"")) | st.tuples(names, names),
)
def test_outcomes_are_laid_out_as_the_format_says(
    attempts: int,
    attempt: int,
    time: int,
    entries: list[tuple[int, int, int, bytes]],
    next_hop: bytes,
    host: bytes,
    previous: tuple[int, int],
    ended: tuple[int, int, int],
    leaves: tuple[bytes, bytes],
) -> None:
    body = encode_outcome(
        attempts,
        float(time),
        entries,
        attempted=float(time // 2),
        attempt=attempt,
        next_hop=next_hop,
        host=host,
        previous=previous,
        ended=ended,
        source=leaves[0],
        pool=leaves[1],
    )
    found = decode_record(encode_record(OUTCOME, 9, 3, body))
    assert (found.attempts, found.attempt) == (attempts, attempt)
    assert (found.attempted_us, found.next_attempt_us) == (time // 2 * 1_000_000, time * 1_000_000)
    assert (found.previous, found.ended) == (previous, ended)
    assert (found.next_hop, found.host) == (next_hop[:255], host[:255])
    assert found.entries == [(index, state, code, text[:1000]) for index, state, code, text in entries]
    told = decode_outcome(body)
    assert (found.source, found.pool) == (leaves[0][:255], leaves[1][:255])
    texts = (found.next_hop, found.host, found.entries, found.source, found.pool)
    assert told == (time // 2, attempt, attempts, time, *texts)
    if told[7:] != (b"", b"x"):  # an empty name and one octet less are a record of an earlier release
        with pytest.raises(RecordError):
            decode_outcome(body[: len(body) - 1])


def test_an_outcome_of_a_release_that_knew_no_source() -> None:
    """The same octets as ever where mail left by no source of the configuration; and they are read as ever."""
    entries = [(0, 2, 451, b"4.2.1 later")]
    body = encode_outcome(1, 60.0, entries, attempted=30.0, next_hop=b"mx", host=b"mx.test[192.0.2.1]:25")
    assert body == bytes.fromhex(
        "80c3c901000000000087930300000000000000000000000001000100010000000000000002001500"
        "6d786d782e746573745b3139322e302e322e315d3a3235000002c3010b00342e322e31206c61746572"
    )
    told = decode_outcome(body)
    assert (told.next_hop, told.host, told.entries, told.source, told.pool) == (
        *(b"mx", b"mx.test[192.0.2.1]:25", entries),
        *(b"", b""),
    )


def test_the_reference_lays_the_header_out_as_the_core_does() -> None:
    record = seal(make_accepted({"recipients": [(b"r", 0, b"")]}, b"mail", 5).record(), 2)
    meta_length = struct.unpack_from("<I", record, 8)[0]
    assert record == encode_record(ACCEPTED, 5, 2, record[RECORD_HEADER.size : meta_length], record[meta_length:])
