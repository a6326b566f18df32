"""Source pools as next hops and operators see them: by which address mail leaves, and what happens when it cannot."""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.peers import SinkServer
from tests.support.ports import free_port
from tests.support.relay import Relay, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LATER = "451 4.2.1 Later"


def source(number: int, **more: object) -> dict[str, object]:
    """127.0.0.NUMBER, which every Linux machine has."""
    return {"name": f"s{number}", "ipv4": f"127.0.0.{number}", **more}


def missing(number: int) -> dict[str, object]:
    """An address of TEST-NET-1, which no machine has."""
    return {"name": f"m{number}", "ipv4": f"198.51.100.{number}"}


def pool(name: str, *members: object) -> dict[str, object]:
    return {"name": name, "members": list(members)}


def left_by(sink: SinkServer, recipient: str) -> str:
    return sink.wait_mail(recipient).client


# ------------------------------------------------------------------ whose pool, and which source


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, SinkServer, int]]:
    """A relay where a permission, a tenant and a route each have a pool."""
    folder = tmp_path_factory.mktemp("whose")
    shop = free_port()
    with SinkServer() as sink:
        relay = Relay(folder)
        config: dict[str, Any] = {
            "source": [
                source(2),
                source(3, hostname="three.relay.test"),
                source(4),
                source(5, hostname="five.relay.test"),
            ],
            "source_pool": [
                pool("route", "s2"),
                pool("tenant", "s3"),
                pool("person", "s4"),
                pool("wide", {"source": "s2", "weight": 1}, {"source": "s5", "weight": 3}),
            ],
            "tenant": [{"name": "shop", "source_pool": "tenant"}],
            "permission": [{"name": "person", "networks": ["127.0.0.9/32"], "source_pool": "person"}],
            "listener": [
                relay.config["listener"][0],
                relay.config["listener"][0] | {"name": "shop", "listen": f"127.0.0.1:{shop}", "tenant": "shop"},
            ],
            "route": [
                {"recipients": ["plain.test"], "next_hop": sink.url},
                {"recipients": ["wide.test"], "next_hop": sink.url, "source_pool": "wide"},
                {"recipients": ["*"], "next_hop": sink.url, "source_pool": "route"},
            ],
        }
        relay.config |= config
        with relay:
            yield relay, sink, shop


def test_mail_without_a_pool_leaves_by_an_address_of_the_systems_choice(
    chooser: tuple[Relay, SinkServer, int],
) -> None:
    relay, sink, _ = chooser
    for number in range(2):  # the second takes the short cut by domain
        queue_id = relay.send(f"r{number}@plain.test")
        mail = sink.wait_mail(f"r{number}@plain.test")
        assert (mail.client, mail.greeting) == ("127.0.0.1", "relay.test")
        assert relay.wait_event("delivery", id=queue_id)["source"] == "default"


def test_a_permissions_pool_goes_before_the_tenants_and_that_before_the_routes(
    chooser: tuple[Relay, SinkServer, int],
) -> None:
    relay, sink, shop = chooser
    for round_number in range(3):  # found by Python, then by the short cut
        names = [f"{name}{round_number}@any.test" for name in ("r", "t", "p")]
        relay.send(names[0])
        with relay.client(shop) as client:
            client.ehlo()
            client.send("me@origin.test", [names[1]], b"Subject: x\r\n\r\n")
        with socket.create_connection(("127.0.0.1", shop), source_address=("127.0.0.9", 0)) as by_hand:
            say(by_hand, names[2])
        assert [left_by(sink, name) for name in names] == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
        assert sink.wait_mail(names[1]).greeting == "three.relay.test"
        for name, left in zip(names, ("s2", "s3", "s4"), strict=True):
            assert relay.wait_event("delivery", recipient=name)["source"] == left
        relay.send(f"x{round_number}@plain.test")
        assert left_by(sink, f"x{round_number}@plain.test") == "127.0.0.1"


def say(client: socket.socket, recipient: str) -> None:
    """A message from the address that the socket has."""
    with client.makefile("rwb") as file:
        file.readline()
        for line in (
            "EHLO me.test",
            "MAIL FROM:<me@origin.test>",
            f"RCPT TO:<{recipient}>",
            "DATA",
            "Subject: x\r\n\r\n.",
        ):
            file.write(line.encode() + b"\r\n")
            file.flush()
            while (reply := file.readline())[3:4] == b"-":
                pass
            assert reply[:1] in b"23", reply


def test_mail_is_shared_out_by_weight_message_by_message(chooser: tuple[Relay, SinkServer, int]) -> None:
    relay, sink, _ = chooser
    names = [f"w{number}@wide.test" for number in range(40)]
    for name in names:
        relay.send(name)
    by_address = Counter(left_by(sink, name) for name in names)
    assert by_address == {"127.0.0.2": 10, "127.0.0.5": 30}
    for mail in sink.mails:
        if mail.recipients[0] in names:
            assert mail.greeting == ("five.relay.test" if mail.client == "127.0.0.5" else "relay.test")


def test_no_connection_carries_mail_of_two_sources(chooser: tuple[Relay, SinkServer, int]) -> None:
    relay, sink, _ = chooser
    names = [f"c{number}@{domain}.test" for number in range(8) for domain in ("wide", "plain", "any")]
    for name in names:
        relay.send(name)
    clients: dict[int, set[str]] = {}
    for name in names:
        left = relay.wait_event("delivery", recipient=name)["source"]
        clients.setdefault(sink.wait_mail(name).connection, set()).add(left)
    assert set().union(*clients.values()) == {"default", "s2", "s5"}
    assert all(len(sources) == 1 for sources in clients.values())


def test_one_message_to_many_recipients_leaves_by_one_source(chooser: tuple[Relay, SinkServer, int]) -> None:
    relay, sink, _ = chooser
    queue_id = relay.send([f"m{number}@wide.test" for number in range(20)])
    for number in range(20):
        relay.wait_event("delivery", id=queue_id, recipient=f"m{number}@wide.test")
    assert len({event["source"] for event in relay.events("delivery", id=queue_id)}) == 1
    assert len([mail for mail in sink.mails if "m0@wide.test" in mail.recipients]) == 1


# ------------------------------------------------------------------ retries, restarts, reloads


def test_metrics_count_by_source_and_by_pool(chooser: tuple[Relay, SinkServer, int]) -> None:
    relay, sink, _ = chooser
    queue_id = relay.send("counted@wide.test")
    sink.wait_mail("counted@wide.test")
    relay.wait_event("delivery", id=queue_id)
    by_event = Counter(event["source"] for event in relay.events("delivery"))
    found = relay.metrics()
    for name in ("default", "s2", "s3", "s4", "s5"):
        delivered = found[f'angarium_source_recipients_total{{result="delivered",source="{name}"}}']
        assert delivered == by_event[name] == found[f'angarium_source_replies_total{{class="2xx",source="{name}"}}']
    opened = sum(found[f'angarium_source_connections_total{{result="opened",source="s{number}"}}'] for number in (2, 5))
    assert opened >= 2
    pools = {
        name: found[f'angarium_pool_recipients_total{{pool="{name}",result="delivered"}}']
        for name in ("none", "route", "tenant", "person", "wide")
    }
    assert pools["none"] == by_event["default"]
    assert pools["route"] + pools["wide"] == by_event["s2"] + by_event["s5"]
    assert (pools["tenant"], pools["person"]) == (by_event["s3"], by_event["s4"])
    assert pools["wide"] > 0
    assert found['angarium_source_recipients_total{result="deferred",source="other"}'] == 0


def test_a_retry_keeps_its_source_and_a_restart_the_pool(tmp_path: Path) -> None:
    later = [True]

    def answer(step: Any) -> str | None:
        return LATER if later[0] and step.verb == "RCPT" else None

    with SinkServer(answer=answer) as sink:
        relay = Relay(tmp_path)
        relay.config["listener"][0]["tenant"] = "shop"
        relay.config |= {
            "source": [source(2), source(3), source(4)],
            "source_pool": [pool("bulk", "s2", "s3")],
            "tenant": [{"name": "shop", "source_pool": "bulk"}],
            "route": [{"recipients": ["*"], "next_hop": sink.url}],
        }
        with relay:
            ids = [relay.send(f"r{number}@there.test") for number in range(4)]
            for queue_id in ids:
                relay.wait_event("deferral", id=queue_id, count=3)
                tried = {event["source"] for event in relay.events("deferral", id=queue_id)}
                assert len(tried) == 1, "greylisting knows the address"
            # the record names the pool, whatever the tenant has now
            relay.config["tenant"] = [{"name": "shop"}]
            relay.restart()
            # and the journal by what each attempt left, where there is no event log to say so
            shown = relay.api(f"queue/{ids[0]}")
            assert len(shown["attempts"]) >= 3
            assert {attempt["source"] for attempt in shown["attempts"]} == {
                event["source"] for event in relay.events("deferral", id=ids[0])
            }
            assert {attempt["pool"] for attempt in shown["attempts"]} == {"bulk"}
            story = relay.api(f"messages/{ids[0]}/trace")
            first = next(step for step in story["steps"] if step["kind"] == "attempt")
            assert (first["source"], first["pool"]) == (shown["attempts"][0]["source"], "bulk")
            assert f"from {first['source']} of bulk: deferred" in first["text"]
            later[0] = False
            for number, queue_id in enumerate(ids):
                assert relay.wait_event("delivery", id=queue_id)["source"] in {"s2", "s3"}
                assert left_by(sink, f"r{number}@there.test") in {"127.0.0.2", "127.0.0.3"}
            relay.send("new@there.test")
            assert left_by(sink, "new@there.test") == "127.0.0.1"


def test_waiting_mail_follows_a_changed_pool_and_sessions_stay(tmp_path: Path) -> None:
    with SinkServer() as sink:
        dead = free_port()
        relay = Relay(tmp_path)
        relay.config["listener"][0]["tenant"] = "shop"
        relay.config |= {
            "source": [source(2), source(3)],
            "source_pool": [pool("bulk", "s2"), pool("route", "s2")],
            "tenant": [{"name": "shop", "source_pool": "bulk"}],
            "route": [{"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{dead}"}],
        }
        with relay, relay.client() as client:
            client.ehlo()
            ids = [
                client.send("me@origin.test", [f"r{number}@there.test"], b"Subject: x\r\n\r\n") for number in range(6)
            ]
            relay.wait(lambda: relay.summary()["messages"] == 6 and relay.events("unreachable"), "six that wait")
            assert relay.events("unreachable")[0]["source"] == "s2"
            relay.reload(
                {
                    "source": [source(3), source(4), source(6, hostname="six.relay.test")],
                    "source_pool": [pool("bulk", "s3", "s4"), pool("route", "s6")],
                    "route": [{"recipients": ["*"], "next_hop": sink.url}],
                }
            )
            for queue_id in ids:
                relay.wait_event("delivery", id=queue_id)
            assert Counter(mail.client for mail in sink.mails) == {"127.0.0.3": 3, "127.0.0.4": 3}
            client.send("me@origin.test", ["same@there.test"], b"Subject: x\r\n\r\n")  # the session goes on
            assert left_by(sink, "same@there.test") in {"127.0.0.3", "127.0.0.4"}
            # a route's pool, and one that is taken away again
            relay.reload(
                {
                    "tenant": [{"name": "shop"}],
                    "route": [{"recipients": ["*"], "next_hop": sink.url, "source_pool": "route"}],
                }
            )
            for number in range(2):
                client.send("me@origin.test", [f"by-route{number}@there.test"], b"Subject: x\r\n\r\n")
                assert sink.wait_mail(f"by-route{number}@there.test").greeting == "six.relay.test"
            relay.reload({"route": [{"recipients": ["*"], "next_hop": sink.url}]})
            for number in range(2):
                client.send("me@origin.test", [f"none{number}@there.test"], b"Subject: x\r\n\r\n")
                assert left_by(sink, f"none{number}@there.test") == "127.0.0.1"


def test_mail_of_a_pool_that_is_gone_goes_as_mail_without_one(tmp_path: Path) -> None:
    later = [True]

    def answer(step: Any) -> str | None:
        return LATER if later[0] and step.verb == "RCPT" else None

    with SinkServer(answer=answer) as sink:
        relay = Relay(tmp_path)
        relay.config["listener"][0]["tenant"] = "shop"
        relay.config |= {
            "source": [source(2), source(3)],
            "source_pool": [pool("bulk", "s2"), pool("route", "s3")],
            "tenant": [{"name": "shop", "source_pool": "bulk"}],
            "route": [
                {"recipients": ["routed.test"], "next_hop": sink.url, "source_pool": "route"},
                {"recipients": ["*"], "next_hop": sink.url},
            ],
        }
        with relay:
            names = [f"r{number}@{domain}.test" for number in range(3) for domain in ("routed", "there")]
            for name in names:
                relay.send(name)
                assert relay.wait_event("deferral", recipient=name)["source"] == "s2"
            relay.reload({"source_pool": [pool("route", "s3")], "tenant": [{"name": "shop"}]})
            said = relay.wait_event("source_pool_missing")
            assert (said["pool"], said["messages"]) == ("bulk", 6)
            relay.restart()  # it is found so in the records as well
            relay.wait(lambda: len(relay.events("source_pool_missing")) >= 2, "the word of the start")
            assert sum(event["messages"] for event in relay.events("source_pool_missing")[1:]) == 6
            assert relay.metrics()["angarium_delivery_source_pool_missing_total"] == 6
            later[0] = False
            for name in names:
                delivered = relay.wait_event("delivery", recipient=name)
                assert delivered["source"] == ("s3" if "routed" in name else "default")
            # and where it is back, its mail is its mail again
            later[0] = True
            for name in ("again@there.test", "again@routed.test"):
                relay.send(name)
                relay.wait_event("deferral", recipient=name)
            relay.reload({"source_pool": [pool("bulk", "s2"), pool("route", "s3")]})


# ------------------------------------------------------------------ sources that cannot be used


def test_the_next_source_takes_over_and_the_first_one_comes_back(tmp_path: Path) -> None:
    with SinkServer() as sink:
        relay = Relay(tmp_path)
        relay.config |= {
            "source": [missing(1), source(3), {"name": "six", "ipv6": "::1"}],
            "source_pool": [pool("mixed", "m1", "six", "s3")],
            "route": [{"recipients": ["*"], "next_hop": sink.url, "source_pool": "mixed"}],
        }
        with relay:
            names = [f"r{number}@there.test" for number in range(12)]
            for name in names:
                relay.send(name)
            for name in names:
                assert left_by(sink, name) == "127.0.0.3"
                assert relay.wait_event("delivery", recipient=name)["attempts"] == 1
            down = relay.wait_event("source_down")
            assert (down["source"], down["address"]) == ("m1", "198.51.100.1")
            assert "Cannot assign requested address" in down["why"]
            replaced = relay.events("source_replaced")
            assert {(event["source"], event["by"], event["pool"]) for event in replaced} >= {("m1", "s3", "mixed")}
            assert len(relay.events("source_down")) == 1
            metrics = relay.metrics()
            assert metrics["angarium_delivery_source_failures_total"] >= 1
            assert metrics["angarium_delivery_source_replaced_total"] >= 1
            assert not relay.events("deferral")


def test_mail_whose_sources_cannot_be_used_waits_and_says_why(tmp_path: Path) -> None:
    with SinkServer() as sink:
        relay = Relay(tmp_path)
        relay.config |= {
            "source": [missing(1), missing(2), source(3)],
            "source_pool": [pool("lost", "m1", "m2"), pool("good", "s3")],
            "route": [
                {"recipients": ["lost.test"], "next_hop": sink.url, "source_pool": "lost"},
                {"recipients": ["*"], "next_hop": sink.url, "source_pool": "good"},
            ],
        }
        with relay:
            ids = [relay.send(f"r{number}@lost.test") for number in range(5)]
            relay.send("r@found.test")
            assert left_by(sink, "r@found.test") == "127.0.0.3"
            why = relay.wait_event("source_pool_unusable")["why"]
            assert why.startswith("source pool lost: source m1: 198.51.100.1: ") or "source m2" in why
            assert "source m2: 198.51.100.2: Cannot assign requested address" in why
            relay.wait(lambda: relay.summary()["messages"] == 5, "five that wait")
            # the mail of the other source may be a moment behind
            relay.wait(lambda: relay.api(f"queue/{ids[0]}")["waits_for"]["what"] == "source", "what it waits for")
            shown = relay.api(f"queue/{ids[0]}")
            assert shown["recipients"][0]["attempts"] == 0
            assert "source m1: 198.51.100.1: Cannot assign requested address" in shown["waits_for"]["text"]
            explained = relay.api("explain?address=r@lost.test")
            assert (explained["source"]["pool"], explained["source"]["of"]) == ("lost", "route")
            assert [member["why_not"] for member in explained["source"]["sources"]] == [
                f"source m{number}: 198.51.100.{number}: Cannot assign requested address" for number in (1, 2)
            ]
            assert any("source m1" in block for block in explained["blocks"])
            assert not relay.events("deferral")
            relay.reload({"source": [source(2) | {"name": "m1"}, missing(2), source(3)]})
            for number in range(5):
                assert left_by(sink, f"r{number}@lost.test") == "127.0.0.2"


def test_a_suspended_source_keeps_its_mail_and_gets_no_more(tmp_path: Path) -> None:
    with SinkServer() as sink:
        relay = Relay(tmp_path)
        relay.config |= {
            "source": [source(2), source(3)],
            "source_pool": [pool("both", "s2", "s3"), pool("one", "s2")],
            "route": [
                {"recipients": ["one.test"], "next_hop": sink.url, "source_pool": "one"},
                {"recipients": ["*"], "next_hop": sink.url, "source_pool": "both"},
            ],
        }
        with relay:
            admin = ["--admin", f"127.0.0.1:{relay.admin_port}"]
            done = run_command("suspend", "--source", "s2", "--reason", "blocklisted", "--for", "1h", *admin)
            assert done.returncode == 0, done.stdout + done.stderr
            relay.wait_event("suspension")
            kept = relay.send("kept@one.test")
            for number in range(4):
                relay.send(f"r{number}@there.test")
                assert left_by(sink, f"r{number}@there.test") == "127.0.0.3"
            assert relay.api(f"queue/{kept}")["state"] == "suspended"
            assert run_command("resume", "--source", "s2", *admin).returncode == 0
            assert left_by(sink, "kept@one.test") == "127.0.0.2"


def test_explain_shows_pool_sources_and_what_they_say_in_ehlo(chooser: tuple[Relay, SinkServer, int]) -> None:
    relay, _, _ = chooser
    answer = relay.api("explain?address=a@any.test&listener=shop")
    assert (answer["source"]["pool"], answer["source"]["of"]) == ("tenant", "tenant")
    assert (answer["source"]["name"], answer["source"]["hostname"]) == ("s3", "three.relay.test")
    answer = relay.api("explain?address=a@wide.test")
    assert [(member["name"], member["weight"]) for member in answer["source"]["sources"]] == [("s2", 1), ("s5", 3)]
    assert answer["source"]["of"] == "route"
    assert answer["workers"][0]["sent"] > 0
    assert relay.api("explain?address=a@plain.test")["source"] is None
    shown = run_command("explain", "a@wide.test", "--try", "--admin", f"127.0.0.1:{relay.admin_port}").stdout
    assert "wide, of the route" in shown
    assert "five.relay.test" in shown
