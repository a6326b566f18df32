"""Recipients verified by their mailbox host, as a worker's sessions see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from angarium._core.counters import Slab, Slot
from angarium.config.model import Verification
from angarium.delivery.lookup_protocol import RECIPIENT, RecipientAnswer
from angarium.delivery.mail_host import ResolutionFailure
from angarium.policy.recipient_query import DEFERRED, RecipientQuery, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Lookup:
    """The lookup process, as far as a query asks it."""

    def __init__(self) -> None:
        self.time = 100.0
        self.says: dict[str, RecipientAnswer | ResolutionFailure] = {}
        self.asked: list[tuple[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, kind: object, argument: tuple[str, str]) -> RecipientAnswer:
        assert kind is RECIPIENT
        self.asked.append(argument)
        await self.gate.wait()
        said = self.says[argument[1]]
        if isinstance(said, ResolutionFailure):
            raise said
        return said


class Desk:
    """A query, and the answers it gave."""

    def __init__(self, **verification: Any) -> None:
        self.lookup = Lookup()
        self.counters = Slab.create(1).region(0)
        self.query = RecipientQuery(
            "mx", Verification(**verification), cast("Any", self.lookup), self.counters, lambda: self.lookup.time
        )

    async def verify(self, mailbox: bytes) -> object:
        answer = self.query.verify(mailbox)
        if isinstance(answer, bytes):
            return answer
        told: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        answer(cast("Any", told.set_result))
        return await told

    def count(self, slot: Slot) -> int:
        return self.counters.value(slot)


def run(scene: Callable[[Desk], Awaitable[None]], **verification: Any) -> None:
    async def play() -> None:
        await scene(Desk(**verification))

    asyncio.run(play())


def test_an_answer_is_kept_for_as_long_as_it_holds() -> None:
    async def scene(desk: Desk) -> None:
        desk.lookup.says = {
            "ada@box.test": RecipientAnswer("known", "250 OK", 60.0),
            "no@box.test": RecipientAnswer("unknown", "550 5.1.1 Who is that?", 60.0),
        }
        refused = b"550 5.1.1 The mailbox host refuses the recipient: 550 Who is that?\r\n"
        for _ in range(3):
            assert await desk.verify(b"ada@BOX.test") == b""
            assert await desk.verify(b"no@box.test") == refused
        assert desk.lookup.asked == [("mx", "ada@box.test"), ("mx", "no@box.test")]
        desk.lookup.time += 60
        assert await desk.verify(b"ada@box.test") == b""
        assert len(desk.lookup.asked) == 3
        assert desk.count(Slot.INGRESS_CHECKED_KNOWN) == 4
        assert desk.count(Slot.INGRESS_CHECKED_UNKNOWN) == 3

    run(scene)


def test_the_local_part_is_the_mailbox_host_s_business() -> None:
    async def scene(desk: Desk) -> None:
        answer = RecipientAnswer("known", "250 OK", 60.0)
        desk.lookup.says = dict.fromkeys(("Ada@box.test", "ada@box.test", "ö@xn--bro-hoa.test"), answer)
        for mailbox in ("Ada@box.test", "ada@box.test", "ö@BÜRO.test"):
            assert await desk.verify(mailbox.encode()) == b""
        assert [mailbox for _, mailbox in desk.lookup.asked] == ["Ada@box.test", "ada@box.test", "ö@xn--bro-hoa.test"]

    run(scene)


FAILURES = [
    RecipientAnswer("failed", "connection refused", 0.0),
    ResolutionFailure(False, 451, (4, 4, 3), "the lookup process does not answer"),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_nobody_can_say(failure: RecipientAnswer | ResolutionFailure) -> None:
    async def deferred(desk: Desk) -> None:
        desk.lookup.says = {"ada@box.test": failure}
        assert await desk.verify(b"ada@box.test") == DEFERRED
        assert await desk.verify(b"ada@box.test") == DEFERRED
        assert len(desk.lookup.asked) == 2
        assert desk.count(Slot.INGRESS_CHECKED_DEFERRED) == 2

    async def accepted(desk: Desk) -> None:
        desk.lookup.says = {"ada@box.test": failure, "no@box.test": RecipientAnswer("unknown", "550 no", 1.0)}
        assert await desk.verify(b"ada@box.test") == b""
        assert (desk.count(Slot.INGRESS_CHECKED_UNCHECKED), desk.count(Slot.INGRESS_CHECKED_KNOWN)) == (1, 0)
        assert await desk.verify(b"no@box.test") == b"550 5.1.1 The mailbox host refuses the recipient: 550 no\r\n"

    run(deferred)
    run(accepted, unreachable="accept")


def test_who_waits_is_answered_when_the_worker_ends() -> None:
    async def scene(desk: Desk) -> None:
        desk.lookup.gate.clear()
        waiting = asyncio.ensure_future(desk.verify(b"ada@box.test"))
        while not desk.lookup.asked:
            await asyncio.sleep(0)
        await desk.query.close()
        assert await waiting == DEFERRED

    run(scene)


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ("550 5.1.1 No such user", b"550 5.1.1 The mailbox host refuses the recipient: 550 No such user\r\n"),
        ("552 5.2.2 Full", b"550 5.2.2 The mailbox host refuses the recipient: 552 Full\r\n"),
        ("553 sorry, no", b"550 5.1.1 The mailbox host refuses the recipient: 553 sorry, no\r\n"),
        ("550", b"550 5.1.1 The mailbox host refuses the recipient: 550\r\n"),
        ("550 4.2.1 odd", b"550 5.1.1 The mailbox host refuses the recipient: 550 4.2.1 odd\r\n"),
        ("550 5.1.1 né\r\n250 OK", b"550 5.1.1 The mailbox host refuses the recipient: 550 n???250 OK\r\n"),
    ],
)
def test_what_the_host_said_is_passed_on_as_one_line(said: str, reply: bytes) -> None:
    assert refusal(said) == reply


def test_a_reply_keeps_to_its_length() -> None:
    assert len(refusal("550 5.1.1 " + "x" * 2000)) == 512
