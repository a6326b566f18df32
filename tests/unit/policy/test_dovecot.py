"""Dovecot's auth socket: the handshake, answers in any order, and a Dovecot that is away, slow or odd."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest

from angarium.policy.access_protocol import PasswordAttempt
from angarium.policy.back_end import Finding
from angarium.policy.dovecot import DovecotBackEnd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GREETING = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t7\nCUID\t1\nCOOKIE\tab\nDONE\n"


class FakeDovecot:
    """A server on a Unix socket that keeps what it is asked and says what the test wants."""

    def __init__(self, path: Path, greeting: str = GREETING) -> None:
        self.path = str(path)
        self.lines: list[str] = []
        self.greeting = greeting
        self.answers: list[str] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        writer.write(self.greeting.encode())
        while line := await reader.readline():
            text = line.decode().rstrip("\n")
            self.lines.append(text)
            if text.startswith("AUTH"):
                self.asked.set()
                if self.answers:
                    number = text.split("\t")[1]
                    writer.write(self.answers.pop(0).replace("ID", number).encode() + b"\n")
        writer.close()

    async def stop(self) -> None:
        self._server.close()
        for writer in self.writers:
            writer.close()
        await self._server.wait_closed()


@pytest.fixture
async def dovecot(tmp_path: Path) -> AsyncIterator[FakeDovecot]:
    server = FakeDovecot(tmp_path / "auth")
    await server.start()
    yield server
    await server.stop()


def attempt(log_in: str = "alice", password: str = "secret", address: str = "192.0.2.1") -> PasswordAttempt:
    return PasswordAttempt(log_in, password, address, "submission", "LOGIN")


async def test_a_right_and_a_wrong_password(dovecot: FakeDovecot) -> None:
    dovecot.answers = ["OK\tID\tuser=alice@example.org", "FAIL\tID\tuser=alice"]
    back_end = DovecotBackEnd(dovecot.path, "smtp", 5.0)
    accepted = await back_end.password(attempt())
    assert (accepted.finding, accepted.log_in) == (Finding.ACCEPTED, "alice@example.org")
    assert (await back_end.password(attempt())).finding is Finding.UNKNOWN
    assert dovecot.connections == 1
    version, process, asked, _ = dovecot.lines
    assert version == "VERSION\t1\t1"
    assert process.startswith("CPID\t")
    *words, response = asked.split("\t")
    assert words == ["AUTH", "1", "PLAIN", "service=smtp", "secured", "nologin", "no-penalty", "rip=192.0.2.1"]
    assert base64.b64decode(response.removeprefix("resp=")) == b"\0alice\0secret"
    await back_end.close()


async def test_answers_in_another_order(dovecot: FakeDovecot) -> None:
    back_end = DovecotBackEnd(dovecot.path, "smtp", 5.0)
    dovecot.answers = ["NOTE\tID"]
    first = asyncio.ensure_future(back_end.password(attempt("one")))
    await dovecot.asked.wait()
    dovecot.answers = ["OK\t1\tuser=one\nFAIL\t9\nOK\t2\tuser=two"]
    second = await back_end.password(attempt("two"))
    assert (second.log_in, (await first).log_in) == ("two", "one")
    await back_end.close()


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        ("FAIL\tID\tuser=a\ttemp", Finding.UNAVAILABLE),
        ("FAIL\tID", Finding.UNKNOWN),
        ("CONT\tID\t", Finding.UNKNOWN),
        ("OK\tID", Finding.ACCEPTED),
        ("OK\tID\tuser=a\x01tb", Finding.ACCEPTED),
    ],
)
async def test_what_it_says(dovecot: FakeDovecot, answer: str, finding: Finding) -> None:
    dovecot.answers = [answer]
    back_end = DovecotBackEnd(dovecot.path, "smtp", 5.0)
    assert (await back_end.password(attempt())).finding is finding
    await back_end.close()


@pytest.mark.parametrize(
    "greeting",
    [
        "VERSION\t2\t0\nMECH\tPLAIN\nDONE\n",
        "VERSION\t1\t1\nMECH\tCRAM-MD5\nDONE\n",
        "VERSION\t1\t1\n" + "x" * 10_000 + "\n",
    ],
)
async def test_a_dovecot_that_is_odd(tmp_path: Path, greeting: str) -> None:
    server = FakeDovecot(tmp_path / "auth", greeting)
    await server.start()
    back_end = DovecotBackEnd(server.path, "smtp", 5.0)
    assert (await back_end.password(attempt())).finding is Finding.UNAVAILABLE
    await back_end.close()
    await server.stop()


async def test_a_dovecot_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    back_end = DovecotBackEnd(str(tmp_path / "none"), "smtp", 5.0)
    assert (await back_end.password(attempt())).finding is Finding.UNAVAILABLE
    assert "none cannot be asked: " in caplog.text


async def test_a_dovecot_that_does_not_answer(dovecot: FakeDovecot, caplog: pytest.LogCaptureFixture) -> None:
    back_end = DovecotBackEnd(dovecot.path, "smtp", 0.01)
    assert (await back_end.password(attempt(password="hunter2"))).finding is Finding.UNAVAILABLE
    assert "has no answer within 0.01 s" in caplog.text
    assert "hunter2" not in caplog.text
    await back_end.close()


async def test_a_connection_that_ends_costs_what_is_under_way_and_no_more(dovecot: FakeDovecot) -> None:
    back_end = DovecotBackEnd(dovecot.path, "smtp", 5.0)
    lost = asyncio.ensure_future(back_end.password(attempt()))
    await dovecot.asked.wait()
    dovecot.writers[0].close()
    assert (await lost).finding is Finding.UNAVAILABLE
    dovecot.answers = ["OK\tID\tuser=alice"]
    assert (await back_end.password(attempt())).finding is Finding.ACCEPTED
    assert dovecot.connections == 2
    await back_end.close()


async def test_what_a_client_says_cannot_become_another_parameter(dovecot: FakeDovecot) -> None:
    dovecot.answers = ["FAIL\tID"]
    back_end = DovecotBackEnd(dovecot.path, "smtp", 5.0)
    await back_end.password(attempt("a\tb\nAUTH\t9", "x", "1\t2\n3"))
    assert [line.split("\t")[0] for line in dovecot.lines] == ["VERSION", "CPID", "AUTH"]
    assert "rip=1\x01t2\x01n3" in dovecot.lines[2].split("\t")
    await back_end.close()
