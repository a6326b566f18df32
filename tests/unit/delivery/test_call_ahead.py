"""Sessions up to RCPT with a mailbox host: what its replies mean, and that it never gets mail."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from typing import TYPE_CHECKING

import pytest

from angarium._core.counters import Slab
from angarium.clock import SystemClock
from angarium.config.model import Config, Delivery, Node, Verification
from angarium.config.next_hop import NextHop
from angarium.delivery import call_ahead
from angarium.delivery.call_ahead import PROBES, REFUSALS, CallAhead, Finding, connector_for
from tests.support.peers import CLOSE, SinkServer, Step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

PATIENCE_S = 20.0


def asker(port: int, *, protocol: str = "smtp", timeout_s: float = PATIENCE_S, connections: int = 5) -> CallAhead:
    config = Config(
        node=Node(hostname="relay.test", spool="/nonexistent"),
        listener=(),
        delivery=Delivery(tls="none"),
        sandbox=True,
    )
    counters = Slab.create(1).region(0)
    connector = connector_for(config, counters, SystemClock(), random.Random(1))
    hop = NextHop.parse(f"{protocol}://127.0.0.1:{port}")
    return CallAhead.of_next_hop(config, connector, hop, Verification(timeout_s=timeout_s, connections=connections))


class Mailboxes:
    """A host that says to each recipient what the test tells it to."""

    def __init__(self) -> None:
        self.says: dict[str, str] = {}
        self.server = SinkServer(answer=self._answer)

    def _answer(self, step: Step) -> str | None:
        if step.verb == "LHLO":
            return "250 sink.test"
        if step.verb == "RCPT":
            return self.says.get(step.argument.partition("<")[2].partition(">")[0], "550 5.1.1 who is that?")
        return self.says.get(step.verb)

    def commands(self) -> list[str]:
        return [line for _, line in self.server.lines if not line.upper().startswith(("EHLO", "LHLO", "QUIT"))]


@pytest.fixture
def host() -> Iterator[Mailboxes]:
    mailboxes = Mailboxes()
    with mailboxes.server:
        yield mailboxes
        assert mailboxes.server.mails == []
        assert mailboxes.server.count("DATA") == mailboxes.server.count("BDAT") == 0


def run(asking: CallAhead, scene: Callable[[CallAhead], Awaitable[None]]) -> None:
    async def play() -> None:
        try:
            await scene(asking)
        finally:
            asking.close()

    asyncio.run(play())


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize(
    ("said", "finding"),
    [
        ("250 2.1.5 OK", Finding("known", "250 2.1.5 OK")),
        ("251 2.1.5 will forward", Finding("known", "251 2.1.5 will forward")),
        ("550 5.1.1 no", Finding("unknown", "550 5.1.1 no")),
        ("553 no", Finding("unknown", "553 no")),
        ("552 5.2.2 full", Finding("unknown", "552 5.2.2 full")),
        ("554 5.7.1 not from you", Finding("unknown", "554 5.7.1 not from you", firm=False)),
        ("550-5.1.1 no\r\n550 5.1.1 really", Finding("unknown", "550 5.1.1 no 5.1.1 really")),
        ("450 4.2.0 greylisted", Finding("failed", "450 4.2.0 greylisted")),
        ("452 4.2.2 full", Finding("failed", "452 4.2.2 full")),
        ("501 5.5.4 what?", Finding("failed", "501 5.5.4 what?")),
        ("530 5.7.0 STARTTLS", Finding("failed", "530 5.7.0 STARTTLS")),
        ("354 go on", Finding("failed", "354 go on")),
        ("421 4.3.2 closing", Finding("failed", "421 4.3.2 closing", down=True)),
    ],
)
def test_replies_to_rcpt(host: Mailboxes, protocol: str, said: str, finding: Finding) -> None:
    async def scene(asking: CallAhead) -> None:
        host.says["ada@box.test"] = said
        assert await asking.ask("ada@box.test") == finding

    run(asker(host.server.port, protocol=protocol), scene)
    assert host.commands()[:2] == ["MAIL FROM:<>", "RCPT TO:<ada@box.test>"]
    greeting = "LHLO relay.test" if protocol == "lmtp" else "EHLO relay.test"
    assert host.server.lines[0][1] == greeting


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        *itertools.product(["CONNECT", "EHLO", "MAIL"], ["554 5.3.2 no", "421 4.3.2 busy", "450 4.7.1 later"]),
        ("CONNECT", CLOSE),
        ("MAIL", CLOSE),
    ],
)
def test_a_host_that_cannot_be_asked_is_down(host: Mailboxes, verb: str, said: str) -> None:
    async def scene(asking: CallAhead) -> None:
        host.says[verb] = said
        host.says["HELO"] = said
        finding = await asking.ask("ada@box.test")
        assert (finding.result, finding.down) == ("failed", True)
        assert finding.reply
        del host.says[verb]
        assert (await asking.ask("ada@box.test")).result == "unknown"

    run(asker(host.server.port), scene)


def test_nobody_listens() -> None:
    async def scene(asking: CallAhead) -> None:
        finding = await asking.ask("ada@box.test")
        assert (finding.result, finding.down) == ("failed", True)
        assert "refused" in finding.reply

    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        run(asker(unheard.getsockname()[1]), scene)


def test_a_host_that_says_nothing_is_not_waited_for(host: Mailboxes) -> None:
    async def scene(asking: CallAhead) -> None:
        host.server.hold("RCPT")
        finding = await asking.ask("ada@box.test")
        assert (finding.result, finding.down) == ("failed", True)
        host.server.release()

    run(asker(host.server.port, timeout_s=0.2), scene)


def test_one_session_serves_several_questions_and_ends_in_time(host: Mailboxes) -> None:
    async def scene(asking: CallAhead) -> None:
        host.says["ada@box.test"] = "250 2.1.5 OK"
        for _ in range(PROBES):
            assert (await asking.ask("ada@box.test")).result == "known"
        assert asking.opened == 1
        assert (await asking.ask("ada@box.test")).result == "known"
        assert asking.opened == 2
        for _ in range(2 * REFUSALS):
            await asking.ask("nobody@box.test")
        assert asking.opened == 3

    run(asker(host.server.port), scene)
    assert host.commands()[:6] == ["MAIL FROM:<>", "RCPT TO:<ada@box.test>", "RSET"] * 2


def test_a_session_that_ended_meanwhile_is_no_failure(host: Mailboxes) -> None:
    async def scene(asking: CallAhead) -> None:
        host.says["ada@box.test"] = "250 2.1.5 OK"
        await asking.ask("ada@box.test")
        await asyncio.to_thread(host.server.close_connections)
        assert (await asking.ask("ada@box.test")).result == "known"
        host.says["RSET"] = CLOSE
        assert (await asking.ask("ada@box.test")).result == "known"
        assert (await asking.ask("ada@box.test")).result == "known"

    run(asker(host.server.port), scene)


def test_an_idle_session_is_closed(host: Mailboxes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_ahead, "IDLE_S", 0.0)

    async def scene(asking: CallAhead) -> None:
        await asking.ask("ada@box.test")
        await asyncio.to_thread(host.server.wait, lambda: host.server.open == 0, "the session to end")

    run(asker(host.server.port), scene)
    assert host.server.lines[-1][1] == "QUIT"


def test_no_more_connections_than_allowed(host: Mailboxes) -> None:
    async def scene(asking: CallAhead) -> None:
        host.server.hold("RCPT")
        questions = [asyncio.ensure_future(asking.ask(f"{number}@box.test")) for number in range(20)]
        await asyncio.to_thread(host.server.wait, lambda: host.server.count("RCPT") == 2, "two questions")
        assert host.server.connections == 2
        host.server.release()
        assert {finding.result for finding in await asyncio.gather(*questions)} == {"unknown"}

    run(asker(host.server.port, connections=2), scene)
    assert host.server.connections <= 2 + 20 // REFUSALS


def test_internationalised_recipients(host: Mailboxes) -> None:
    async def scene(asking: CallAhead) -> None:
        host.says["böte@büro.test"] = host.says["bote@xn--bro-hoa.test"] = "250 2.1.5 OK"
        assert (await asking.ask("böte@büro.test")).result == "known"
        assert host.commands()[0] == "MAIL FROM:<> SMTPUTF8"
        host.server.extensions.remove("SMTPUTF8")
        await asyncio.to_thread(host.server.close_connections)
        assert await asking.ask("böte@büro.test") == Finding(
            "unknown", "550 5.6.7 the host takes no internationalised addresses"
        )
        assert (await asking.ask("bote@büro.test")).result == "known"

    run(asker(host.server.port), scene)
