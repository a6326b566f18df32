"""One lookup process for the node: a query a name, mail while it is killed, networks left alone."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from angarium.delivery.lookup_client import AWAY_S
from tests.support.dns import NameServer, NameServerThread
from tests.support.peers import SinkServer
from tests.support.ports import is_free
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = "127.0.0.2"
DOMAINS = 12
ZONE = "\n".join(f"d{number} 600 IN MX 10 mx" for number in range(DOMAINS))
ZONE += f"\nmx 600 IN A {FIRST}\nprivate 600 IN MX 10 inside\ninside 600 IN A 10.1.2.3\nbrief 1 IN MX 10 mx\n"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not is_free(FIRST, 25), reason="a mail host listens on port 25 of 127.0.0.2: needs root"
)


def config(names: NameServer, delivery: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "node": {"workers": 2},
        "dns": {"servers": [f"127.0.0.1:{names.port}"]},
        "delivery": {"never_contact": []} if delivery is None else delivery,
        "route": [{"recipients": ["origin.test"], "next_hop": "discard:"}],
    }


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServerThread({"dest.test": ZONE}) as server:
        yield server


@pytest.fixture
def host() -> Iterator[SinkServer]:
    with SinkServer(host=FIRST, port=25) as server:
        yield server


def lookup_pid(relay: Relay) -> int | None:
    said = relay.api("status")["lookup"]["status"]
    return None if said is None else said["pid"]


def test_a_name_costs_one_query_whichever_worker_wants_it(tmp_path: Path, names: NameServer, host: SinkServer) -> None:
    with Relay(tmp_path, config(names)) as relay:
        recipients = [f"a@d{number}.dest.test" for number in range(DOMAINS)]
        for _ in range(8):  # a connection each: the kernel deals them out among the workers
            for recipient in recipients:
                relay.send(recipient)
        for recipient in recipients:
            host.wait_mail(recipient, 8)
        asked = Counter(query[:2] for query in names.queries)
        assert all(asked[f"d{number}.dest.test", "MX"] == 1 for number in range(DOMAINS))
        assert asked["mx.dest.test", "A"] == 1
        assert set(asked.values()) == {1}
        relay.wait(
            lambda: relay.metrics()["angarium_delivery_dns_queries_total"] == len(names.queries), "the queries' count"
        )


def test_mail_goes_on_when_the_lookup_process_is_killed(tmp_path: Path, names: NameServer, host: SinkServer) -> None:
    with Relay(tmp_path, config(names)) as relay:
        relay.send("a@d0.dest.test")
        host.wait_mail("a@d0.dest.test")
        old = lookup_pid(relay)
        assert old is not None
        killed = time.monotonic()
        relay.kill_process(old)
        relay.send("b@d0.dest.test")
        host.wait_mail("b@d0.dest.test")
        relay.send("a@d1.dest.test")  # waits in the socket for the successor
        host.wait_mail("a@d1.dest.test")
        if time.monotonic() - killed < AWAY_S:  # so long it is waited for; a machine that is busy may need longer
            assert relay.events("deferral") == []
        relay.wait(lambda: lookup_pid(relay) not in {None, old}, "the successor to answer")


def test_a_lookup_process_that_hangs_costs_a_deferral(tmp_path: Path, names: NameServer, host: SinkServer) -> None:
    with Relay(tmp_path, config(names)) as relay:
        pid = lookup_pid(relay)
        assert pid is not None
        relay.kill_process(pid, signal.SIGSTOP)
        queue_id = relay.send("a@d2.dest.test")
        deferral = relay.wait_event("deferral", id=queue_id)
        assert (deferral["reply"]["code"], deferral["reply"]["enhanced"]) == (451, "4.4.3")
        assert relay.get("/readyz")[0] == 200
        relay.kill_process(pid, signal.SIGCONT)
        host.wait_mail("a@d2.dest.test")


def test_a_tail_of_new_names_waits_and_known_ones_do_not(tmp_path: Path, host: SinkServer) -> None:
    """Names that no server answers for, then all of them are answered."""
    tail = 300
    zone = "\n".join(f"t{number} 600 IN MX 10 mx.dest.test." for number in range(tail))
    thread = NameServerThread({"dest.test": ZONE, "tail.test": zone})
    with thread as names, Relay(tmp_path, config(names) | {"node": {"workers": 1}}) as relay:
        relay.send("a@d0.dest.test")
        host.wait_mail("a@d0.dest.test")
        thread.call(lambda: names.hold(below="tail.test"))
        with relay.client() as client:
            client.ehlo()
            for number in range(tail):
                client.send("me@origin.test", [f"a@t{number}.tail.test"], b"Subject: tail\r\n\r\n")
        for number in range(5):
            relay.send(f"b{number}@d0.dest.test")
            host.wait_mail(f"b{number}@d0.dest.test")
        assert not any(mail.recipients[0].endswith("tail.test") for mail in host.mails)
        thread.call(names.release)
        relay.wait_empty(90.0)
        arrived = Counter(mail.recipients[0] for mail in host.mails)
        assert all(arrived[f"a@t{number}.tail.test"] == 1 for number in range(tail))


def test_a_reload_replaces_it(tmp_path: Path, names: NameServer, host: SinkServer) -> None:
    with Relay(tmp_path, config(names)) as relay:
        old = lookup_pid(relay)
        relay.send("a@d3.dest.test")
        host.wait_mail("a@d3.dest.test")
        relay.reload({"delivery": {"never_contact": ["127.0.0.0/8"]}})
        relay.wait(lambda: lookup_pid(relay) not in {None, old}, "the successor to answer")
        queue_id = relay.send("b@d3.dest.test")
        assert relay.wait_event("bounce", id=queue_id)["reply"]["enhanced"] == "5.4.4"


def test_private_addresses_are_left_alone_by_default(tmp_path: Path, names: NameServer) -> None:
    with Relay(tmp_path, config(names, {})) as relay:
        for domain, address in (("private.dest.test", "10.1.2.3"), ("d4.dest.test", FIRST)):
            queue_id = relay.send(f"a@{domain}")
            reply = relay.wait_event("bounce", id=queue_id)["reply"]
            assert (reply["code"], reply["enhanced"]) == (550, "5.4.4")
            assert address in reply["text"]
        queue_id = relay.send("a@[192.168.7.7]")
        assert relay.wait_event("bounce", id=queue_id)["reply"]["enhanced"] == "5.4.4"
