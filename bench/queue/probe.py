"""Two clients that feel what other clients of a loaded relay feel.

    python -m bench.queue.probe noop '{"port": 2525}'
    python -m bench.queue.probe stream '{"port": 2525, "sink_port": 2529, "rate": 50, "seconds": 20}'

`noop` keeps connections open (several, so that every worker has some), sends NOOP on one after the other and keeps the
times until the replies, until its standard input ends; with the first reply it says that it has begun. A worker's loop
that stands still for a while shows as a reply as late. `own_longest_ms` is how late its own sleep ended at worst: what
the machine, not the relay, made it wait.

`stream` sends mail at an even rate over kept connections and is its next hop too: the latency of a message is from the
moment at which it was due to be sent to the end of its mail data at the next hop. A message that has not come
`PATIENCE_S` after the last was sent is missing.

The last line of both is JSON; durations are milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import socket
import sys
import time
from typing import Any

PATIENCE_S = 60.0
PRIORITY = -20
TOKEN = re.compile(rb"^X-Probe: (\d+)\r$", re.MULTILINE)


def percentiles(values: list[float]) -> dict[str, float]:
    """Of durations in seconds, in milliseconds."""
    if not values:
        return {"count": 0}
    ranked = sorted(values)
    found: dict[str, float] = {"count": len(ranked)}
    for name, share in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p999_ms", 0.999)):
        found[name] = round(ranked[min(len(ranked) - 1, int(share * len(ranked)))] * 1e3, 3)
    found["longest_ms"] = round(ranked[-1] * 1e3, 3)
    return found


def noop(port: int, connections: int = 8, every_s: float = 0.005) -> dict[str, Any]:
    """Until standard input ends."""
    opened = []
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(512)
        opened.append(connection)
    times: list[float] = []
    own = 0.0
    turn = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        connection = opened[turn % connections]
        turn += 1
        began = time.perf_counter()
        connection.sendall(b"NOOP\r\n")
        reply = connection.recv(512)
        times.append(time.perf_counter() - began)
        if not reply.startswith(b"250"):
            raise SystemExit(f"NOOP was answered {reply[:80]!r}")
        if turn == 1:
            print("begun", flush=True)
        wanted = time.perf_counter() + every_s
        time.sleep(every_s)
        own = max(own, time.perf_counter() - wanted)
    return {**percentiles(times), "own_longest_ms": round(own * 1e3, 3)}


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    while (line := await reader.readline())[3:4] == b"-":
        pass
    return line


class Stream:
    def __init__(self, port: int, sink_port: int, rate: float, seconds: float, domain: str, octets: int) -> None:
        self.port = port
        self.sink_port = sink_port
        self.every_s = 1 / rate
        self.messages = max(1, round(rate * seconds))
        self.domain = domain
        self.body = (b"x" * 70 + b"\r\n") * max(1, octets // 72)
        self.sent: dict[int, float] = {}
        self.accepted: list[float] = []
        self.latency: dict[int, float] = {}
        self.all_there = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the next hop: commands one after the other, mail data by DATA."""
        writer.write(b"220 probe.bench.test ESMTP\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                writer.write(b"250-probe.bench.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                content = await reader.readuntil(b"\r\n.\r\n")
                self.arrived(content)
                writer.write(b"250 2.0.0 kept\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                break
            else:
                writer.write(b"250 2.0.0 OK\r\n")
        writer.close()

    def arrived(self, content: bytes) -> None:
        token = TOKEN.search(content)
        if token is None or int(token[1]) in self.latency:
            return
        number = int(token[1])
        self.latency[number] = time.perf_counter() - self.sent[number]
        if len(self.latency) == self.messages:
            self.all_there.set()

    async def send(self, numbers: range, start: float) -> None:
        """One connection to the relay, every message at its time."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        await read_reply(reader)
        writer.write(b"EHLO probe.bench.test\r\n")
        await read_reply(reader)
        for number in numbers:
            due = self.sent[number] = start + number * self.every_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writer.write(b"MAIL FROM:<probe@src.example>\r\nRCPT TO:<probe@%s>\r\nDATA\r\n" % self.domain.encode())
            for code in (b"250", b"250", b"354"):
                reply = await read_reply(reader)
                if not reply.startswith(code):
                    raise SystemExit(f"message {number} was answered {reply!r}")
            writer.write(b"X-Probe: %d\r\nSubject: probe\r\n\r\n%s.\r\n" % (number, self.body))
            reply = await read_reply(reader)
            if not reply.startswith(b"250"):
                raise SystemExit(f"message {number} was answered {reply!r}")
            self.accepted.append(time.perf_counter() - due)
        writer.write(b"QUIT\r\n")
        writer.close()

    async def run(self, connections: int) -> dict[str, Any]:
        server = await asyncio.start_server(self.take, "127.0.0.1", self.sink_port, limit=1 << 22)
        start = time.perf_counter()
        await asyncio.gather(
            *(self.send(range(first, self.messages, connections), start) for first in range(connections))
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self.all_there.wait()
        server.close()
        return {
            "sent": len(self.sent),
            "missing": self.messages - len(self.latency),
            "accept": percentiles(self.accepted),
            "delivery": percentiles(list(self.latency.values())),
        }


def stream(
    port: int,
    sink_port: int,
    rate: float = 50.0,
    seconds: float = 20.0,
    domain: str = "probe.example",
    octets: int = 1024,
    connections: int = 8,
) -> dict[str, Any]:
    async def measure() -> dict[str, Any]:
        return await Stream(port, sink_port, rate, seconds, domain, octets).run(connections)

    return asyncio.run(measure())


def main(argv: list[str]) -> int:
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    work = {"noop": noop, "stream": stream}[argv[0]]
    print(json.dumps(work(**json.loads(argv[1]))), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
