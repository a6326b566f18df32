"""The disk of the whole relay fills up, refuses every write, or does not answer: intake says so, delivery goes on, all
of it clears without a restart.

The full disk is a tmpfs of some megabytes, mounted here and unmounted after. A disk that refuses writes is made
with RLIMIT_FSIZE of the running worker (prlimit): from one moment to the next every write to a file fails, as
after a read-only remount, which the kernel itself refuses while files are open for writing. One that does not answer
is a small file system of its own under fsfreeze(8).
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.faults.node import TRACEBACK
from tests.support.load import HopThread
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.clients import Dialogue

pytestmark = pytest.mark.faults

CONTENT = b"X-Token: %s\r\nSubject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * 600
PATIENCE_S = 60.0  # the journal is tried again every five seconds


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "angarium-test", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode(errors='replace').strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def next_hop() -> Iterator[HopThread]:
    with HopThread() as next_hop:
        yield next_hop


def configured(next_hop: HopThread, spool: Path | None = None) -> dict[str, object]:
    config: dict[str, object] = {
        "queue": {"segment_size": "1MiB", "shards": 1},
        "delivery": {"tls": "none"},
        "route": [{"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{next_hop.hop.port}"}],
    }
    return config | ({"node": {"spool": str(spool), "workers": 1}} if spool else {})


def fill(path: Path) -> None:
    """Write until there is no room, whoever else writes."""

    def pour() -> None:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    with pytest.raises(OSError, match="No space left"):
        pour()


class Sender:
    """Sends until refused; knows what was acknowledged."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.acknowledged: dict[str, str] = {}
        self._count = 0

    def one(self, client: Dialogue) -> tuple[int, str]:
        """A transaction: (reply code, text) of the command that failed, or of the end of the data."""
        self._count += 1
        token = f"d{self._count}"
        for line in ("MAIL FROM:<a@client.test>", "RCPT TO:<b@next.test>", "DATA"):
            code, lines = client.command(line)
            if code >= 400:
                assert line.startswith("MAIL"), f"{line}: {code} {lines}"
                return code, f"MAIL {lines[0]}"
        client.write(CONTENT % token.encode() + b".\r\n")
        code, lines = client.read()
        if code == 250:
            self.acknowledged[token] = lines[0].split()[3]
        return code, lines[0]

    def until_refused(self, most: int = 2000) -> list[tuple[int, str]]:
        """Send until MAIL is refused; all refusals. Refusals may come at the end of the data first."""
        refusals = []
        with self.relay.client() as client:
            client.ehlo()
            for _ in range(most):
                answer = self.one(client)
                if answer[0] != 250:
                    refusals.append(answer)
                if answer[1].startswith("MAIL "):
                    return refusals
        raise AssertionError(f"{most} messages and MAIL was not refused; refusals: {refusals[:5]}")

    def accepted_again(self) -> bool:
        with self.relay.client() as client:
            client.ehlo()
            return self.one(client)[0] == 250


def test_a_full_disk(small_disk: Path, next_hop: HopThread) -> None:
    """Full of the relay's own mail: delivery alone makes room again."""
    next_hop.hop.mute = True  # what is accepted stays queued
    with Relay(small_disk.parent / "relay", configured(next_hop, small_disk / "spool")) as relay:
        sender = Sender(relay)
        with relay.client() as client:
            client.ehlo()
            for _ in range(20):
                assert sender.one(client)[0] == 250
        refusals = sender.until_refused()
        assert {code for code, _ in refusals} == {452}, refusals
        assert all("4.3.1" in text for _, text in refusals), refusals
        assert refusals[-1][1].startswith("MAIL 4.3.1"), refusals
        assert len(sender.acknowledged) > 100
        assert relay.metrics()["angarium_queue_full_shards"] == 1
        relay.wait(lambda: b"worker 0: takes no mail: the disk is full" in relay.get("/readyz")[1], "that to be said")
        # delivery goes on
        next_hop.unmute()
        relay.wait(
            lambda: sender.acknowledged.keys() <= next_hop.ledger.arrivals.keys(), "everything to arrive", PATIENCE_S
        )
        assert not next_hop.ledger.twice
        relay.wait(sender.accepted_again, "mail to be taken again", PATIENCE_S)
        relay.wait_empty(PATIENCE_S)
        assert sender.acknowledged.keys() <= next_hop.ledger.arrivals.keys()
        metrics = relay.metrics()
        assert metrics["angarium_queue_full_shards"] == 0
        assert metrics['angarium_queue_shard_changes_total{state="healed"}'] >= 1
        assert relay.get("/readyz")[0] == 200
        assert not TRACEBACK.search(relay.stderr), relay.stderr[-4000:]


def test_somebody_else_fills_the_disk_and_makes_room_again(small_disk: Path, next_hop: HopThread) -> None:
    next_hop.hop.mute = True
    with Relay(small_disk.parent / "relay", configured(next_hop, small_disk / "spool")) as relay:
        sender = Sender(relay)
        assert sender.accepted_again()
        ballast = small_disk / "ballast"
        fill(ballast)
        refusals = sender.until_refused()
        assert {code for code, _ in refusals} == {452}, refusals
        before = set(sender.acknowledged)
        relay.kill()  # and a crash meanwhile
        relay.launch()
        ballast.unlink()
        relay.wait_ready()
        relay.wait(sender.accepted_again, "mail to be taken again", PATIENCE_S)
        next_hop.unmute()
        relay.wait_empty(PATIENCE_S)
        assert before < sender.acknowledged.keys() <= next_hop.ledger.arrivals.keys()
        assert not TRACEBACK.search(relay.stderr), relay.stderr[-4000:]


def test_a_disk_that_refuses_every_write(tmp_path: Path, next_hop: HopThread) -> None:
    next_hop.hop.mute = True
    with Relay(tmp_path, configured(next_hop)) as relay:
        sender = Sender(relay)
        with relay.client() as client:
            client.ehlo()
            for _ in range(20):
                assert sender.one(client)[0] == 250
        (worker,) = relay.worker_pids()
        allowed = resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        try:
            refusals = sender.until_refused()
            assert {code for code, _ in refusals} <= {451, 452}, refusals
            assert refusals[-1][1].startswith("MAIL 4.3."), refusals
            relay.wait(lambda: relay.metrics()["angarium_queue_failed_shards"] == 1, "the shard to be fenced")
            next_hop.unmute()
            relay.wait(
                lambda: sender.acknowledged.keys() <= next_hop.ledger.arrivals.keys(), "delivery to go on", PATIENCE_S
            )
            status, body = relay.get("/readyz")
            assert status == 503
            assert b"worker 0: takes no mail: a write to the disk failed" in body
        finally:
            resource.prlimit(worker, resource.RLIMIT_FSIZE, allowed)
        relay.wait(sender.accepted_again, "mail to be taken again", PATIENCE_S)
        relay.wait_empty()
        metrics = relay.metrics()
        assert metrics["angarium_queue_failed_shards"] == 0
        assert metrics['angarium_queue_shard_changes_total{state="fenced"}'] >= 1
        assert metrics['angarium_queue_shard_changes_total{state="healed"}'] >= 1
        assert relay.get("/readyz")[0] == 200
        assert relay.worker_pids() == [worker], "the worker was restarted"
        assert "takes mail again" in relay.stderr
        relay.kill()  # what was delivered while nothing could be written is known to be delivered
        relay.start()
        relay.wait_empty()
        assert sender.acknowledged.keys() <= next_hop.ledger.arrivals.keys()
        doubtful = {event["id"] for event in relay.events("in_doubt")}
        twice = next_hop.ledger.twice
        assert all(ids[0] in doubtful for ids in twice.values()), twice
        assert not TRACEBACK.search(relay.stderr), relay.stderr[-4000:]


@pytest.fixture
def freezable(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that fsfreeze(8) may stop."""
    folder, image = tmp_path / "frozen", tmp_path / "image"
    folder.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 48 << 20)
    for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(folder)]):
        program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        done = subprocess.run([program or "false", *command[1:]], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be made and mounted here: {command[0]}: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_disk_that_does_not_answer_is_said_and_the_node_takes_no_more(tmp_path: Path, freezable: Path) -> None:
    """No write fails and no loop stands still: a client waits for its 250, and the next ones are to go elsewhere."""
    if shutil.which("fsfreeze") is None:
        pytest.skip("fsfreeze is not installed")
    config = {
        "node": {"spool": str(freezable / "spool"), "workers": 1},
        "queue": {"segment_size": "1MiB", "shards": 1},
        "route": [{"recipients": ["*"], "next_hop": "discard:"}],
    }
    with Relay(tmp_path / "relay", config) as relay, relay.client() as client:
        client.ehlo()
        client.envelope("a@client.test", ["b@next.test"])
        client.expect(354, "DATA")
        # it thaws by itself, whatever becomes of this test
        freeze = 'fsfreeze --freeze "$1" && echo frozen && { read -t 120 line; fsfreeze --unfreeze "$1"; }'
        with subprocess.Popen(
            ["bash", "-c", freeze, "bash", str(freezable)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as frozen:
            assert frozen.stdin is not None
            assert frozen.stdout is not None
            if frozen.stdout.readline() != b"frozen\n":
                pytest.skip("fsfreeze is not allowed here")
            client.write(CONTENT % b"frozen" + b".\r\n")
            says = b"worker 0: takes no mail: the disk does not answer"
            relay.wait(lambda: says in relay.get("/readyz")[1], "that to be said")
            assert relay.get("/readyz")[0] == 503
            assert "the disk has not answered for 5 s" in relay.stderr
            assert relay.get("/healthz")[0] == 200
            frozen.stdin.close()
        client.queued()  # as soon as it answers
        relay.wait(lambda: relay.get("/readyz")[0] == 200, "the node to be ready")
        relay.wait(lambda: "the disk answers again" in relay.stderr, "that to be said")
        relay.wait_event("delivery", recipient="b@next.test")
        assert not relay.events("process_hung")
