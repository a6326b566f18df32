"""SCRAM passed on to Dovecot: what comes back, how long an exchange lives, and how many there are."""

from __future__ import annotations

import asyncio
import base64

import pytest

from angarium.policy import dovecot_scram
from angarium.policy.access_protocol import ScramFinal, ScramFirst
from angarium.policy.back_end import Finding
from angarium.policy.dovecot_scram import PassedOn, log_in_of

FIRST = "n,,n=bob,r=abc"
CHALLENGE = "r=abcdef,s=c2FsdHNhbHQ=,i=4096"
FINAL = "c=biws,r=abcdef,p=cHJvb2Y="


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Connection:
    """Dovecot's socket, whose answers come when the test says so."""

    def __init__(self) -> None:
        self.closed = False
        self.mechanisms = {"PLAIN", "SCRAM-SHA-256"}
        self.said: list[tuple[str, ...]] = []
        self.answers: list[list[str]] = []  # those that are there when they are looked for
        self.waiting: dict[str, asyncio.Future[list[str]]] = {}

    def begin(self, mechanism: str, service: str, address: str, response: bytes, *options: str) -> str:
        number = str(len(self.said) + 1)
        self._say(number, "AUTH", mechanism, service, address, response.decode(), *options)
        return number

    def go_on(self, number: str, response: bytes) -> None:
        self._say(number, "CONT", number, response.decode())

    def _say(self, number: str, *words: str) -> None:
        self.said.append(words)
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        if self.answers:
            future.set_result(self.answers.pop(0))

    def answer(self, number: str) -> asyncio.Future[list[str]]:
        return self.waiting[number]

    def forget(self, number: str, *, cancel: bool = False) -> None:
        del self.waiting[number]
        if cancel:
            self.said.append(("CANCEL", number))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dovecot_scram, "PACE_S", 0.0)


def first(nonce: str = "1", address: str = "192.0.2.1", message: str = FIRST) -> ScramFirst:
    return ScramFirst(message, nonce, b"", address, "submission", "SCRAM-SHA-256")


def final(nonce: str = "1") -> ScramFinal:
    return ScramFinal(FIRST, FINAL, nonce, b"", "192.0.2.1", "submission", "SCRAM-SHA-256")


async def test_messages_go_through_as_they_are() -> None:
    connection, passed_on = Connection(), PassedOn("smtp")
    connection.answers = [["CONT", coded(CHALLENGE)], ["OK", "user=bob@mail.test", f"resp={coded('v=server')}"]]
    assert await passed_on.first(connection, first(), "bob") == CHALLENGE
    found = await passed_on.final(connection, final(), "bob")
    assert (found.finding, found.log_in, found.message) == (Finding.ACCEPTED, "bob@mail.test", "v=server")
    assert connection.said == [
        ("AUTH", "SCRAM-SHA-256", "smtp", "192.0.2.1", FIRST, "final-resp-ok"),
        ("CONT", "1", FINAL),
    ]
    assert connection.waiting == {}
    # and no proof is good twice
    assert (await passed_on.final(connection, final(), "bob")).finding is Finding.UNAVAILABLE


async def test_a_dovecot_whose_last_message_comes_by_itself() -> None:
    connection, passed_on = Connection(), PassedOn("smtp")
    connection.answers = [["CONT", coded(CHALLENGE)], ["CONT", coded("v=server")], ["OK", "user=bob"]]
    await passed_on.first(connection, first(), "bob")
    found = await passed_on.final(connection, final(), "bob")
    assert (found.finding, found.message) == (Finding.ACCEPTED, "v=server")
    assert connection.said[-1] == ("CONT", "1", "")


@pytest.mark.parametrize(
    ("answer", "finding"),
    [(["FAIL", "user=bob"], Finding.REFUSED), (["FAIL", "user=bob", "temp"], Finding.UNAVAILABLE)],
)
async def test_a_proof_that_does_not_hold(answer: list[str], finding: Finding) -> None:
    connection, passed_on = Connection(), PassedOn("smtp")
    connection.answers = [["CONT", coded(CHALLENGE)], answer]
    await passed_on.first(connection, first(), "bob")
    assert (await passed_on.final(connection, final(), "bob")).finding is finding


@pytest.mark.parametrize("said", [[], [["FAIL", "user=bob"]]])
async def test_one_whom_dovecot_does_not_know_is_challenged_all_the_same(said: list[list[str]]) -> None:
    connection, passed_on = Connection(), PassedOn("smtp")
    connection.answers = [["CONT", coded(CHALLENGE)], *said]
    await passed_on.first(connection, first("real"), "bob")
    made_up = await passed_on.first(connection, first("2"), "nobody")
    assert made_up.startswith("r=abc")
    assert len(made_up) == len(CHALLENGE)
    connection.answers = [["FAIL", "user=nobody"]]
    assert (await passed_on.final(connection, final("2"), "nobody")).finding is Finding.UNKNOWN
    assert connection.said[-1][0] == "AUTH"  # so that the refusal takes as long as another


async def test_a_challenge_that_comes_late_is_nobodys_fault() -> None:
    connection, passed_on = Connection(), PassedOn("smtp")
    await passed_on.first(connection, first(), "bob")
    connection.answers = [["CONT", coded(CHALLENGE)]]
    assert (await passed_on.final(connection, final(), "bob")).finding is Finding.UNAVAILABLE
    assert connection.said[-1][0] == "CANCEL"
    assert connection.waiting == {}


@pytest.mark.parametrize(
    "answer",
    [
        ["FAIL", "temp"],
        ["CONT", coded("r=other,s=c2FsdA==,i=1")],
        ["CONT", coded("r=abcd,s=c2FsdA==,i=x")],
        ["CONT", "?"],
    ],
)
async def test_what_is_no_challenge(answer: list[str]) -> None:
    connection, passed_on = Connection(), PassedOn("smtp")
    connection.answers = [answer]
    with pytest.raises(ValueError, match=r"."):
        await passed_on.first(connection, first(), "bob")
    assert connection.waiting == {}
    assert len(passed_on) == 0


async def test_a_dovecot_without_the_mechanism() -> None:
    connection = Connection()
    connection.mechanisms = {"PLAIN"}
    with pytest.raises(ValueError, match="it offers no SCRAM-SHA-256"):
        await PassedOn("smtp").first(connection, first(), "bob")


async def test_an_exchange_ends_with_its_time_and_with_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, passed_on = Connection(), PassedOn("smtp")
    connection.answers = [["CONT", coded(CHALLENGE)]] * 2
    await passed_on.first(connection, first("1"), "bob")
    connection.closed = True
    assert (await passed_on.final(Connection(), final("1"), "bob")).finding is Finding.UNAVAILABLE
    connection.closed = False
    monkeypatch.setattr(dovecot_scram, "EXCHANGE_S", -1.0)
    await passed_on.first(connection, first("2"), "bob")
    assert (await passed_on.final(connection, final("2"), "bob")).finding is Finding.UNAVAILABLE
    assert connection.waiting == {}


async def test_there_are_so_many_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dovecot_scram, "PER_CLIENT", 2)
    monkeypatch.setattr(dovecot_scram, "MOST_EXCHANGES", 3)
    connection, passed_on = Connection(), PassedOn("smtp")
    connection.answers = [["CONT", coded(CHALLENGE)]] * 5
    for nonce in ("1", "2", "3"):
        await passed_on.first(connection, first(nonce), "bob")
    assert [nonce in passed_on for nonce in ("1", "2", "3")] == [False, True, True]
    for nonce in ("4", "5"):
        await passed_on.first(connection, first(nonce, f"192.0.2.{nonce}"), "bob")
    assert [nonce in passed_on for nonce in ("2", "3", "4", "5")] == [False, True, True, True]
    assert len(connection.waiting) == len(passed_on) == 3
    assert [said[0] for said in connection.said].count("CANCEL") == 2


@pytest.mark.parametrize(
    ("message", "log_in"),
    [
        ("n,,n=bob,r=abc", "bob"),
        ("y,,n=bob@mail.test,r=abc,x=more", "bob@mail.test"),
        ("p=tls-server-end-point,,n=bob,r=abc", "bob"),
        ("n,a=bob,n=bob,r=abc", "bob"),
        ("n,,n=a=2Cb=3Dc,r=abc", "a,b=c"),
        ("n,,n==3D2C,r=abc", "=2C"),
        ("n,,n=a=41,r=abc", ""),
        ("n,a=boss,n=bob,r=abc", ""),
        ("n,,m=ext,n=bob,r=abc", ""),
        ("n,,n=,r=abc", ""),
        ("n,,n=bob,r=", ""),
        ("n,,n=bob", ""),
        ("x,,n=bob,r=abc", ""),
        ("", ""),
    ],
)
def test_the_log_in_in_a_first_message(message: str, log_in: str) -> None:
    assert log_in_of(message) == log_in
