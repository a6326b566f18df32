"""What is kept of the dialogues with next hops, and what it costs when nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium._core.client_session import Capability
from angarium._core.counters import Slab
from angarium._core.dialogue import Dialogues, Keep
from angarium._core.journal import CallbackTaker, Journal
from angarium.outcome.dialogue_files import DialogueFiles
from angarium.outcome.dialogue_reader import Dialogue, find
from tests.support.session import DATA, Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PIPELINING = Capability.CAPABILITY_PIPELINING
CHUNKING = PIPELINING | Capability.CAPABILITY_CHUNKING
NOW = 1795694400.0


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    folder = tmp_path_factory.mktemp("shard")
    journal = Journal(str(folder), 0, 1 << 20, Slab.create(1).region(0), CallbackTaker(lambda message: None))
    yield journal
    journal.close()


class Kept:
    """A queue whose dialogues are read back through a file, as the admin process would."""

    def __init__(self, journal: Journal, folder: Path, keep: Keep) -> None:
        self.dialogues = Dialogues(keep)
        self.queue = Queue(journal, dialogues=self.dialogues)
        self._files = DialogueFiles(folder / "trace", 0, 1, self.dialogues.mark)
        self._files.set_bounds(1 << 20, 0.0)
        self._folder = folder / "trace"

    def of(self, name: str) -> list[Dialogue]:
        if self.dialogues.gathered:
            self._files.write(self.dialogues.take(), NOW)
        return find(self._folder, self.queue.messages[name].id)

    def lines(self, name: str) -> list[str]:
        (dialogue,) = self.of(name)
        return [f"{line.who}: {line.text}" for line in dialogue.lines]


@pytest.fixture
def kept(journal: Journal, tmp_path: Path) -> Callable[[Keep], Kept]:
    return lambda keep: Kept(journal, tmp_path, keep)


def test_a_delivery_is_kept_where_all_are(kept: Callable[[Keep], Kept]) -> None:
    node = kept(Keep.KEEP_ALL)
    node.queue.mail("a", [b"a@example.net", b"b@example.net"])
    host = node.queue.connect(PIPELINING, opening=b"S: 220 hello\nC: EHLO relay")
    host.say(b"250 2.1.0 sender ok\r\n250-2.1.5 one\r\n250 2.1.5 two\r\n250 ok\r\n354 go\r\n")
    host.say(b"250 2.0.0 queued as 4XyZ\r\n")
    assert node.lines("a") == [
        "S: 220 hello",
        "C: EHLO relay",
        "C: MAIL FROM:<s@example.org>",
        "S: 250 2.1.0 sender ok",
        "C: RCPT TO:<a@example.net>",
        "S: 250-2.1.5 one\n250 2.1.5 two",
        "C: RCPT TO:<b@example.net>",
        "S: 250 ok",
        "C: DATA",
        "S: 354 go",
        f"C: ({len(DATA)} octets of mail data)",
        "S: 250 2.0.0 queued as 4XyZ",
    ]
    (dialogue,) = node.of("a")
    assert (dialogue.delivered, dialogue.pipelined, dialogue.attempt, dialogue.number) == (True, True, 1, 0)
    assert (dialogue.next_hop, dialogue.host) == ("smtp://host.example:25", "host.example[192.0.2.25]:25")
    times = [line.at_s for line in dialogue.lines if line.who == "S" and line.at_s is not None]
    assert times == sorted(times)
    # of the next one on this connection it is not told again how it was opened, and it went along with the content
    node.queue.mail("b", [b"b@example.net"])
    node.queue.mail("c", [b"c@example.net"])
    host.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    host.say(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    host.say(b"250 ok\r\n")
    assert node.lines("b")[0] == "C: MAIL FROM:<s@example.org>"
    assert node.lines("c")[:2] == [
        "*: the envelope went along with the content of the message before",
        "C: MAIL FROM:<s@example.org>",
    ]


def test_by_default_what_is_delivered_leaves_nothing(kept: Callable[[Keep], Kept]) -> None:
    node = kept(Keep.KEEP_FAILURES)
    node.queue.mail("a", [b"a@example.net"])
    host = node.queue.connect(PIPELINING)
    host.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    host.say(b"250 ok\r\n")
    assert node.queue.outcome("a") == {0: "delivered"}
    assert node.dialogues.gathered == 0
    # the next one on the same connection fails, and is kept with how the connection was opened
    node.queue.mail("b", [b"a@example.net", b"b@example.net"])
    host.say(b"250 ok\r\n250 ok\r\n550 5.1.1 unknown\r\n354 go\r\n")
    host.say(b"250 ok\r\n")
    assert "S: 550 5.1.1 unknown" in node.lines("b")
    assert node.of("b")[0].number == 1


def test_nothing_is_kept_where_nothing_is_to_be(kept: Callable[[Keep], Kept]) -> None:
    node = kept(Keep.KEEP_NONE)
    node.queue.mail("a", [b"a@example.net"])
    node.queue.connect(PIPELINING).say(b"550 no\r\n550 no\r\n503 no\r\n")
    assert node.queue.outcome("a")[0].startswith("failed 550")
    node.dialogues.opening(1, 0.5, 1, b"mx", b"host", b"C: EHLO x", b"no")
    assert node.dialogues.gathered == 0


def test_without_pipelining_what_was_not_sent_is_not_shown(kept: Callable[[Keep], Kept]) -> None:
    node = kept(Keep.KEEP_FAILURES)
    node.queue.mail("a", [b"a@example.net"])
    host = node.queue.connect(0)
    host.say(b"250 ok\r\n")
    host.say(b"451 4.7.1 later\r\n")
    assert node.lines("a") == [
        "C: MAIL FROM:<s@example.org>",
        "S: 250 ok",
        "C: RCPT TO:<a@example.net>",
        "S: 451 4.7.1 later",
    ]


def test_a_lost_connection_is_told(kept: Callable[[Keep], Kept]) -> None:
    node = kept(Keep.KEEP_FAILURES)
    node.queue.mail("a", [b"a@example.net"])
    host = node.queue.connect(CHUNKING)
    host.say(b"250 ok\r\n250 ok\r\n")
    host.transport.lose()
    lines = node.lines("a")
    assert lines[-3:] == [
        f"C: BDAT {len(DATA)} LAST",
        f"C: ({len(DATA)} octets of mail data)",
        "*: the host closed the connection",
    ]
    assert node.queue.outcome("a")[0].startswith("in_doubt")


def test_nothing_a_host_says_is_taken_for_a_record(kept: Callable[[Keep], Kept]) -> None:
    """A reply may hold any octets, also those of a record of another message, but for the mark: no host knows it."""
    node = kept(Keep.KEEP_FAILURES)
    other = node.queue.make("other", [b"x@example.net"])
    forged = other.id.to_bytes(8, "little").replace(b"\n", b"").replace(b"\r", b"")
    node.queue.mail("a", [b"a@example.net"])
    node.queue.connect(PIPELINING).say(b"550 " + b"\0" * 8 + forged + b"\r\n550 no\r\n503 no\r\n")
    assert len(node.of("a")) == 1
    assert node.of("other") == []


def test_many_replies_are_cut_and_that_is_said(kept: Callable[[Keep], Kept]) -> None:
    node = kept(Keep.KEEP_FAILURES)
    recipients = [b"r%d@example.net" % number for number in range(100)]
    node.queue.mail("a", recipients)
    host = node.queue.connect(PIPELINING)
    host.say(b"250 ok\r\n" + b"".join(b"550 5.1.1 %s\r\n" % (b"x" * 900) for _ in recipients) + b"503 no\r\n")
    lines = node.lines("a")
    assert lines[-1] == "*: there were more replies than are kept"
    assert sum(map(len, lines)) < 80_000
    assert "S: 503 no" not in lines  # it would stand behind a command that it does not belong to


def test_beyond_the_bound_records_are_lost_and_counted() -> None:
    dialogues = Dialogues(Keep.KEEP_ALL)
    said = b"x" * 8000
    for number in range(200):
        dialogues.opening(number, 0.1, 1, b"mx", b"host", said, b"no")
    assert dialogues.gathered < 1_100_000
    assert dialogues.lost > 50
    assert dialogues.take()
    dialogues.opening(1, 0.1, 1, b"mx", b"host", said, b"no")
    assert dialogues.gathered


def test_a_mark_has_eight_octets() -> None:
    assert Dialogues().mark != Dialogues().mark
    with pytest.raises(ValueError, match="8 octets"):
        Dialogues(0, b"short")


def test_who_watches_sees_each_line_and_what_begins_while_nobody_listens_is_not_kept(
    kept: Callable[[Keep], Kept],
) -> None:
    node = kept(Keep.KEEP_NONE)
    seen: list[tuple[str, bytes]] = []
    node.queue.mail("a", [b"a@example.net"])
    host = node.queue.connect(PIPELINING, opening=b"S: 220 hello")
    node.dialogues.keep = Keep.KEEP_ALL
    node.dialogues.watch = lambda connection, direction, peer, site, octets: seen.append((direction, octets))
    host.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    host.say(b"250 2.0.0 ok\r\n")
    assert seen == [("S", b"250 ok"), ("S", b"250 ok"), ("S", b"354 go"), ("S", b"250 2.0.0 ok")]
    assert node.dialogues.gathered == 0
    node.queue.mail("b", [b"b@example.net"])
    assert seen[4:] == [("C", b"MAIL FROM:<s@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")]
    node.dialogues.watch = None
