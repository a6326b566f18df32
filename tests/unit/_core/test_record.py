"""Records: what is written comes back, what is harmed is noticed, and ids are the same in both directions."""

from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from angarium._core.record import (
    Durability,
    MailBuffer,
    Message,
    RecipientState,
    RecordError,
    checksum,
    format_id,
    load_message,
    make_accepted,
    memory_octets,
    new_message,
    parse_id,
    pooled_octets,
    shard_of,
    trim_heap,
)
from tests.reference.record import decode_record

ID = 0x0123456789ABCDEF
CEXT = Path(__file__).parents[3] / "cext"

# RFC 3720 appendix B.4
CRC_VECTORS = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (
        bytes.fromhex(
            "01c00000 00000000 00000000 00000000 14000000 0000040000000014 00000018 28000000 00000000 02000000 00000000"
        ),
        0xD9963A56,
    ),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


def test_the_memory_of_many_small_messages_goes_back_when_they_are_gone() -> None:
    gc.collect()
    before = pooled_octets()
    buffers = [MailBuffer() for _ in range(20_000)]
    for number, buffer in enumerate(buffers):
        buffer.append(b"%d" % number)
    assert pooled_octets() - before >= 20_000 * 4096 - (17 << 20)
    # one in a thousand stays, as long as its chunk
    kept = buffers[::1000]
    del buffers, buffer
    assert pooled_octets() <= before + (len(kept) + 17 << 20)
    assert [buffer.mail_data() for buffer in kept] == [b"%d" % (1000 * number) for number in range(20)]
    again = [MailBuffer() for _ in range(3_000)]
    for buffer in again:
        buffer.append(b"x" * 3000)
    assert [buffer.mail_data() for buffer in kept] == [b"%d" % (1000 * number) for number in range(20)]


def test_trimming_gives_back_what_a_burst_has_left() -> None:
    gc.collect()
    buffers = [MailBuffer() for _ in range(4_000)]
    held = pooled_octets()
    kept = buffers[0]
    kept.append(b"kept")
    del buffers
    gc.collect()
    assert pooled_octets() > 2 << 20, "some are kept for the next burst"
    assert trim_heap(1 << 30)
    assert pooled_octets() <= min(held, 3 << 20), "the chunk of what lives, one for what comes, and one of other tests"
    assert kept.mail_data() == b"kept"
    assert not trim_heap(1 << 30), "there is nothing more to give back"


def test_a_small_message_that_grows_keeps_what_it_has() -> None:
    buffer = MailBuffer()
    buffer.append(b"a" * 3000)
    buffer.append(b"b" * 3000)
    buffer.append(b"c" * 90_000)
    assert buffer.mail_data() == b"a" * 3000 + b"b" * 3000 + b"c" * 90_000


def envelope(**changes: object) -> dict[str, object]:
    return {
        "reverse_path": b"sender@example.org",
        "recipients": [(b"recipient@example.net", 0, b"")],
        "received_us": 1_800_000_000_123_456,
    } | changes


def sealed(buffer: MailBuffer) -> bytes:
    """The record as the journal writes it: with the checksum over its meta part."""
    record = bytearray(buffer.record())
    meta_length = int.from_bytes(record[8:12], "little")
    record[4:8] = checksum(bytes(record[8:meta_length])).to_bytes(4, "little")
    return bytes(record)


# ---------------------------------------------------------------- checksum


@pytest.mark.parametrize(("octets", "expected"), CRC_VECTORS)
def test_checksum_gives_the_known_values(octets: bytes, expected: int) -> None:
    assert checksum(octets) == expected


def test_checksum_goes_on_from_any_split() -> None:
    octets = bytes(range(256)) * 3
    whole = checksum(octets)
    assert {checksum(octets[i:], checksum(octets[:i])) for i in range(len(octets) + 1)} == {whole}


@pytest.fixture(scope="module")
def portable_crc(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The path of machines without the instruction, which this machine may never take, built on its own."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler ({compiler})")
    if not (CEXT / "crc32c.h").exists():
        pytest.skip("the sources of the compiled core are not here")
    folder = tmp_path_factory.mktemp("crc32c")
    (folder / "portable.c").write_text(
        '#include "crc32c.h"\n'
        "uint32_t portable(uint32_t crc, const unsigned char *p, size_t n)"
        " { return ~angarium_crc32c_portable(~crc, p, n); }\n"
    )
    library = folder / "portable.so"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", f"-I{CEXT}", "-o", str(library), str(folder / "portable.c")], check=True
    )
    loaded = ctypes.CDLL(str(library))
    loaded.portable.argtypes = (ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t)
    loaded.portable.restype = ctypes.c_uint32
    return loaded


def test_the_portable_checksum_is_the_same(portable_crc: ctypes.CDLL) -> None:
    for octets, expected in CRC_VECTORS:
        assert portable_crc.portable(0, octets, len(octets)) == expected
    octets = bytes(range(251)) * 2
    for begin in range(9):  # every alignment, every rest
        for length in range(70):
            piece = octets[begin : begin + length]
            assert portable_crc.portable(0, piece, len(piece)) == checksum(piece)
            assert portable_crc.portable(7, piece, len(piece)) == checksum(piece, 7)


# ---------------------------------------------------------------- ids


def test_ids_come_back_from_their_text() -> None:
    for number in (1, 31, 32, ID, 2**63, 2**64 - 1):
        text = format_id(number)
        assert len(text) == 13
        assert parse_id(text) == number
        assert parse_id(text.lower()) == number


def test_ids_sort_as_text_as_they_do_as_numbers() -> None:
    numbers = sorted({(1 << k) + d for k in range(1, 64) for d in (-1, 0, 1)})
    assert sorted(map(format_id, numbers)) == [format_id(number) for number in numbers]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0000000000000",  # 0 is no id
        "01234567890AB" + "0",
        "0123456789AB",
        "0123456789ABI",  # I, L, O and U are not of the alphabet
        "0123456789AB ",
        "0123456789AB\N{LATIN SMALL LETTER E WITH ACUTE}",
        "\x000123456789AB",
        "G000000000000",  # 2**64: over what an id can be
        "H000000000000",
        "ZZZZZZZZZZZZZ",
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a queue id"):
        parse_id(text)


def test_an_id_names_its_shard() -> None:
    assert [shard_of((123 << 22) | (shard << 14) | 16383) for shard in (0, 1, 255)] == [0, 1, 255]


# ---------------------------------------------------------------- envelopes there and back


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reverse_path": b""},
        {"recipients": [(b"", 0, b"")]},
        {"recipients": []},
        {"recipients": [(b"a@b", 15, b"rfc822;a@b"), (b"", 1, b"")]},
        {"recipients": [(b"r%d@example.net" % i, i % 16, b"rfc822;%d" % i) for i in range(2000)]},
        {"recipients": [(b"p" * 65535, 255, b"o" * 65535)]},
        dict.fromkeys(("reverse_path", "envid", "listener", "client", "greeting", "login", "tenant"), b"x" * 65535),
        {name: name.encode() for name in ("envid", "listener", "client", "greeting", "login", "tenant")},
        {"received_us": 2**64 - 1, "hold_until": 2**64 - 1, "durability": 255, "body": 255, "flags": 127, "ret": 255},
        {"flags": 128, "source_pool": b"bulk"},
        {"flags": 255, "source_pool": b"p" * 65535, "recipients": [(b"a@b.test", 0, b"rfc822;a@b.test")] * 300},
        {"priority": -128},
        {"priority": 127},
    ],
    ids=lambda changes: ",".join(changes) or "plain",
)
@pytest.mark.parametrize("octets", [0, 1, 3071, 3072, 3073, 100_000])
def test_an_envelope_comes_back(changes: dict[str, object], octets: int) -> None:
    mail_data = bytes(i % 251 for i in range(octets))
    given = envelope(**changes)
    record = sealed(make_accepted(given, mail_data, ID))
    loaded = load_message(record)
    assert loaded.mail_data() == mail_data
    assert loaded.record() == record
    assert len(loaded) == len(record)
    found = loaded.envelope()
    assert {name: found[name] for name in given} == given
    assert {value for name, value in found.items() if name not in given} <= {0, b""}
    assert loaded.reverse_path() == given["reverse_path"]


def test_every_recipient_is_found_by_its_number() -> None:
    recipients = [(b"r%d@example.net" % i, i % 16, b"" if i % 3 else b"rfc822;%d" % i) for i in range(300)]
    buffer = make_accepted(envelope(recipients=recipients), b"mail", ID)
    assert [buffer.recipient(i) for i in range(300)] == recipients
    for index in (-1, 300):
        with pytest.raises(IndexError):
            buffer.recipient(index)


def test_a_large_message_grows_with_what_it_is_given() -> None:
    buffer = MailBuffer()
    piece = bytes(range(256)) * 100
    for _ in range(200):
        buffer.append(piece)
    assert buffer.mail_data() == piece * 200
    assert buffer.capacity_octets <= 2 * len(piece) * 200 + 65536


def test_several_mebioctets_come_back() -> None:
    mail_data = bytes(range(256)) * (5 << 12)  # 5 MiB
    loaded = load_message(sealed(make_accepted(envelope(), mail_data, ID)))
    assert loaded.mail_data() == mail_data


@pytest.mark.parametrize(
    "changes",
    [
        {"reverse_path": b"x" * 65536},
        {"tenant": b"x" * 70000},
        {"recipients": [(b"x" * 65536, 0, b"")]},
        {"recipients": [(b"x", 0, b"o" * 65536)]},
        {"recipients": [(b"x", 0, b"")] * 65536},
        {"flags": 256},
        {"priority": 128},
        {"received_us": -1},
    ],
    ids=",".join,
)
def test_what_has_no_room_in_a_record_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(OverflowError):
        make_accepted(envelope(**changes), b"mail", ID)


# ---------------------------------------------------------------- harm


def test_every_flipped_bit_is_noticed() -> None:
    record = sealed(make_accepted(envelope(envid=b"E", login=b"L"), b"Subject: x\r\n\r\nbody\r\n", ID))
    assert load_message(record).mail_data() == b"Subject: x\r\n\r\nbody\r\n"
    for position in range(len(record)):
        for bit in range(8):
            harmed = bytearray(record)
            harmed[position] ^= 1 << bit
            with pytest.raises(RecordError):
                load_message(harmed)


def test_every_cut_is_noticed() -> None:
    record = sealed(make_accepted(envelope(), b"mail data", ID))
    for length in range(len(record)):
        with pytest.raises(RecordError):
            load_message(record[:length])
    with pytest.raises(RecordError):
        load_message(record + b"\0")


def test_a_record_of_another_type_is_no_message() -> None:
    record = bytearray(sealed(make_accepted(envelope(), b"mail data", ID)))
    record[32] = 2
    meta_length = int.from_bytes(record[8:12], "little")
    record[4:8] = checksum(bytes(record[8:meta_length])).to_bytes(4, "little")
    with pytest.raises(RecordError, match="type 2"):
        load_message(record)


def test_without_an_envelope_there_is_none_to_read() -> None:
    buffer = MailBuffer()
    buffer.append(b"mail data")
    assert buffer.record() == buffer.mail_data() == b"mail data"
    for read in (buffer.envelope, buffer.reverse_path, lambda: new_message(buffer)):
        with pytest.raises(RecordError, match="no envelope"):
            read()
    with pytest.raises(IndexError):
        buffer.recipient(0)


# ---------------------------------------------------------------- buffers


def test_a_view_shows_the_mail_data_and_cannot_be_written() -> None:
    buffer = make_accepted(envelope(), b"mail data", ID)
    view = memoryview(buffer)
    assert view.readonly
    assert bytes(view) == b"mail data"
    with pytest.raises(TypeError, match="not writable"):
        (ctypes.c_char * 9).from_buffer(buffer)


def test_the_octets_do_not_move_under_a_view() -> None:
    buffer = make_accepted(envelope(), b"mail data", ID)
    with memoryview(buffer) as view:
        with pytest.raises(BufferError):
            buffer.append(b"x" * 100_000)
        assert bytes(view) == b"mail data"
    buffer.append(b"x" * 100_000)
    assert len(buffer.mail_data()) == 100_009


def test_mail_data_can_be_replaced_before_the_record_is_written() -> None:
    buffer = MailBuffer()
    buffer.append(b"bare\nnewline")
    buffer.replace_mail_data(b"other\r\n" * 10_000)
    assert buffer.mail_data() == b"other\r\n" * 10_000
    buffer.replace_mail_data(b"")
    assert buffer.mail_data() == b""


def test_memory_is_counted_and_given_back() -> None:
    gc.collect()
    before = memory_octets()
    buffers = [make_accepted(envelope(), b"x" * (i * 1000), ID) for i in range(20)]
    assert memory_octets() - before == sum(buffer.capacity_octets for buffer in buffers)
    buffers[0].append(b"x" * 500_000)
    assert memory_octets() - before == sum(buffer.capacity_octets for buffer in buffers)
    buffers.clear()
    assert memory_octets() == before


# ---------------------------------------------------------------- messages


def test_a_new_message_knows_what_its_record_says() -> None:
    recipients = [(b"r%d@example.net" % i, 0, b"") for i in range(3)]
    buffer = make_accepted(
        envelope(recipients=recipients, durability=Durability.DURABILITY_ASYNC, flags=9), b"mail", ID
    )
    message = new_message(buffer)
    assert (message.id, message.queue_id, message.recipients) == (ID, format_id(ID), 3)
    assert (message.durability, message.flags, message.received_us) == (1, 9, 1_800_000_000_123_456)
    assert message.record_octets == len(buffer) == decode_record(sealed(buffer)).length
    assert message.buffer is buffer
    assert (message.segment, message.attempts, message.next_attempt) == (None, 0, 0.0)
    assert not message.in_doubt
    assert message.queue_id in repr(message)


def test_recipients_have_states_of_their_own() -> None:
    message = new_message(make_accepted(envelope(recipients=[(b"r", 0, b"")] * 7), b"", ID))
    assert message.unfinished() == list(range(7))
    for index, state in enumerate(RecipientState):
        message.set_recipient_state(index, state)
    assert [message.recipient_state(i) for i in range(7)] == [*RecipientState, RecipientState.RECIPIENT_QUEUED]
    assert message.unfinished() == [0, 2, 5, 6]
    for index in (-1, 7):
        with pytest.raises(IndexError):
            message.recipient_state(index)
        with pytest.raises(IndexError):
            message.set_recipient_state(index, 0)


def test_a_bare_message_has_no_recipients() -> None:
    message = Message()
    assert (message.id, message.recipients, message.unfinished()) == (0, 0, [])
    with pytest.raises(IndexError):
        message.recipient_state(0)


def test_enumerations_of_the_format_are_fixed() -> None:
    """Numbers that are on disk: changing one would misread every spool."""
    assert [state.name for state in RecipientState] == [
        f"RECIPIENT_{name}" for name in ("QUEUED", "DELIVERED", "DEFERRED", "FAILED", "EXPIRED", "IN_DOUBT")
    ]
    assert [int(state) for state in RecipientState] == list(range(6))
    assert [int(durability) for durability in Durability] == [0, 1, 2]
