"""Processes of a node that hang: seen, said, killed, started again, and what goes on meanwhile does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.peers import SinkServer
from tests.support.relay import run_command, wait_until
from tests.support.submission import LOG_IN, PASSWORD, Submission, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = {"node": {"hang_timeout": "4s"}}
LATE = {"node": {"hang_timeout": "5m"}}

# Holds a process as a debugger would, until its input ends.
HOLD = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
pid, (seize, interrupt) = int(sys.argv[1]), (0x4206, 0x4207)
if libc.ptrace(seize, pid, None, None) or libc.ptrace(interrupt, pid, None, None):
    sys.exit(f"ptrace: {ctypes.get_errno()}")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def sink() -> Iterator[SinkServer]:
    with SinkServer() as server:
        yield server


def node(folder: Path, sink: SinkServer, *more: dict[str, Any], workers: int = 1) -> Submission:
    config: dict[str, Any] = {"route": [{"recipients": ["*"], "next_hop": sink.url}]}
    for one in more:
        config |= one
    config["node"] = {**config.get("node", {}), "workers": workers}
    relay = Submission(folder, config)
    local = {"name": "relay", "listen": f"127.0.0.1:{relay.smtp_port}", "role": "relay"}
    relay.config["listener"].append({**local, "relay_networks": ["127.0.0.0/8"]})
    return relay


def processes(relay: Submission) -> dict[str, int]:
    """The children by what they are; workers by their numbers, in order of their ids."""
    found: dict[str, int] = {}
    workers = 0
    for word in sorted(Path(f"/proc/{relay.pid}/task/{relay.pid}/children").read_text().split(), key=int):
        try:
            role = Path(f"/proc/{word}/cmdline").read_text().rstrip("\0").split("\0")[-1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if role == "worker":
            role, workers = f"worker {workers}", workers + 1
        found[role] = int(word)
    return found


def reasons(relay: Submission) -> list[str]:
    found: list[str] = json.loads(relay.get("/readyz")[1])["reasons"]
    return found


def log_in_and_send(relay: Submission, recipient: str) -> None:
    with relay.dialogue() as client:
        client.expect(235, f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}")
        client.send("alice@example.org", [recipient], b"Subject: x\r\n\r\nHello.\r\n")


def test_each_process_that_hangs_is_killed_and_started_again_and_mail_goes_on(tmp_path: Path, sink: SinkServer) -> None:
    with node(tmp_path, sink, SOON) as relay:
        for role in ("lookup", "access", "events", "admin"):
            before = processes(relay)
            relay.kill_process(before[role], signal.SIGSTOP)
            relay.send(f"{role}@dest.test")  # mail goes on without it
            sink.wait_mail(f"{role}@dest.test")
            hung = relay.wait_event("process_hung", process=role)
            assert hung["silent_s"] == 4.0
            assert hung["text"] == "it was stopped by a signal"
            relay.wait_event("process_ended", process=role, why="hung")
            relay.wait(lambda role=role, old=before[role]: processes(relay).get(role, old) != old, f"another {role}")
            assert f"{role} (process {before[role]}) has not answered" in relay.stderr
        relay.wait(lambda: relay.get("/readyz?format=text")[1].startswith(b"ready\n"), "all to be well")
        metrics = relay.metrics()
        for kind, count in {"lookup": 1, "access": 1, "events": 1, "admin": 1, "worker": 0, "sink": 0}.items():
            assert metrics[f'angarium_node_process_hangs_total{{kind="{kind}"}}'] == count
            assert metrics[f'angarium_node_process_deaths_total{{kind="{kind}"}}'] == count
        assert metrics["angarium_worker_starts_total"] == 1
        log_in_and_send(relay, "again@dest.test")
        sink.wait_mail("again@dest.test")


def test_a_worker_that_hangs_costs_nothing_that_was_acknowledged(tmp_path: Path, sink: SinkServer) -> None:
    with node(tmp_path, sink, SOON) as relay:
        # refused as long as it takes: what the first attempt came to may not be on disk when its worker is killed
        sink.answer = lambda step: "451 4.3.0 later" if step.verb == "RCPT" and "queued@" in step.argument else None
        queued = relay.send("queued@dest.test")
        relay.wait_event("deferral", id=queued)
        old = processes(relay)["worker 0"]
        relay.kill_process(old, signal.SIGSTOP)
        # who comes meanwhile waits in the socket, and is served by the successor
        relay.send("meanwhile@dest.test")
        sink.wait_mail("meanwhile@dest.test")
        relay.wait_event("process_hung", process="worker 0")  # the successor has written it down
        relay.wait_event("process_ended", process="worker 0", why="hung")
        assert [message["id"] for message in relay.queued()] == [queued]
        assert relay.metrics()['angarium_node_process_hangs_total{kind="worker"}'] == 1
        assert processes(relay)["worker 0"] != old
        sink.answer = None
        run_command("queue", "retry", queued, "--config", str(relay.config_file))
        assert sink.wait_mail("queued@dest.test")


def test_what_hangs_is_said_long_before_it_is_killed(tmp_path: Path, sink: SinkServer) -> None:
    """And nobody who asks waits for it; a process that goes on again is well again."""
    with node(tmp_path, sink, LATE, workers=2) as relay:
        before = processes(relay)
        for role, status in (("access", 200), ("worker 0", 200), ("worker 1", 503)):
            relay.kill_process(before[role], signal.SIGSTOP)
            relay.wait(
                lambda role=role: any(reason.startswith(f"{role}: has not answered for") for reason in reasons(relay)),
                f"{role} to be named",
            )
            assert relay.get("/readyz")[0] == status
            assert relay.get(f"/readyz?check={role.replace(' ', '-')}")[0] == 503
        up = {name: value for name, value in relay.metrics().items() if name.startswith("angarium_process_up")}
        assert sum(up.values()) == 4  # supervisor, lookup, events, admin
        assert relay.get("/healthz")[0] == 200
        for role in ("access", "worker 0", "worker 1"):
            relay.kill_process(before[role], signal.SIGCONT)
        relay.wait(lambda: reasons(relay) == [], "all to be well again")
        assert processes(relay) == before
        # the supervisor itself: mail goes on
        os.kill(relay.pid, signal.SIGSTOP)
        try:
            relay.wait(
                lambda: any(reason.startswith("supervisor: has not answered") for reason in reasons(relay)),
                "the supervisor to be named",
            )
            assert relay.get("/readyz")[0] == 200
            relay.send("without@dest.test")
            sink.wait_mail("without@dest.test")
        finally:
            os.kill(relay.pid, signal.SIGCONT)
        relay.wait(lambda: reasons(relay) == [], "all to be well again")


def test_nobody_is_killed_because_everything_stood_still(tmp_path: Path, sink: SinkServer) -> None:
    """A machine that was paused; here the supervisor is the first to go on, and finds nobody who has beaten."""
    with node(tmp_path, sink, SOON) as relay:
        before = processes(relay)
        everybody = [relay.pid, *before.values()]
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            wait_until(lambda: time.monotonic() > stopped + 9.0, "more than the timeout to pass")
        finally:
            for pid in everybody:
                os.kill(pid, signal.SIGCONT)
        relay.send("after@dest.test")
        sink.wait_mail("after@dest.test")
        relay.wait(lambda: reasons(relay) == [], "all to be well")
        assert processes(relay) == before
        assert relay.metrics()['angarium_node_process_hangs_total{kind="worker"}'] == 0
        assert not relay.events("process_hung")


def test_a_supervisor_that_dies_takes_along_even_what_hangs(tmp_path: Path, sink: SinkServer) -> None:
    """So its successor finds ports and spool free."""
    with node(tmp_path, sink, LATE, workers=2) as relay:
        before = processes(relay)
        for role in ("worker 0", "access"):
            relay.kill_process(before[role], signal.SIGSTOP)
        os.kill(relay.pid, signal.SIGKILL)
        assert relay.wait_ended() == -signal.SIGKILL  # and nothing of its group is left
        relay.start()
        relay.send("next@dest.test")
        sink.wait_mail("next@dest.test")


def test_what_a_debugger_holds_is_let_alone(tmp_path: Path, sink: SinkServer) -> None:
    with node(tmp_path, sink, SOON) as relay:
        before = processes(relay)
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(before["lookup"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as debugger:
            assert debugger.stdin is not None
            assert debugger.stdout is not None
            if debugger.stdout.readline() != "held\n":
                pytest.skip("ptrace is not allowed here")
            hung = relay.wait_event("process_hung", process="lookup")
            assert hung["text"] == "a debugger holds it"
            relay.wait(lambda: "it is let alone" in relay.stderr, "that to be said")
            debugger.stdin.close()
        relay.wait(lambda: reasons(relay) == [], "all to be well again")
        assert processes(relay) == before
        assert not relay.events("process_ended")


def test_a_process_says_where_it_is_before_it_is_killed_and_a_reload_ends_the_watch(
    tmp_path: Path, sink: SinkServer
) -> None:
    with node(tmp_path, sink, SOON) as relay:
        worker = processes(relay)["worker 0"]
        relay.kill_process(worker, signal.SIGUSR2)
        relay.wait(lambda: "most recent call first" in relay.stderr, "the threads of the worker")
        assert "worker.py" in relay.stderr or "process.py" in relay.stderr
        assert relay.reload({"node": {"hang_timeout": "0s"}})["changed"] == ["node.hang_timeout"]
        lookup = processes(relay)["lookup"]
        relay.kill_process(lookup, signal.SIGSTOP)
        relay.wait(lambda: any(reason.startswith("lookup: has not") for reason in reasons(relay)), "it to be named")
        assert processes(relay)["lookup"] == lookup
        relay.reload({"node": {"hang_timeout": "4s"}})
        relay.wait_event("process_ended", process="lookup", why="hung")
        assert processes(relay)["worker 0"] == worker
