"""The client's dialogues of tests/transcripts/client: what hosts do, and what becomes of the mail.

The test plays the host: S lines are what it says, C lines are what it must have heard by then. The outcome is the same
however the host's octets arrive.

Directives:

    @egress KEY=VALUE ...        of Egress (timeouts), before the first connection
    @mail NAME to=ADDRESS,... KEY=VALUE ...  a message for the host: from, body, flags, ret, envid; a recipient may be
                                 ADDRESS/NOTIFY/ORCPT; M lines behind it are its mail data
    @at NAME INDEX,...           only these recipients go to the host
    @host CAPABILITY ... KEY=VALUE ...  a connection is up: pipelining, chunking, 8bitmime, smtputf8, size, dsn,
                                 requiretls, lmtp; size_limit, transactions_limit, recipients_limit,
                                 domains_limit
    @others N                    the next hop has so many hosts beside this one
    @lost [WHY]                  the host closes the connection, or it breaks
    @sweep, @quit_idle           Egress.sweep, Egress.quit_idle
    @closed, @open               at this point the session has ended, or has not
    @outcome NAME INDEX WORD ... what became of a recipient; "ready": it waits for the next connection, "under way"
    @wanted N                    connections that the queue asked for and that are not open yet
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.client_session import Capability
from angarium._core.counters import Slab, Slot
from angarium._core.journal import CallbackTaker, Journal
from tests.support.session import DATA, Host, Queue
from tests.support.transcript import Dialogue, Step, dialogues_of, matches, unescape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIALOGUES = dialogues_of("client")
CAPABILITIES = {name.removeprefix("CAPABILITY_").lower(): bit for name, bit in Capability.__members__.items()}
NUMBERS = ("body", "flags", "ret")


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    folder: Path = tmp_path_factory.mktemp("shard")
    journal = Journal(str(folder), 0, 1 << 20, Slab.create(1).region(0), CallbackTaker(lambda message: None))
    yield journal
    journal.close()


class Player:
    """Plays one dialogue."""

    def __init__(self, dialogue: Dialogue, journal: Journal, *, step: int = 0, split: int = 0) -> None:
        self.dialogue = dialogue
        self.step = step
        self.split = split
        self.journal = journal
        self.queue: Queue | None = None
        self.egress: dict[str, Any] = {}
        self.host: Host | None = None
        self.heard = bytearray()
        self.waiting: dict[str, tuple[dict[str, str], bytes]] = {}
        self.mail: str | None = None

    def play(self) -> Queue:
        for step in self.dialogue.steps:
            if self.mail is not None and step.kind != "M":
                self._send()
            if step.kind == "M":
                assert self.mail is not None
                self.waiting[self.mail] = (self.waiting[self.mail][0], step.octets)
            elif step.kind == "S":
                self._host_says(step.octets)
            elif step.kind == "C":
                self._client_said(step)
            else:
                self._act(step)
        if self.mail is not None:
            self._send()
        if self.host is not None and not self.host.transport.lost:
            assert bytes(self.heard) + self.host.heard() == b"", f"{self.dialogue}: the client said more"
        assert self.queue is not None
        return self.queue

    def _queue(self) -> Queue:
        if self.queue is None:
            self.queue = Queue(self.journal, **self.egress)
        return self.queue

    def _host_says(self, octets: bytes) -> None:
        assert self.host is not None
        transport = self.host.transport
        if self.split and self.split < len(octets):
            transport.deliver(octets[: self.split])
            transport.deliver(octets[self.split :])
        else:
            transport.deliver(octets, self.step)
        self.host.run()

    def _client_said(self, step: Step) -> None:
        assert self.host is not None
        self.heard += self.host.heard()
        heard = bytes(self.heard)
        self.heard.clear()
        assert heard == step.octets, (
            f"{self.dialogue.file}.txt:{step.line}:\n  expected {step.octets!r}\n  got      {heard!r}"
        )

    def _send(self) -> None:
        """The mail that was described goes into the queue."""
        assert self.mail is not None
        name, self.mail = self.mail, None
        options, data = self.waiting[name]
        queue = self._queue()
        recipients = []
        for word in options["to"].split(","):
            path, _, rest = word.partition("/")
            notify, _, orcpt = rest.partition("/")
            recipients.append((path.encode(), int(notify or 0), orcpt.encode()))
        more: dict[str, object] = {key: int(options[key]) for key in NUMBERS if key in options}
        if "envid" in options:
            more["envid"] = options["envid"].encode()
        sender = options.get("from", "s@example.org")
        message = queue.make(name, [], data=data, reverse_path=sender.encode(), recipients=recipients, **more)
        if "at" in options:
            indices = [int(word) for word in options["at"].split(",")]
            queue.dispatcher.place = lambda message: queue.dispatcher.send(message, queue.ready, indices)
        queue.dispatcher.adopt(message)

    def _act(self, step: Step) -> None:
        match step.words[0]:
            case "egress":
                self.egress = {key: float(value) for key, value in step.options().items()}
                if "chunk_octets" in self.egress:
                    self.egress["chunk_octets"] = int(self.egress["chunk_octets"])
            case "mail":
                self.mail = step.words[1]
                self.waiting[self.mail] = (step.options(), DATA)
            case "host":
                bits = sum(CAPABILITIES.get(word, 0) for word in step.words[1:])
                limits = {key: int(value) for key, value in step.options().items() if key.endswith("_limit")}
                assert not self.heard
                self.host = self._queue().connect(bits, lmtp="lmtp" in step.words, **limits)
            case "others":
                left = iter(range(int(step.words[1])))
                self._queue().ready.trouble = lambda *_: next(left, None) is not None
            case "lost":
                assert self.host is not None
                self.heard += self.host.heard()
                self.host.transport.lose(ConnectionResetError(" ".join(step.words[1:])) if step.words[1:] else None)
            case "sweep":
                self._queue().egress.sweep()
                if self.host is not None:
                    self.host.run()
            case "quit_idle":
                self._queue().egress.quit_idle()
            case "closed" | "open" as word:
                assert self.host is not None
                assert self.host.session.closed == (word == "closed"), f"{self.dialogue.file}.txt:{step.line}"
            case "outcome":
                self._check_outcome(step)
            case "wanted":
                assert self._queue().wanted == int(step.words[1]), f"{self.dialogue.file}.txt:{step.line}"
            case word:
                raise ValueError(f"line {step.line}: @{word}")

    def _check_outcome(self, step: Step) -> None:
        name, index, expected = step.words[1], int(step.words[2]), " ".join(step.words[3:])
        queue = self._queue()
        came = queue.outcome(name).get(index, "unsettled")
        if expected == "ready":
            assert came == "unsettled", f"{self.dialogue.file}.txt:{step.line}: {came}"
            assert queue.ready.backlog > 0
        elif expected == "under way":
            assert came == "unsettled", f"{self.dialogue.file}.txt:{step.line}: {came}"
        else:
            assert matches(unescape(expected.encode()), came.encode()), f"{self.dialogue.file}.txt:{step.line}: {came}"


def check_books(queue: Queue) -> None:
    """Whatever happened: connections and deliveries are accounted for, and no mail is lost."""
    assert queue.ready.open == queue.egress.sessions == queue.counters.value(Slot.DELIVERY_CONNECTIONS)
    assert queue.dispatcher.ready == queue.ready.backlog
    for name, message in queue.messages.items():
        outcome = queue.outcome(name)
        settled = all(index in outcome for index in range(message.recipients))
        assert settled or message.outstanding > 0 or queue.rounds, name


by_name = pytest.mark.parametrize("dialogue", DIALOGUES, ids=str)


@by_name
def test_as_it_is_written(dialogue: Dialogue, journal: Journal) -> None:
    check_books(Player(dialogue, journal).play())


@by_name
def test_octet_by_octet(dialogue: Dialogue, journal: Journal) -> None:
    check_books(Player(dialogue, journal, step=1).play())


@by_name
def test_split_at_every_octet(dialogue: Dialogue, journal: Journal) -> None:
    longest = max((len(step.octets) for step in dialogue.steps if step.kind == "S"), default=0)
    for split in range(1, min(longest, 300)):
        check_books(Player(dialogue, journal, split=split).play())
