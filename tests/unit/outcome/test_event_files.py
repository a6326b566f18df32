"""The event log's files: rotation with many writers loses and tears no line; compression, retention, reading on."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from angarium._core.counters import Slab
from angarium._core.event_log import EventLog, open_log
from angarium.outcome.event_files import LogFile, first_line, has_writers, head_of, list_files, open_file, rotated_name
from angarium.outcome.event_keeping import Retention, compress, rotate, rotation_due, to_compress, to_delete
from angarium.outcome.event_reader import LogReader, Position, before, oldest, youngest
from tests.support.relay import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_S = 86400.0
NOON = 1795694400.0  # 2026-11-26T12:00:00Z


def new_log(path: Path) -> EventLog:
    slab = Slab.create(1)
    region = slab.region(0)
    slab.close()
    return EventLog(str(path), region)


def line(number: int, **more: Any) -> bytes:
    """An event of that second."""
    stamp = f"2026-11-26T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000000Z"
    return json.dumps({"time": stamp, "event": "x", "number": number, **more}, separators=(",", ":")).encode() + b"\n"


def write(path: Path, *numbers: int) -> None:
    with path.open("ab") as file:
        file.writelines(map(line, numbers))


def numbers_of(lines: list[bytes]) -> list[int]:
    return [json.loads(one)["number"] for one in lines]


READERS: list[LogReader] = []


@pytest.fixture(autouse=True)
def close_readers() -> Iterator[None]:
    yield
    while READERS:
        READERS.pop().close()


def reading(path: Path, position: Position) -> LogReader:
    """A reader that is closed when the test has ended."""
    READERS.append(LogReader(path, position))
    return READERS[-1]


def rest_of(reader: LogReader) -> list[int]:
    found = []
    while lines := reader.read():
        found += numbers_of(lines)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


# ---------------------------------------------------------------- many writers

WRITER = """
import sys
from angarium._core.counters import Slab
from angarium._core.event_log import EventLog
log = EventLog(sys.argv[1], Slab.create(1).region(0))
name, number = sys.argv[2], 0
while sys.stdin.buffer.read(1):
    for _ in range(400):
        log.event("x", {"writer": name, "number": number, "text": "x" * (number % 700)})
        number += 1
        if number % 30 == 0:
            log.flush()
log.close()
assert log.dropped == 0, log.dropped
print(number)
"""


def start_writer(path: Path, name: str) -> subprocess.Popen[bytes]:
    """For each octet of its standard input it writes 400 events; at the end it says how many that were."""
    command = [sys.executable, "-c", WRITER, str(path), name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_rotation_with_many_writers_loses_and_tears_no_line(path: Path) -> None:
    names = ("a", "b", "c", "d")
    writers = [start_writer(path, name) for name in names]
    written = {}
    try:
        for _ in range(20):
            for writer in writers:
                assert writer.stdin is not None
                writer.stdin.write(b".")
                writer.stdin.flush()
            wait_until(lambda: rotation_due(path, NOON, 100_000, 0), "something to rotate, while they write the rest")
            rotate(path, NOON)
            for file in to_compress(path)[:1]:
                compress(file.path, "zstd")
        for name, writer in zip(names, writers, strict=True):
            written[name] = int(writer.communicate(timeout=60)[0])
            assert writer.returncode == 0
        for file in to_compress(path):
            compress(file.path, "zstd")
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert list(written.values()) == [8_000] * 4
    files = list_files(path)
    assert any(file.suffix == ".zst" for file in files)
    seen: dict[str, list[int]] = {name: [] for name in names}
    for file in files:
        with open_file(file) as opened:
            octets = opened.read()
        assert octets.endswith(b"\n")
        for one in octets.splitlines():
            event = json.loads(one)
            seen[event["writer"]].append(event["number"])
    assert seen == {name: list(range(written[name])) for name in names}  # each writer's own order, over all files


def test_a_writer_that_is_killed_leaves_half_a_line_that_the_next_one_ends(path: Path) -> None:
    path.write_bytes(line(1) + b'{"time":"2026-')
    log = new_log(path)
    log.event("x", {"number": 2})
    log.close()
    whole = []
    for one in path.read_bytes().splitlines():
        try:
            whole.append(json.loads(one)["number"])
        except ValueError:
            assert one == b'{"time":"2026-'
    assert whole == [1, 2]


def test_who_finds_the_file_taken_waits_for_nobody_and_loses_nothing(path: Path) -> None:
    log = new_log(path)
    log.event("x", {"number": 1})
    with path.open("r+b") as other:
        fcntl.lockf(other, fcntl.LOCK_EX)  # it conflicts with a lock of an open file description, too
        log.flush()
        assert path.read_bytes() == b""
    log.flush()
    assert json.loads(path.read_bytes())["number"] == 1


def test_a_renamed_file_is_followed_without_a_signal(path: Path, tmp_path: Path) -> None:
    log = new_log(path)
    log.event("x", {"number": 1})
    log.flush()
    log.event("x", {"number": 2})
    rotated = rotate(path, NOON)
    assert rotated == tmp_path / "events-20261126T120000.000000Z.jsonl"
    log.flush()
    log.event("x", {"number": 3})
    log.flush()
    assert numbers_of(rotated.read_bytes().splitlines()) == [1, 2]
    assert numbers_of(path.read_bytes().splitlines()) == [3]


def test_a_writer_that_has_nothing_to_write_lets_go_of_a_renamed_file_too(path: Path) -> None:
    log, idle = new_log(path), new_log(path)
    log.event("x", {"number": 1})
    log.flush()
    rotated = rotate(path, NOON)
    log.flush()
    with rotated.open("rb") as opened:
        assert has_writers(opened.fileno())
        assert to_compress(path) == []
        idle.flush()
        assert not has_writers(opened.fileno())
    assert [file.path for file in to_compress(path)] == [rotated]


def test_the_mark_of_a_writer_goes_with_its_process(path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from angarium._core.event_log import open_log;"
            "open_log(sys.argv[1]); print('open', flush=True); sys.stdin.read()",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with path.open("rb") as opened:
            assert has_writers(opened.fileno())
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            assert not has_writers(opened.fileno())
    finally:
        holder.kill()
        holder.communicate()


def test_a_file_that_is_rotated_while_it_is_opened_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening and the mark: the name leads to another file when it is looked at."""
    real, moved = fcntl.flock, []

    def rename_first(fd: int, operation: int) -> None:
        if not moved:
            moved.append(rotate(path, NOON))
        real(fd, operation)

    path.write_bytes(line(1))
    monkeypatch.setattr(fcntl, "flock", rename_first)
    fd = open_log(str(path))
    try:
        assert os.fstat(fd).st_ino == path.stat().st_ino
        assert moved[0].stat().st_ino != path.stat().st_ino
    finally:
        os.close(fd)


# ---------------------------------------------------------------- when, how small, how long


def test_a_file_ends_by_its_size(path: Path) -> None:
    assert not rotation_due(path, NOON, 100, 0)  # there is none
    path.write_bytes(b"")
    assert not rotation_due(path, NOON, 1, 1)  # an empty one never ends
    write(path, 1)
    size = path.stat().st_size
    assert rotation_due(path, NOON, size, 0)
    assert not rotation_due(path, NOON, size + 1, 0)
    assert not rotation_due(path, NOON, 0, 0)


def test_a_file_ends_with_the_day_in_which_it_began(path: Path) -> None:
    write(path, 23 * 3600)
    assert not rotation_due(path, NOON + 12 * 3600 - 1, 0, DAY_S)
    assert rotation_due(path, NOON + 12 * 3600, 0, DAY_S)


def test_names_rise_even_when_the_clock_goes_back(path: Path) -> None:
    made = []
    for moment in (NOON, NOON - DAY_S, NOON):
        write(path, 1)
        made.append(rotate(path, moment))
    assert sorted(made) == made
    assert len(set(made)) == 3


@pytest.mark.parametrize(("how", "suffix"), [("zstd", ".zst"), ("gzip", ".gz")])
def test_a_compressed_file_has_what_the_file_had(path: Path, how: Any, suffix: str) -> None:
    write(path, *range(500))
    octets = path.read_bytes()
    rotated = rotate(path, NOON)
    rotated.chmod(0o640)
    made = compress(rotated, how)
    assert made.name == rotated.name + suffix
    assert made.stat().st_size < len(octets) / 3
    assert made.stat().st_mode & 0o777 == 0o640
    assert not rotated.exists()
    packed = made.read_bytes()
    unpacked = gzip.decompress(packed) if how == "gzip" else zstandard.ZstdDecompressor().stream_reader(packed).read()
    assert unpacked == octets


def test_a_compression_that_was_killed_is_made_good(path: Path) -> None:
    write(path, 1, 2)
    rotated = rotate(path, NOON)
    part = rotated.with_name(rotated.name + ".zst.part")
    part.write_bytes(b"half")
    assert [file.path for file in list_files(path)] == [rotated]
    made = compress(rotated, "zstd")
    assert not part.exists()
    # killed between the renaming and the removal: both are there, and count once
    write(rotated, 1, 2)
    assert [file.path for file in list_files(path)] == [made]
    assert rest_of(reading(path, oldest())) == [1, 2]


def test_a_full_disk_leaves_the_original(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, *range(100))
    rotated = rotate(path, NOON)
    before = rotated.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        compress(rotated, "zstd")
    assert [file.name for file in path.parent.iterdir()] == [rotated.name]
    assert rotated.read_bytes() == before


def files_of(*sizes: int, own: bool = True) -> list[LogFile]:
    """Rotated files of these sizes, the youngest an hour old, each a day younger than the one before."""
    count = len(sizes)
    made = [
        LogFile(Path(f"/log/{i}"), NOON - 3600 - (count - 1 - i) * DAY_S, "", size, (0, i, 0), own)
        for i, size in enumerate(sizes)
    ]
    return [*made, LogFile(Path("/log/active"), float("inf"), "", 50, (0, 99, 0))]


@pytest.mark.parametrize(
    ("retention", "unsent", "gone"),
    [
        (Retention(0, 0, 0), None, []),
        (Retention(25, 0, 0), None, [0, 1]),
        (Retention(40, 0, 0), None, []),
        (Retention(0, 2 * DAY_S, 0), None, [0, 1]),
        (Retention(0, 10 * DAY_S, 0), None, []),
        (Retention(1, 0, 0), 1, [0]),  # the rest is not sent
        (Retention(1, 0, 20), 1, [0, 1]),  # 30 octets are not sent, 20 are allowed
        (Retention(1, 0, 0), 4, [0, 1, 2, 3]),  # the stream is at the active file
        (Retention(0, 0, 1), 0, []),  # nothing else says that it must go
    ],
)
def test_what_is_deleted(retention: Retention, unsent: int | None, gone: list[int]) -> None:
    files = files_of(10, 10, 10, 10)
    assert to_delete(files, NOON, retention, unsent) == [files[i] for i in gone]


def test_files_that_others_rotated_are_theirs_to_delete() -> None:
    assert to_delete(files_of(10, 10, own=False), NOON, Retention(1, 1, 0), None) == []


# ---------------------------------------------------------------- reading on


def test_files_are_in_the_order_in_which_they_were_written(path: Path) -> None:
    for number in range(4):
        write(path, number)
        rotated = rotate(path, NOON + number)
        if number % 2:
            compress(rotated, "gzip" if number == 1 else "zstd")
    write(path, 4)
    for other in ("events.jsonl.part", "events.txt", "other-20261126T120000.000000Z.jsonl", "events-x.jsonl"):
        path.with_name(other).write_bytes(b"no log\n")
    assert [numbers_of([first_line(file) or b""]) for file in list_files(path)] == [[0], [1], [2], [3], [4]]


def test_files_of_logrotate_are_read_too(path: Path) -> None:
    write(path, 3)
    for name, number, age in (("events.jsonl.1", 2, 10), ("events.jsonl-20261124", 1, 20)):
        write(path.with_name(name), number)
        os.utime(path.with_name(name), (NOON - age, NOON - age))
    packed = path.with_name("events.jsonl.3.gz")
    packed.write_bytes(gzip.compress(line(0)))
    os.utime(packed, (NOON - 30, NOON - 30))
    assert rest_of(reading(path, oldest())) == [0, 1, 2, 3]


def test_a_position_holds_over_rotation_and_compression(path: Path) -> None:
    write(path, *range(10))
    reader = reading(path, oldest())
    assert numbers_of(reader.read(4)) == [0, 1, 2, 3]
    position = reader.position
    write(path, 10)
    rotated = rotate(path, NOON)
    write(path, 11)
    assert rest_of(reading(path, position)) == list(range(4, 12))
    compress(rotated, "zstd")
    assert rest_of(reading(path, position)) == list(range(4, 12))
    assert rest_of(reader) == list(range(4, 12))  # and for who had it open


def test_who_follows_sees_what_is_written_before_and_behind_a_rotation(path: Path) -> None:
    log = new_log(path)
    reader = reading(path, youngest(path))
    seen: list[int] = []
    for number in range(30):
        log.event("x", {"number": number})
        if number % 3 == 0:
            log.flush()
            seen += rest_of(reader)
        if number % 10 == 5:
            rotate(path, NOON + number)
            seen += rest_of(reader)  # a line of the old file is still to come
    log.flush()
    seen += rest_of(reader)
    assert seen == list(range(30))


def test_a_file_is_not_left_before_its_last_writer_has_let_go(path: Path) -> None:
    slow, quick = new_log(path), new_log(path)
    slow.event("x", {"number": 1})
    quick.event("x", {"number": 0})
    quick.flush()
    reader = reading(path, oldest())
    assert rest_of(reader) == [0]
    rotate(path, NOON)
    quick.flush()
    quick.event("x", {"number": 2})
    quick.flush()
    assert rest_of(reader) == []
    slow.flush()
    assert rest_of(reader) == [1, 2]


def test_half_a_line_is_not_given(path: Path) -> None:
    whole = line(1)
    path.write_bytes(line(0) + whole[:20])
    reader = reading(path, oldest())
    assert rest_of(reader) == [0]
    with path.open("ab") as file:
        file.write(whole[20:])
    assert rest_of(reader) == [1]
    with path.open("ab") as file:
        file.write(b'{"time":"2026')
    rotate(path, NOON)
    write(path, 2)
    assert rest_of(reader) == [2]


def test_the_end_of_the_log_is_behind_its_last_whole_line(path: Path) -> None:
    assert youngest(path) == Position()
    write(path, 0, 1)
    with path.open("ab") as file:
        file.write(line(2)[:10])
    position = youngest(path)
    assert position.offset == len(line(0) + line(1))
    with path.open("ab") as file:
        file.write(line(2)[10:])
    assert rest_of(reading(path, position)) == [2]
    compress(rotate(path, NOON), "gzip")
    assert rest_of(reading(path, youngest(path))) == []


@pytest.mark.parametrize("how", [None, "gzip", "zstd"])
def test_who_looks_back_sees_what_was_last_before_a_position(path: Path, how: Any) -> None:
    """Over rotations; within a compressed file from its start on; all of it where there is less."""
    for first in (0, 10, 20):
        write(path, *range(first, first + 10))
        if first < 20 and (rotated := rotate(path, NOON + first)) and how is not None:
            compress(rotated, how)
    one = len(line(10))
    reader = reading(path, oldest())
    while numbers_of(reader.read(1)) != [24]:
        pass
    here = reader.position

    def seen(octets: int) -> list[int]:
        back = reading(path, before(path, here, octets))
        found: list[int] = []
        while back.position != here:
            found += numbers_of(back.read(1))
        return found

    assert seen(3 * one) == [22, 23, 24]
    assert seen(5 * one) == [20, 21, 22, 23, 24]
    assert seen(7 * one) == ([18, 19] if how is None else [*range(10, 20)]) + [20, 21, 22, 23, 24]
    assert seen(1 << 30) == [*range(25)]
    assert before(path, here, 0) == here
    assert before(path, Position(), 100) == Position()
    gone = Position("0" * 24, here.begins, 7)
    assert before(path, gone, 100) == gone


def test_what_was_deleted_before_it_was_read_is_a_gap(path: Path) -> None:
    write(path, 0, 1)
    reader = reading(path, oldest())
    reader.read(1)
    position = reader.position
    rotate(path, NOON).unlink()
    write(path, 5)
    successor = reading(path, position)
    assert rest_of(successor) == [5]
    assert successor.gaps == 1
    assert rest_of(reader) == [1, 5]  # who has it open reads it to its end
    assert reader.gaps == 0


def test_lines_of_any_octets_and_of_any_length(path: Path) -> None:
    long = line(1, text="y" * 3_000_000)
    odd = b'{"time":"2026-11-26T00:00:02.000000Z","number":2,"x":"\r"}\n'
    path.write_bytes(line(0) + long + odd + line(3))
    reader = reading(path, oldest())
    found = []
    while lines := reader.read(10, 1000):
        found += lines
    assert found == [line(0), long, odd, line(3)]


def test_lines_are_counted_without_being_split(path: Path) -> None:
    write(path, *range(1000))
    rotate(path, NOON)
    write(path, *range(1000, 1500))
    assert reading(path, oldest()).count(1 << 30)[0] == 1500


def test_a_name_stands_for_the_moment_of_the_rotation(path: Path) -> None:
    assert rotated_name(path, NOON + 0.25, []).name == "events-20261126T120000.250000Z.jsonl"
    assert rotated_name(path.with_name("events"), NOON, []).name == "events-20261126T120000.000000Z"


def test_heads_differ_where_first_lines_do(path: Path) -> None:
    assert head_of(line(1)) != head_of(line(2))
    write(path, 1)
    (file,) = list_files(path)
    assert head_of(first_line(file) or b"") == head_of(line(1))
