"""Who watches sessions: what is shown of them, and what never; and that watching is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from angarium._core.dialogue import Dialogues
from angarium.app import watch
from angarium.app.watch import Hub, TooManyWatchers, Watcher, WatchFilter, redacted
from tests.support.session import Server

if TYPE_CHECKING:
    from angarium._core.server_session import Reception


class Reports:
    """In the place of a Reception."""

    watch: Any = None


def hub() -> tuple[Hub, Reports, Dialogues]:
    reception, dialogues = Reports(), Dialogues()
    return Hub(cast("Reception", reception), dialogues), reception, dialogues


def texts(watcher: Watcher) -> list[str]:
    return [f"{line['side']} {line['who']}: {line['text']}" for line in watcher.take()]


def transaction(reception: Reports, connection: int, client: bytes, sender: bytes, to: bytes) -> None:
    for direction, line in (
        ("C", b"MAIL FROM:<" + sender + b"> SIZE=9"),
        ("S", b"250 ok\r\n"),
        ("C", b"RCPT TO:<" + to + b">"),
        ("S", b"250 ok\r\n"),
        ("C", b"DATA"),
        ("S", b"354 go\r\n"),
        ("S", b"250 queued\r\n"),
    ):
        reception.watch(connection, direction, client, b"relay", line)


def test_nobody_is_told_while_nobody_watches() -> None:
    node, reception, dialogues = hub()
    assert reception.watch is dialogues.watch is None
    first, second = Watcher(WatchFilter()), Watcher(WatchFilter())
    node.add(first)
    node.add(second)
    assert reception.watch is not None
    assert dialogues.watch is not None
    node.remove(first)
    assert reception.watch is not None
    node.remove(second)
    assert reception.watch is dialogues.watch is None
    for _ in range(watch.MOST_WATCHERS):
        node.add(Watcher(WatchFilter()))
    with pytest.raises(TooManyWatchers):
        node.add(Watcher(WatchFilter()))


@pytest.mark.parametrize(
    ("direction", "octets", "shown"),
    [
        ("C", b"AUTH PLAIN AHVzZXIAcGFzcw==", b"AUTH PLAIN ***"),
        ("C", b"auth login", b"AUTH login"),
        ("C", b"XCLIENT NAME=x LOGIN=me", b"XCLIENT ***"),
        ("C", b"AHVzZXIAcGFzcw==", b"*** (16 octets that are no command)"),
        ("C", b"PASS hunter2", b"*** (12 octets that are no command)"),
        ("A", b"", b"***"),
        ("S", b"334 UGFzc3dvcmQ6\r\n", b"334 ***"),
        ("C", b"MAIL FROM:<a@b.test>", b"MAIL FROM:<a@b.test>"),
        ("S", b"235 2.7.0 ok\r\n", b"235 2.7.0 ok\r\n"),
    ],
)
def test_no_secret_is_shown(direction: str, octets: bytes, shown: bytes) -> None:
    assert redacted(direction, octets)[1] == shown


def test_a_session_is_shown_as_its_compiled_session_tells_it() -> None:
    server = Server()
    seen: list[tuple[str, bytes]] = []
    server.reception.watch = lambda connection, direction, client, listener, octets: seen.append((direction, octets))
    dialogue = server.connect()
    dialogue.say(b"EHLO me\r\n")
    dialogue.say(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
    dialogue.say(b"Subject: x\r\n\r\nnever shown\r\n.\r\nQUIT\r\n")
    dialogue.run()
    said = [octets for direction, octets in seen if direction == "C"]
    assert said == [b"EHLO me", b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>", b"DATA", b"QUIT"]
    assert seen[0][0] == "+"
    assert seen[1][1].startswith(b"220 ")
    assert not any(b"never shown" in octets for _, octets in seen)


def test_filters_hold_together_and_each_transaction_is_judged_anew() -> None:
    node, reception, _ = hub()
    wanted = WatchFilter(client="192.0.2.0/24", sender="@origin.test", to_domain="Dest.test")
    watcher = Watcher(wanted)
    node.add(watcher)
    reception.watch(1, "+", b"192.0.2.9", b"relay", b"")
    reception.watch(1, "C", b"192.0.2.9", b"relay", b"EHLO me")
    transaction(reception, 1, b"192.0.2.9", b"me@other.test", b"a@dest.test")
    assert texts(watcher) == []
    transaction(reception, 1, b"192.0.2.9", b"Me@Origin.test", b"a@dest.test")
    shown = texts(watcher)
    assert shown[:3] == ["in +: ", "in C: EHLO me", "in C: MAIL FROM:<Me@Origin.test> SIZE=9"]
    assert not any("other.test" in text for text in shown)
    assert shown[-1] == "in S: 250 queued"
    transaction(reception, 1, b"192.0.2.9", b"me@origin.test", b"a@elsewhere.test")
    transaction(reception, 2, b"198.51.100.1", b"me@origin.test", b"a@dest.test")
    assert texts(watcher) == []


def test_what_goes_out_is_asked_for_by_site() -> None:
    node, reception, dialogues = hub()
    watcher = Watcher(WatchFilter(site="dest.test"))
    node.add(watcher)
    assert dialogues.watch is not None
    dialogues.watch(7, "C", b"mx.dest.test", b"dest.test", b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@dest.test>\r\nDATA\r\n")
    dialogues.watch(8, "C", b"mx.else.test", b"else.test", b"MAIL FROM:<a@b.test>\r\n")
    assert reception.watch is None  # what comes in is none of a site's: its sessions pay nothing
    assert texts(watcher) == ["out C: MAIL FROM:<a@b.test>\r\nRCPT TO:<c@dest.test>\r\nDATA"]
    other = Watcher(WatchFilter(client="192.0.2.0/24"))
    node.add(other)
    node.remove(watcher)
    assert reception.watch is not None
    assert dialogues.watch is None


def test_what_is_not_wanted_costs_a_narrow_filter_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy relay: sessions and transactions that are not asked for are passed over before they count."""
    monkeypatch.setattr(watch, "LINES_A_SECOND", 8)
    monkeypatch.setattr(watch, "LOOKS_A_SECOND", 300)
    monkeypatch.setattr(watch.time, "monotonic", lambda: 1e9)
    node, reception, _ = hub()
    watcher = Watcher(WatchFilter(client="192.0.2.0/24", sender="me@origin.test"))
    node.add(watcher)
    for number in range(100):
        transaction(reception, 1, b"198.51.100.1", b"me@origin.test", b"a@dest.test")
        transaction(reception, 2, b"192.0.2.7", b"news%d@other.test" % number, b"a@dest.test")
    transaction(reception, 3, b"192.0.2.9", b"me@origin.test", b"a@dest.test")
    assert len(texts(watcher)) == 7
    assert (watcher.dropped, node.seen) == (0, 1407)
    reception.watch(1, "-", b"198.51.100.1", b"relay", b"")
    reception.watch(2, "-", b"192.0.2.7", b"relay", b"")
    reception.watch(1, "+", b"192.0.2.8", b"relay", b"")  # its place in memory is another's now
    transaction(reception, 1, b"192.0.2.8", b"me@origin.test", b"a@dest.test")
    assert watcher.dropped == 1  # there was room for one line more, the connection: then its MAIL was missed
    assert texts(watcher) == []


def test_nothing_is_shown_of_what_may_be_another_transaction_by_now(monkeypatch: pytest.MonkeyPatch) -> None:
    node, reception, _ = hub()
    watcher = Watcher(WatchFilter(sender="me@origin.test"))
    node.add(watcher)
    transaction(reception, 1, b"192.0.2.9", b"me@origin.test", b"a@dest.test")
    assert len(texts(watcher)) == 7
    monkeypatch.setattr(watch, "LINES_A_SECOND", 0)
    monkeypatch.setattr(watch.time, "monotonic", lambda: 1e9)
    reception.watch(1, "C", b"192.0.2.9", b"relay", b"MAIL FROM:<boss@secret.test>")
    assert watcher.dropped == 1
    monkeypatch.setattr(watch, "LINES_A_SECOND", 100)
    monkeypatch.setattr(watch.time, "monotonic", lambda: 2e9)
    reception.watch(1, "C", b"192.0.2.9", b"relay", b"RCPT TO:<friend@secret.test>")
    reception.watch(1, "S", b"192.0.2.9", b"relay", b"250 ok\r\n")
    assert texts(watcher) == []
    transaction(reception, 1, b"192.0.2.9", b"me@origin.test", b"a@dest.test")
    assert len(texts(watcher)) == 7


def test_a_session_that_is_joined_in_the_middle_begins_with_its_next_transaction() -> None:
    node, reception, dialogues = hub()
    watcher = Watcher(WatchFilter(to_domain="gr\u00fcn.test"))
    node.add(watcher)
    reception.watch(1, "C", b"192.0.2.9", b"relay", b"DATA")
    reception.watch(1, "S", b"192.0.2.9", b"relay", b"250 queued as another's\r\n")
    transaction(reception, 1, b"192.0.2.9", b"me@origin.test", b"a@xn--grn-ioa.test")
    shown = texts(watcher)
    assert (len(shown), shown[0]) == (7, "in C: MAIL FROM:<me@origin.test> SIZE=9")
    assert dialogues.watch is not None
    other = b"MAIL FROM:<me@origin.test>\r\nRCPT TO:<a@else.test>\r\nDATA\r\n"
    dialogues.watch(7, "C", b"mx.else.test", b"else.test", other)
    dialogues.watch(7, "S", b"mx.else.test", b"else.test", b"250 ok")
    assert texts(watcher) == []
    whole = Watcher(WatchFilter())
    node.add(whole)
    reception.watch(1, "S", b"192.0.2.9", b"relay", b"221 bye\r\n")
    assert texts(whole) == ["in S: 221 bye"]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (WatchFilter(client="192.0.2.1", site="dest.test"), "nothing is both"),
        (WatchFilter(sender="origin.test"), 'write "@origin.test"'),
        (WatchFilter(to_domain="a@dest.test"), "is no domain"),
    ],
)
def test_what_can_match_nothing_is_refused(wanted: WatchFilter, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Watcher(wanted)


def test_the_null_reverse_path_is_asked_for_as_it_is_written() -> None:
    node, reception, _ = hub()
    watcher = Watcher(WatchFilter(sender="<>"))
    node.add(watcher)
    transaction(reception, 1, b"192.0.2.9", b"me@origin.test", b"a@dest.test")
    transaction(reception, 1, b"192.0.2.9", b"", b"a@dest.test")
    shown = texts(watcher)
    assert (len(shown), shown[0]) == (7, "in C: MAIL FROM:<> SIZE=9")


def test_what_is_too_much_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    node, reception, _ = hub()
    watcher = Watcher(WatchFilter())
    node.add(watcher)
    monkeypatch.setattr(watch, "LINES_A_SECOND", 10_000_000)
    for _ in range(watch.MOST_WAITING + 50):
        reception.watch(1, "C", b"192.0.2.9", b"relay", b"NOOP")
    assert (len(watcher.take()), watcher.dropped) == (watch.MOST_WAITING, 50)
    monkeypatch.setattr(watch, "LINES_A_SECOND", 5)
    monkeypatch.setattr(watch.time, "monotonic", lambda: 1e9)
    for _ in range(9):
        reception.watch(1, "C", b"192.0.2.9", b"relay", b"NOOP")
    assert (len(watcher.take()), watcher.dropped) == (5, 54)
    for connection in range(watch.MOST_SESSIONS + 10):
        watcher.see("in", connection, "+", "192.0.2.9", "relay", b"")
    assert len(watcher._sessions) == watch.MOST_SESSIONS
    with pytest.raises(ValueError, match="nowhere"):
        Watcher(WatchFilter(client="nowhere"))
