"""A generator of mail to many domains: what fills a queue.

    python -m bench.queue.flood '{"port": 2525, "messages": 1000000, "domains": 100000}'

smtp-source knows one recipient domain only. This one sends message n to <uN@dM.ZONE>, M = n modulo `domains`, over
kept connections, the envelope in one write. It is no measure of a relay's accept rate: it shares the machine with it
and costs more than smtp-source. A relay that says 4xx is asked again after a pause, with the same message; a
connection that is lost is opened again. `rate`, if any, is messages a second at most.

Standard output: at the end one line of JSON, `{"accepted", "seconds", "refused": {reply: count}}`. It ends with status
1 when nothing was accepted for `STALL_S`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from .program import Program

if TYPE_CHECKING:
    from collections.abc import Callable

STALL_S = 60.0
PAUSE_S = 0.1
REPLIES_KEPT = 20
PACE_S = 0.02
LINE = b"The quick brown fox jumps over the lazy dog, again and again, as mail must go.\r\n"


@dataclass(frozen=True)
class Plan:
    port: int
    messages: int
    domains: int = 1
    zone: str = "many.example"
    octets: int = 1024
    sessions: int = 50
    first: int = 0
    rate: float = 0.0


def build_message(octets: int) -> bytes:
    head = b"From: <sender@src.example>\r\nTo: undisclosed:;\r\nSubject: bench\r\n\r\n"
    return head + LINE * max(1, (octets - len(head)) // len(LINE)) + b".\r\n"


class Session(asyncio.Protocol):
    """One connection. A reply is looked up by the step that waits for it."""

    def __init__(self, flood: Flood) -> None:
        self.flood = flood
        self.number = -1  # of the message under way
        self._buffer = b""
        self._step = self._greeted
        self._refused = ""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        start = 0
        while (end := data.find(b"\r\n", start)) >= 0:
            line = data[start:end]
            start = end + 2
            if line[3:4] != b"-":
                self._step(line)
        self._buffer = data[start:]

    def connection_lost(self, exc: Exception | None) -> None:
        if self.number >= 0:
            self.flood.give_back(self.number)
        self.flood.lost()

    def _greeted(self, reply: bytes) -> None:
        if reply[:1] != b"2":
            self._leave(reply)
            return
        self._step = self._said_hello
        self._transport.write(b"EHLO generator.bench.test\r\n")

    def _said_hello(self, reply: bytes) -> None:
        self.begin()

    def begin(self) -> None:
        """The next message, if there is one now."""
        if self._transport.is_closing():
            return
        number = self.flood.take(self)
        if number < 0:
            return
        self.number = number
        self._refused = ""
        plan = self.flood.plan
        self._step = self._mail
        self._transport.write(
            b"MAIL FROM:<sender@src.example>\r\nRCPT TO:<u%d@d%d.%s>\r\nDATA\r\n"
            % (number, number % plan.domains, self.flood.zone)
        )

    def _mail(self, reply: bytes) -> None:
        self._note(reply)
        self._step = self._rcpt

    def _rcpt(self, reply: bytes) -> None:
        self._note(reply)
        self._step = self._data

    def _data(self, reply: bytes) -> None:
        if reply[:1] == b"3":
            self._step = self._message
            self._transport.write(self.flood.message)
            return
        self._note(reply)
        self._again()

    def _message(self, reply: bytes) -> None:
        if reply[:1] == b"2":
            self.number = -1
            self.flood.accepted()
            self.begin()
            return
        self._note(reply)
        self._again()

    def _note(self, reply: bytes) -> None:
        if reply[:1] not in b"23":
            self._refused = self._refused or reply[:80].decode("ascii", "replace")

    def _again(self) -> None:
        self.flood.refused(self._refused)
        self.flood.give_back(self.number)
        self.number = -1
        self._step = self._reset
        self._transport.write(b"RSET\r\n")

    def _reset(self, reply: bytes) -> None:
        asyncio.get_running_loop().call_later(PAUSE_S, self.begin)

    def _leave(self, reply: bytes) -> None:
        self.flood.refused(reply[:80].decode("ascii", "replace"))
        self._transport.close()


class Flood:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.zone = plan.zone.encode("ascii")
        self.message = build_message(plan.octets)
        self.count = 0
        self.refusals: dict[str, int] = {}
        self.done = asyncio.Event()
        self.progress_at = time.monotonic()
        self._began = self.progress_at
        self._next = plan.first
        self._back: list[int] = []
        self._idle: list[Session] = []

    def take(self, session: Session) -> int:
        """The number of a message to send; -1: none now, the session will be told."""
        if self._back:
            return self._back.pop()
        if self._next >= self.plan.first + self.plan.messages:
            self._idle.append(session)
            return -1
        if self.plan.rate and self._next - self.plan.first >= (time.monotonic() - self._began) * self.plan.rate:
            self._idle.append(session)
            return -1
        self._next += 1
        return self._next - 1

    def give_back(self, number: int) -> None:
        self._back.append(number)
        self.wake()

    def wake(self) -> None:
        idle, self._idle = self._idle, []
        for session in idle:
            session.begin()

    def accepted(self) -> None:
        self.count += 1
        self.progress_at = time.monotonic()
        if self.count >= self.plan.messages:
            self.done.set()

    def refused(self, text: str) -> None:
        known = text if text in self.refusals or len(self.refusals) < REPLIES_KEPT else "others"
        self.refusals[known] = self.refusals.get(known, 0) + 1

    def lost(self) -> None:
        if not self.done.is_set():
            loop = asyncio.get_running_loop()
            loop.call_later(PAUSE_S, lambda: loop.create_task(self.connect()))

    async def connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: Session(self), "127.0.0.1", self.plan.port)
        except OSError as error:
            self.refused(f"cannot connect: {error.strerror or error}")
            self.lost()

    async def run(self) -> bool:
        """True when everything was accepted."""
        for _ in range(min(self.plan.sessions, self.plan.messages)):
            await self.connect()
        while not self.done.is_set():
            try:
                async with asyncio.timeout(PACE_S if self.plan.rate else STALL_S):
                    await self.done.wait()
            except TimeoutError:
                self.wake()
                if time.monotonic() - self.progress_at > STALL_S:
                    return False
        return True


def main(argv: list[str]) -> int:
    import uvloop

    async def send() -> int:
        flood = Flood(Plan(**json.loads(argv[0])))
        began = time.monotonic()
        whole = await flood.run()
        result = {"accepted": flood.count, "seconds": time.monotonic() - began, "refused": flood.refusals}
        print(json.dumps(result), flush=True)
        return 0 if whole else 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(send())


def flood(plan: Plan, *, limit_s: float, meanwhile: Callable[[], None] | None = None) -> dict[str, Any]:
    """Send all of it; `meanwhile` is called every second."""
    program = Program("flood", json.dumps(asdict(plan)))
    try:
        deadline = time.monotonic() + limit_s
        while program.running() and time.monotonic() < deadline:
            if meanwhile is not None:
                meanwhile()
            time.sleep(min(1.0, max(0.05, plan.messages / 10_000)))
        return program.finish(10.0)
    finally:
        program.close()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
