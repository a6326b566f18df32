"""Octets change under a stopped relay: each damaged record costs one message, which is named, counted and kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.faults.node import TRACEBACK
from tests.support.load import HopThread
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.faults

BODY = (b"x" * 70 + b"\r\n") * 600


@pytest.fixture
def next_hop() -> Iterator[HopThread]:
    with HopThread() as next_hop:
        yield next_hop


def configured(next_hop: HopThread) -> dict[str, object]:
    return {
        "queue": {"segment_size": "1MiB", "shards": 1},
        "delivery": {"tls": "none"},
        "route": [{"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{next_hop.hop.port}"}],
    }


def content(token: str) -> bytes:
    return f"X-Token: {token}\r\nSubject: x\r\n\r\n".encode() + BODY


def send(relay: Relay, count: int) -> dict[str, str]:
    """Queue ids by token."""
    ids = {}
    with relay.client() as client:
        client.ehlo()
        for number in range(count):
            for line in ("MAIL FROM:<a@client.test>", "RCPT TO:<b@next.test>", "DATA"):
                code, lines = client.command(line)
                assert code < 400, lines
            client.write(content(f"d{number}") + b".\r\n")
            code, lines = client.read()
            assert code == 250, lines
            ids[f"d{number}"] = lines[0].split()[3]
    return ids


def spoil(spool: Path, token: str) -> None:
    """One octet of the mail data of a message changes."""
    for path in sorted(spool.glob("shards/*/*.segment")):
        octets = bytearray(path.read_bytes())
        at = octets.find(content(token)[:40])
        if at >= 0:
            octets[at + 1000] ^= 1
            path.write_bytes(octets)
            return
    raise AssertionError(f"no message {token} in {spool}")


@pytest.mark.parametrize(("count", "victim", "found"), [(10, "d4", "start"), (100, "d4", "read")])
def test_a_damaged_record_costs_one_message(
    tmp_path: Path, next_hop: HopThread, count: int, victim: str, found: str
) -> None:
    """Of the youngest segments the mail data is verified at the start; of older ones when it is to be sent."""
    next_hop.hop.mute = True
    with Relay(tmp_path, configured(next_hop)) as relay:
        ids = send(relay, count)
        relay.kill()
        spool = tmp_path / "spool"
        spoil(spool, victim)
        relay.start()
        next_hop.unmute()
        relay.wait_empty(30)
        assert ids.keys() - next_hop.ledger.arrivals.keys() == {victim}
        event = relay.wait_event("damaged")
        assert len(relay.events("damaged")) == 1
        assert event["id"] == ids[victim]
        assert event["kept"] == str(spool / "damaged" / f"{ids[victim]}.record")
        kept = (spool / "damaged" / f"{ids[victim]}.record").read_bytes()
        assert content(victim)[:900] in kept
        about = json.loads((spool / "damaged" / f"{ids[victim]}.json").read_text())
        assert (about["id"], about["octets"]) == (ids[victim], len(kept))
        metrics = relay.metrics()
        assert metrics[f'angarium_queue_damaged_records_total{{found="{found}"}}'] == 1
        relay.wait(
            lambda: relay.metrics()['angarium_queue_ledger_dropped_recipients_total{reason="damaged"}'] == 1,
            "the ledger to know",
        )
        assert relay.metrics()["angarium_queue_ledger_drift_recipients"] == 0
        assert ids[victim] in relay.stderr
        assert not TRACEBACK.search(relay.stderr), relay.stderr[-4000:]
        # said once, and not tried again
        relay.kill()
        relay.start()
        relay.wait_empty(30)
        assert len(relay.events("damaged")) == 1
        assert ids.keys() - next_hop.ledger.arrivals.keys() == {victim}
