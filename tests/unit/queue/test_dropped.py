"""Files of the drop folder: what is a message, what is refused, and what a crash leaves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from angarium.queue.dropped import BadFile, DropError, DropFolder, make_folders, split_transaction
from angarium.queue.record import format_id

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"Subject: s\r\n\r\nbody\r\n"
GOOD = b"EHLO here\r\nMAIL FROM:<me@x.example>\r\nRCPT TO:<a@x.example>\r\nBDAT %d LAST\r\n" % len(DATA) + DATA
NUMBER = (123456 << 22) | (3 << 14) | 5  # of shard 3


@pytest.fixture
def folder(tmp_path: Path) -> DropFolder:
    folder = DropFolder(str(tmp_path / "drop"), longest_octets=1000)
    folder.prepare()
    return folder


def put(folder: DropFolder, octets: bytes = GOOD, name: str = "0001.mail") -> None:
    (folder.path / name).write_bytes(octets)


def test_a_transaction() -> None:
    commands, mail_data = split_transaction(GOOD)
    assert commands == [b"EHLO here", b"MAIL FROM:<me@x.example>", b"RCPT TO:<a@x.example>", b"BDAT 20 LAST"]
    assert mail_data == DATA


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"garbage",
        b"EHLO here\r\n",
        GOOD[:-1],
        GOOD + b"x",
        GOOD + GOOD,
        GOOD.replace(b" LAST", b""),
        GOOD.replace(b" LAST", b" LAST LAST"),
        GOOD.replace(b"BDAT 20", b"BDAT -20"),
        GOOD.replace(b"BDAT 20", b"BDAT 99999999999"),
        GOOD.replace(b"RCPT TO", b"QUIT\r\nRCPT TO"),
        GOOD.replace(b"MAIL", b"STARTTLS\r\nMAIL"),
        GOOD.replace(b"\r\n", b"\n"),
    ],
)
def test_what_is_no_transaction(octets: bytes) -> None:
    with pytest.raises(BadFile):
        split_transaction(octets)


def test_waiting_files_are_taken_in_the_order_of_time(folder: DropFolder) -> None:
    for name in ("0002.mail", "0001.mail", ".0003", "other", "0004.mail"):
        put(folder, name=name)
    assert folder.waiting() == ["0001.mail", "0002.mail", "0004.mail"]


def test_what_was_left_half_written_long_ago_is_removed(folder: DropFolder) -> None:
    for name in (".old", ".new"):
        put(folder, name=name)
    os.utime(folder.path / ".old", (0, 0))
    folder.waiting()
    assert sorted(path.name for path in folder.path.iterdir()) == [".new", "refused", "taken"]


def test_the_way_of_a_file(folder: DropFolder) -> None:
    put(folder)
    assert folder.claim("0001.mail", NUMBER)
    assert not folder.claim("0001.mail", NUMBER)
    assert folder.waiting() == []
    dropped = folder.read(NUMBER)
    assert (dropped.uid, dropped.mail_data) == (os.getuid(), DATA)
    folder.give_back(NUMBER, "0001.mail")
    assert folder.waiting() == ["0001.mail"]
    assert folder.claim("0001.mail", NUMBER)
    kept = folder.refuse(NUMBER, "0001.mail")
    assert kept.read_bytes() == GOOD
    assert kept.parent == folder.refused


def test_links_and_what_is_no_plain_file(folder: DropFolder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(GOOD)
    (folder.path / "1.mail").symlink_to(secret)
    (folder.path / "2.mail").hardlink_to(secret)
    os.mkfifo(folder.path / "3.mail")
    (folder.path / "4.mail").mkdir()
    put(folder, GOOD + bytes(9_000_000), "5.mail")
    for index, name in enumerate(folder.waiting()):
        assert folder.claim(name, NUMBER + index)
        with pytest.raises(BadFile):
            folder.read(NUMBER + index)


def test_a_crash_before_the_record_was_on_disk(folder: DropFolder) -> None:
    put(folder)
    folder.claim("0001.mail", NUMBER)
    assert folder.recover([3], lambda _: False) == (0, 1)
    (name,) = folder.waiting()
    assert (folder.path / name).read_bytes() == GOOD


def test_a_crash_after_it(folder: DropFolder) -> None:
    put(folder)
    folder.claim("0001.mail", NUMBER)
    assert folder.recover([3], lambda number: number == NUMBER) == (1, 0)
    assert folder.waiting() == []
    assert list(folder.taken.iterdir()) == []


def test_each_worker_settles_what_is_of_its_own_shards(folder: DropFolder) -> None:
    put(folder)
    folder.claim("0001.mail", NUMBER)
    (folder.taken / "not an id").write_bytes(b"")
    assert folder.recover([0, 1, 2, 4], lambda _: False) == (0, 0)
    assert (folder.taken / format_id(NUMBER)).exists()


def test_a_folder_that_is_not_the_relay_s_own_is_not_trusted(tmp_path: Path) -> None:
    folder = DropFolder(str(tmp_path / "drop"), longest_octets=1000)
    folder.path.mkdir()
    folder.taken.mkdir()
    folder.taken.chmod(0o777)
    with pytest.raises(DropError, match="taken"):
        folder.prepare()
    folder.taken.rmdir()
    folder.taken.symlink_to(tmp_path)
    with pytest.raises(DropError, match="taken"):
        folder.prepare()


def test_folders_made_as_root_stay_as_they_are(tmp_path: Path) -> None:
    make_folders(str(tmp_path / "drop"), os.geteuid(), os.getegid())
    assert (tmp_path / "drop").stat().st_mode & 0o7777 == 0o3733
    assert (tmp_path / "drop" / "taken").stat().st_mode & 0o777 == 0o700
    (tmp_path / "drop").chmod(0o2770)
    make_folders(str(tmp_path / "drop"), os.geteuid(), os.getegid())
    assert (tmp_path / "drop").stat().st_mode & 0o7777 == 0o2770
