"""python -m bench.idle_tls run | report

What an idle session costs in memory: a relay of its own (`angarium serve`, one worker, default settings) is given so
many sessions that say EHLO and then nothing, in plaintext, over STARTTLS, and over TLS from the first octet; the
difference of the worker's PSS before and after, by session. A second figure is taken when every one of them has handed
in a message of 10 KB and is idle again: what has been used stays with a session, or it does not.

The clients run in this process and are not counted. Sessions before the first look have warmed the worker up, so that
what is needed once is not taken for what is needed each time. The kernel's own memory for a connection (its buffers are
empty) is in no process, and is not counted.

Run from the top of a checkout; any user, loopback only. The result is JSON; `report` turns one into Markdown. Exits 0
when the goal is reached, 1 when it is not, 2 on wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import re
import resource
import ssl
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.certificates import self_signed
from tests.support.clients import Dialogue
from tests.support.ports import free_port
from tests.support.relay import Relay

from .load.machine import first_match, git

if TYPE_CHECKING:
    from collections.abc import Iterator

GOAL_OCTETS = 40 << 10  # of a session over TLS
RESULTS = Path(__file__).parent / "results"
WAYS = ("plaintext", "starttls", "implicit")
WARM_UP = 50  # sessions that come and go before the first look
MESSAGE = b"Subject: idle\r\n\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 140
SETTLE_S = 3.0  # the worker's ticks, and what it gives back to the kernel
OPEN = "angarium_ingress_open_connections"


def pss_of(pid: int) -> int:
    """Octets of memory of a process, what it shares in proportion."""
    found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024


class Stand:
    """One relay, and sessions to it."""

    def __init__(self, folder: Path, sessions: int) -> None:
        certificate, key = self_signed("relay.test").write(folder, "node")
        self.ports = {way: free_port() for way in WAYS}
        common = {"role": "relay", "relay_networks": ["127.0.0.0/8"]}
        tls = {"plaintext": "none", "starttls": "starttls", "implicit": "implicit"}
        self.relay = Relay(
            folder / "relay",
            {
                "tls": {"certificate": certificate, "key": key},
                "limits": {"connections_per_client": sessions + 1000, "idle_timeout": "1h"},
                "listener": [
                    {"name": way, "listen": f"127.0.0.1:{port}", "tls": tls[way], **common}
                    for way, port in self.ports.items()
                ],
                "route": [{"recipients": ["*"], "next_hop": "discard:"}],
            },
        )

    def session(self, way: str) -> Dialogue:
        """A session that has said EHLO."""
        dialogue = Dialogue("127.0.0.1", self.ports[way], greet=way != "implicit")
        if way == "implicit":
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            dialogue.take_over(context.wrap_socket(dialogue.socket))
            dialogue.read()
        elif way == "starttls":
            dialogue.ehlo()
            dialogue.start_tls()
        dialogue.ehlo()
        return dialogue

    @contextlib.contextmanager
    def sessions(self, way: str, number: int) -> Iterator[list[Dialogue]]:
        """So many, all of them open at once."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.session(way)) for _ in range(number)]

    def look(self, connections: int) -> int:
        """The worker's memory once it has so many connections and has settled."""
        self.relay.wait(lambda: self.relay.metrics()[OPEN] == connections, f"{connections} connections", 60)
        time.sleep(SETTLE_S)
        (pid,) = self.relay.worker_pids()
        return pss_of(pid)


def measure(way: str, sessions: int, *, use: bool = True) -> dict[str, Any]:
    """One way in, with a relay that has done nothing else. `use`: what they cost after a message, too."""
    with tempfile.TemporaryDirectory(prefix="angarium-idle-") as folder:
        stand = Stand(Path(folder), sessions)
        with stand.relay:
            with stand.sessions(way, WARM_UP) as warming:
                for session in warming:
                    session.send("a@client.test", ["b@example.com"], MESSAGE)
            before = stand.look(0)
            with stand.sessions(way, sessions) as idle:
                after = stand.look(sessions)
                used = after
                if use:
                    for session in idle:
                        session.send("a@client.test", ["b@example.com"], MESSAGE)
                    used = stand.look(sessions)
            left = stand.look(0) if use else before
    return {
        "way": way,
        "sessions": sessions,
        "before_octets": before,
        "after_octets": after,
        "used_octets": used,
        "left_octets": left,
        "session_octets": round((after - before) / sessions),
        "used_session_octets": round((used - before) / sessions),
    }


def describe() -> dict[str, Any]:
    return {
        "cpu": first_match("/proc/cpuinfo", r"^model name\s*:(.*)$") or platform.processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "uvloop": version("uvloop"),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
    }


def report(result: dict[str, Any]) -> str:
    """A result in Markdown."""
    machine = result["machine"]
    reached = "reached" if result["reached"] else "missed"
    lines = [
        "# Idle sessions",
        "",
        f"Goal: an idle session over TLS costs at most {GOAL_OCTETS >> 10} KiB of a worker's memory (PSS): {reached}.",
        "",
        "| way in | sessions | a session | after a message of 10 KB | worker before | with them | after them |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {run['way']} | {run['sessions']:,} | {run['session_octets'] / 1024:.1f} KiB "
        f"| {run['used_session_octets'] / 1024:.1f} KiB | {run['before_octets'] / 1e6:.1f} MB "
        f"| {run['after_octets'] / 1e6:.1f} MB | {run['left_octets'] / 1e6:.1f} MB |"
        for run in result["runs"]
    ]
    lines += [
        "",
        f"{machine['cpu']}, Linux {machine['kernel']}, CPython {machine['python']}, {machine['openssl']}, "
        f"uvloop {machine['uvloop']}; commit {str(machine['commit'])[:12]}. {result['time']}.",
        "",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.idle_tls", description=__doc__)
    parts = parser.add_subparsers(dest="command", required=True)
    running = parts.add_parser("run", help="measure, and write the result")
    running.add_argument("--sessions", type=int, default=1000)
    running.add_argument("--result", type=Path, help="where to write it, without the ending")
    parts.add_parser("report", help="a result in Markdown").add_argument("file", type=Path)
    options = parser.parse_args(argv)
    if options.command == "report":
        print(report(json.loads(options.file.read_text())))
        return 0
    wanted = 2 * options.sessions + 200
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < wanted:
        parser.error(f"{options.sessions} sessions need {wanted} descriptors, and {most} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else most, most))
    runs = [measure(way, options.sessions) for way in WAYS]
    reached = all(run["session_octets"] <= GOAL_OCTETS for run in runs)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    result = {"machine": describe(), "time": stamp, "goal_octets": GOAL_OCTETS, "reached": reached, "runs": runs}
    name = options.result or RESULTS / f"idle-tls-{stamp}"
    name.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    name.with_suffix(".md").write_text(report(result))
    print(report(result))
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
