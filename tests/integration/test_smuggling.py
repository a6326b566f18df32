"""A second message behind an end of data that only some see (CVE-2023-51764 and its family): one message, in and out.

What a stranger can get in comes out as one message at hosts that are known for the fault or for its cure: Postfix, its
smtp-sink, and aiosmtpd, by DATA and by BDAT.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller

from tests.support.clients import PATIENCE_S, Dialogue
from tests.support.peers import Postfix, require
from tests.support.ports import free_port
from tests.support.relay import Relay, wait_until
from tests.support.relay_tricks import CHUNK_ENDS, ENDS, smuggling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.peer

# how it comes in: name -> strict or repaired, DATA or BDAT
WAYS = {"data": (False, False), "repaired": (True, False), "chunk": (False, True), "repaired chunk": (True, True)}


class Road:
    """A relay with a strict listener and one that repairs, in front of a host; `arrived` is what came out there."""

    def __init__(
        self, folder: Path, next_hop: str, arrived: Callable[[], list[bytes]], domain: str, **config: Any
    ) -> None:
        self.domain = domain
        self.arrived = arrived
        self.relay = Relay(folder, {"route": [{"recipients": ["*"], "next_hop": next_hop}], **config})
        self.repairing_port = free_port()
        strict = self.relay.config["listener"][0]
        strict["limits"] = {"errors": 1_000_000, "commands_per_second": 1_000_000}
        repairing = {
            "name": "legacy",
            "listen": f"127.0.0.1:{self.repairing_port}",
            "bare_newline": "repair",
            "repair_networks": ["127.0.0.0/8"],
        }
        self.relay.config["listener"].append(strict | repairing)

    def send(self, client: Dialogue, end: bytes, mark: bytes, *, chunk: bool) -> bool:
        """Whether it was taken; the session stands where it stood before."""
        client.expect(250, "MAIL FROM:<a@origin.test> BODY=8BITMIME")
        client.expect(250, f"RCPT TO:<x@{self.domain}>")
        content = smuggling(end, mark, self.domain.encode()) + b".\r\n"
        if chunk:
            client.write(b"BDAT %d LAST\r\n" % len(content) + content)
        else:
            client.expect(354, "DATA")
            client.write(content)
        code, lines = client.read()
        assert code in {250, 554}, lines
        client.expect(250, "NOOP")
        return code == 250

    def drive(self) -> None:
        """Every end in every way, and what comes out of it."""
        taken: dict[bytes, bytes] = {}
        for way, (repair, chunk) in WAYS.items():
            with self.relay.client(self.repairing_port if repair else None) as client:
                client.ehlo()
                for number, end in enumerate(CHUNK_ENDS if chunk else ENDS):
                    mark = b"mark.%s.%d." % (way.replace(" ", "-").encode(), number)
                    if self.send(client, end, mark, chunk=chunk):
                        taken[mark] = end
        assert len(taken) > 100
        self.relay.wait_empty()
        assert not self.relay.events("bounce")
        messages = self.relay.wait(
            lambda: found if len(found := self.arrived()) >= len(taken) else [], f"{len(taken)} messages"
        )
        assert len(messages) == len(taken)
        for message in messages:
            head = re.split(rb"\r?\n\r?\n", message, maxsplit=1)[0]
            (mark,) = re.findall(rb"^Subject: (mark\.\S+)", head, re.M)
            taken.pop(mark)  # each once
            assert b"smuggled" not in head
            assert message.count(b"Subject: smuggled") == 1
        assert taken == {}


def test_postfix(tmp_path: Path) -> None:
    with Postfix(size_limit=1_000_000) as postfix:
        for name, bdat in (("bdat", "auto"), ("data", "never")):
            before = len(postfix.arrived())
            road = Road(
                tmp_path / name,
                postfix.url,
                lambda before=before: postfix.arrived()[before:],
                "one.postfix.test",
                delivery={"bdat": bdat},
            )
            with road.relay:
                road.drive()


class Keeper:
    """An aiosmtpd handler that keeps what it takes."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        assert envelope.rcpt_tos == ["x@sink.test"]
        self.messages.append(envelope.original_content)
        return "250 OK"


def test_aiosmtpd(tmp_path: Path) -> None:
    keeper = Keeper()
    controller = Controller(keeper, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        url = f"smtp://127.0.0.1:{controller.port}"
        road = Road(tmp_path, url, lambda: list(keeper.messages), "sink.test")
        with road.relay:
            road.drive()
    finally:
        controller.stop()


@contextlib.contextmanager
def smtp_sink(folder: Path) -> Iterator[tuple[int, Path]]:
    """Postfix's smtp-sink, which writes each message into a file of its own."""
    program = require("smtp-sink")
    port = free_port()
    kept = folder / "kept"
    kept.mkdir()
    user = ["-u", "root"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [program, *user, "-d", "%M.", f"127.0.0.1:{port}", "100"],
        cwd=kept,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def is_up() -> bool:
        assert process.poll() is None, f"smtp-sink ended with {process.returncode}"
        with contextlib.suppress(OSError), Dialogue("127.0.0.1", port):
            return True
        return False

    try:
        wait_until(is_up, "smtp-sink to answer")
        yield port, kept
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_smtp_sink(tmp_path: Path) -> None:
    with smtp_sink(tmp_path) as (port, kept):

        def arrived() -> list[bytes]:
            return [octets for path in sorted(kept.iterdir()) if b"Subject: mark" in (octets := path.read_bytes())]

        road = Road(tmp_path / "relay", f"smtp://127.0.0.1:{port}", arrived, "sink.test")
        with road.relay:
            road.drive()
