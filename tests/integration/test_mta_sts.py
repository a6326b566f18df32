"""MTA-STS (RFC 8461) and reports of TLS results (RFC 8460): policies over real HTTPS, mail hosts with good and bad TLS.

A name server on loopback, mail hosts at port 25 of 127.0.8.1 and above, a web server with all policies."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import os
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from angarium.outcome.tls_archive import open_archive
from angarium.outcome.tls_report import ReportPolicy, SessionResult
from tests.support.dns import NameServer, NameServerThread
from tests.support.https import Answer, HttpsServer
from tests.support.peers import SinkServer
from tests.support.ports import is_free
from tests.support.relay import Relay, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD, PLAIN, STRANGER, OTHER = (f"127.0.8.{number}" for number in range(1, 5))
HOSTS = f"""
good      60 IN A {GOOD}
plain     60 IN A {PLAIN}
stranger  60 IN A {STRANGER}
other     60 IN A {OTHER}
"""
# name: mail exchangers, mode and patterns of the policy (None: no record)
DOMAINS: dict[str, tuple[list[str], tuple[str, ...] | None]] = {
    "enforce": (["good"], ("enforce", "good.hosts.test")),
    "wildcard": (["good"], ("enforce", "*.hosts.test")),
    "stripped": (["plain"], ("enforce", "*.hosts.test")),
    "untrusted": (["stranger"], ("enforce", "*.hosts.test")),
    "partly": (["other", "good"], ("enforce", "good.hosts.test")),
    "foreign": (["good"], ("enforce", "*.elsewhere.test")),
    "testing": (["stranger"], ("testing", "*.hosts.test")),
    "tested": (["good"], ("testing", "good.hosts.test")),
    "misnamed": (["good"], ("testing", "bad.hosts.test")),
    "none": (["plain"], ("none",)),
    "nothing": (["plain"], None),
    "redirect": (["plain"], ("enforce", "*.hosts.test")),
    "broken": (["plain"], ("enforce", "*.hosts.test")),
    "later": (["good"], ("enforce", "*.hosts.test")),
    "renewed": (["plain"], ("enforce", "*.hosts.test")),
    "relaxed": (["plain"], ("enforce", "*.hosts.test")),
    "reported": (["good"], None),
    "deaf": (["other"], None),
}


def can_bind() -> bool:
    return os.geteuid() == 0 and all(is_free(host, 25) for host in (GOOD, PLAIN, STRANGER, OTHER))


pytestmark = pytest.mark.skipif(not can_bind(), reason="mail hosts listen on port 25 of 127.0.8.1 to .4: needs root")


def policy_of(terms: tuple[str, ...]) -> str:
    mode, *patterns = terms
    return "\n".join(["version: STSv1", f"mode: {mode}", *(f"mx: {p}" for p in patterns), "max_age: 604800", ""])


class World:
    """The relay and all that it speaks to."""

    def __init__(
        self, relay: Relay, names: NameServer, web: HttpsServer, hosts: dict[str, SinkServer], ca: trustme.CA
    ) -> None:
        self.ca = ca
        self.relay = relay
        self.names = names
        self.web = web
        self.hosts = hosts
        self.domains = {name: (list(exchangers), terms, "1") for name, (exchangers, terms) in DOMAINS.items()}
        self.records = ['_smtp._tls.reported 60 IN TXT "v=TLSRPTv1; rua=mailto:tls@reported.sts.test'
                        f',https://reports.sts.test:{web.port}/tls"',
                        '_smtp._tls.deaf 60 IN TXT "v=TLSRPTv1; rua=mailto:tls@deaf.sts.test"']  # fmt: skip

    def certify(self, *, expired: bool = False) -> None:
        """Have the web server show a certificate for everything that is asked of it."""
        names = (f"mta-sts.{name}.sts.test" for name in DOMAINS)
        self.web.certify(self.ca, "reports.sts.test", *names, expired=expired)

    def change(self, name: str, exchangers: list[str], terms: tuple[str, ...] | None, record: str = "2") -> None:
        self.domains[name] = (exchangers, terms, record)
        self.publish()

    def publish(self) -> None:
        lines = list(self.records)
        for name, (exchangers, terms, record) in self.domains.items():
            ttl = 1 if name == "relaxed" else 60
            lines += [f"{name} {ttl} IN MX {10 + i} {host}.hosts.test." for i, host in enumerate(exchangers)]
            if terms is not None:
                lines.append(f'_mta-sts.{name} {ttl} IN TXT "v=STSv1; id={record};"')
                lines.append(f"mta-sts.{name} 60 IN A {self.web.host}")
                self.web.publish(f"mta-sts.{name}.sts.test", policy_of(terms))
        lines.append(f"reports 60 IN A {self.web.host}")
        self.names.zone("sts.test", "\n".join(lines))

    def send(self, name: str) -> str:
        return self.relay.send(f"a@{name}.sts.test")

    def takers(self, name: str) -> list[str]:
        return [host for host, sink in self.hosts.items() for _ in sink.to(f"a@{name}.sts.test")]

    def delivered(self, name: str) -> list[str]:
        """Send, wait, and which hosts took it."""
        self.relay.wait_event("delivery", id=self.send(name))
        return self.takers(name)

    def deferred(self, name: str) -> str:
        """Send, wait, and why it was not delivered."""
        event = self.relay.wait_event("deferral", id=self.send(name))
        assert self.takers(name) == []
        text: str = event["reply"]["text"]
        return text

    def results(self, name: str) -> dict[str, Any] | None:
        day = self.relay.api(f"tls-report?domain={name}.sts.test")
        return next(iter(day["domains"]), None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("sts")
    ca = trustme.CA()
    authorities = folder / "ca.pem"
    ca.cert_pem.write_to_path(authorities)

    def context(authority: trustme.CA, name: str) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(made)
        return made

    with (
        pytest.MonkeyPatch.context() as patch,
        NameServerThread({"hosts.test": HOSTS, "sts.test": ""}) as names,
        HttpsServer(ca, "reports.sts.test") as web,
        SinkServer(host=GOOD, port=25, tls=context(ca, "good.hosts.test")) as good,
        SinkServer(host=PLAIN, port=25) as plain,
        SinkServer(host=STRANGER, port=25, tls=context(trustme.CA(), "stranger.hosts.test")) as stranger,
        SinkServer(host=OTHER, port=25, tls=context(ca, "other.hosts.test")) as other,
    ):
        patch.setenv("SSL_CERT_FILE", str(authorities))  # for mail hosts: the system's authorities
        relay = Relay(
            folder,
            {
                "dns": {"servers": [f"127.0.0.1:{names.port}"]},
                "delivery": {"never_contact": []},
                "mta_sts": {"ca_file": str(authorities), "port": web.port},
                "tls_report": {"organization": "Example Ltd.", "delay": "0s"},
            },
        )
        world = World(relay, names, web, {"good": good, "plain": plain, "stranger": stranger, "other": other}, ca)
        world.certify()
        world.publish()
        web.publish("mta-sts.redirect.sts.test", Answer(status=302, headers={"Location": "https://good.hosts.test/"}))
        web.publish("mta-sts.broken.sts.test", "<html></html>")
        with relay:
            yield world


# ---------------------------------------------------------------- enforce


@pytest.mark.parametrize("name", ["enforce", "wildcard"])
def test_mail_goes_to_a_host_that_the_policy_names(world: World, name: str) -> None:
    assert world.delivered(name) == ["good"]
    assert world.hosts["good"].to(f"a@{name}.sts.test")[0].tls


@pytest.mark.parametrize(
    ("name", "host", "words"),
    [
        ("stripped", "plain", "does not offer STARTTLS"),  # a downgrade attack looks like this
        ("untrusted", "stranger", "certificate"),
        ("foreign", "good", "none that its domain's policy names"),
    ],
)
def test_mail_waits_where_the_policy_is_not_kept(world: World, name: str, host: str, words: str) -> None:
    before = world.hosts[host].count("MAIL")
    text = world.deferred(name)
    assert words in text
    assert f"the MTA-STS policy of {name}.sts.test" in text
    assert world.hosts[host].count("MAIL") == before
    failed = world.relay.wait_event("tls_failed", source=f"the MTA-STS policy of {name}.sts.test")
    assert failed["then"] == "next host"


def test_a_host_that_the_policy_does_not_name_is_passed_over(world: World) -> None:
    before = world.hosts["other"].connections
    assert world.delivered("partly") == ["good"]
    assert world.hosts["other"].connections == before


def test_explain_names_the_policy_and_the_hosts_that_it_forbids(world: World) -> None:
    answer = world.relay.api("explain?address=a@partly.sts.test")
    assert answer["dns"]["mta_sts"] == "enforce"
    assert answer["tls"] == {"level": "verify", "source": "the MTA-STS policy of partly.sts.test"}
    refused = [host["refused"] is not None for host in answer["hosts"]]
    assert refused == [True, False]


# ---------------------------------------------------------------- testing, none, and no policy


def test_testing_delivers_and_reports(world: World) -> None:
    assert world.delivered("testing") == ["stranger"]
    assert world.hosts["stranger"].to("a@testing.sts.test")[0].tls
    failed = world.relay.wait_event("tls_failed", source="the MTA-STS policy of testing.sts.test, in testing")
    assert (failed["reason"], failed["then"]) == ("certificate-not-trusted", "as without the policy")
    assert world.delivered("misnamed") == ["good"]
    assert world.delivered("tested") == ["good"]


@pytest.mark.parametrize("name", ["none", "nothing"])
def test_without_a_policy_to_obey_mail_goes(world: World, name: str) -> None:
    assert world.delivered(name) == ["plain"]


@pytest.mark.parametrize(("name", "words"), [("redirect", "HTTP status 302"), ("broken", 'is not "key: value"')])
def test_without_a_policy_to_be_had_mail_goes(world: World, name: str, words: str) -> None:
    assert world.delivered(name) == ["plain"]
    world.relay.wait(lambda: f"the MTA-STS policy of {name}.sts.test: " in world.relay.stderr, "what the log says")
    assert words in world.relay.stderr


# ---------------------------------------------------------------- the cache


def test_a_policy_that_is_known_outlives_a_kill_its_web_server_and_its_record(world: World) -> None:
    assert world.delivered("later") == ["good"]
    kept = world.relay.spool / "mta-sts.json"
    world.relay.wait(lambda: kept.exists() and "later.sts.test" in kept.read_text(), "the policy to be on disk")
    world.relay.kill()
    fetched = len(world.web.gets)
    world.web.stop()
    try:
        # an attacker in the middle: no record, no web server, another mail exchanger
        world.change("later", ["plain"], None)
        world.relay.start()
        queue_id = world.send("later")
        event = world.relay.wait_event("deferral", id=queue_id)
        assert "the MTA-STS policy of later.sts.test" in event["reply"]["text"]
        assert world.takers("later") == ["good"]
        assert len(world.web.gets) == fetched
    finally:
        world.web.start()


def test_a_new_id_brings_the_new_policy(world: World) -> None:
    assert "does not offer STARTTLS" in world.deferred("renewed")
    world.change("renewed", ["plain"], ("none",), "2")
    world.relay.restart()  # and with it the cache of DNS
    world.relay.wait(lambda: world.takers("renewed") == ["plain"], "the mail that waited")


def test_mail_that_waits_follows_a_policy_that_changes(world: World) -> None:
    """RFC 8461 §5.1: before mail is given up the policy is looked for again; here with each look-up of the hosts."""
    text = world.deferred("relaxed")
    assert "the MTA-STS policy of relaxed.sts.test" in text
    world.change("relaxed", ["plain"], ("none",), "2")
    # DNS answers are kept for ten seconds at least, and a next hop that fails is left alone for longer each time
    world.relay.wait(lambda: world.takers("relaxed") == ["plain"], "the mail that waited", 100)


def test_a_web_server_with_an_expired_certificate_changes_nothing(world: World) -> None:
    world.certify(expired=True)
    world.change("enforce", ["plain"], ("none",), "3")
    world.relay.restart()
    event = world.relay.wait_event("deferral", id=world.send("enforce"))
    world.certify()
    assert "the MTA-STS policy of enforce.sts.test" in event["reply"]["text"]
    assert "certificate has expired; the policy that is kept goes on" in world.relay.stderr


# ---------------------------------------------------------------- results and reports


def test_results_are_gathered_and_shown(world: World) -> None:
    for name in ("stripped", "testing", "tested", "none", "redirect"):
        world.send(name)

    def counted(name: str) -> dict[str, Any]:
        found = world.relay.wait(lambda: world.results(name), f"results of {name}")
        assert found is not None
        return found

    stripped = counted("stripped")
    assert (stripped["successes"], stripped["failures"] >= 1) == (0, True)
    (policy,) = stripped["policies"]
    assert (policy["type"], policy["hosts"]) == ("sts", ["*.hosts.test"])
    assert policy["strings"] == ["version: STSv1", "mode: enforce", "mx: *.hosts.test", "max_age: 604800"]
    detail = policy["details"][0]
    assert (detail["type"], detail["receiving_host"]) == ("starttls-not-supported", "plain.hosts.test")
    assert (detail["receiving_ip"], detail["sending_ip"]) == (PLAIN, "127.0.0.1")
    testing = counted("testing")
    assert (testing["successes"], testing["failures"] >= 1) == (0, True)
    (policy,) = testing["policies"]
    assert policy["strings"][1] == "mode: testing"
    assert policy["details"][0]["type"] == "certificate-not-trusted"
    tested = counted("tested")
    assert (tested["successes"] >= 1, tested["failures"]) == (True, 0)
    world.relay.wait(
        lambda: [
            detail
            for policy in counted("redirect")["policies"]
            for detail in policy["details"]
            if (detail["type"], detail["receiving_host"]) == ("sts-policy-fetch-error", "mta-sts.redirect.sts.test")
        ],
        "the failure to fetch a policy",
    )
    # domains with the same hosts and no policy share connections: the session counts for whoever came first
    unprotected = ("none", "nothing", "redirect", "broken")
    world.relay.wait(
        lambda: [
            policy
            for name in unprotected
            for policy in (world.results(name) or {"policies": []})["policies"]
            if policy["type"] == "no-policy-found" and policy["details"][0]["type"] == "starttls-not-supported"
        ],
        "a session without a policy",
    )
    shown = run_command("tls-report", "--admin", f"127.0.0.1:{world.relay.admin_port}", "--domain", "stripped.sts.test")
    assert shown.returncode == 0, shown.stderr
    assert "MTA-STS" in shown.stdout
    assert "starttls-not-supported" in shown.stdout
    world.relay.wait(lambda: world.relay.metrics()["angarium_outcome_tls_results_total"] >= 3, "the metric")


def test_results_outlive_the_process_that_has_them(world: World) -> None:
    world.send("tested")
    before = world.relay.wait(lambda: world.results("tested"), "results")
    assert before is not None
    answered = world.relay.wait(lambda: world.relay.api("status")["lookup"]["status"], "the lookup process to answer")
    world.relay.kill_process(answered["pid"])

    def after() -> dict[str, Any] | None:
        status, body = world.relay.get("/api/v1/tls-report?domain=tested.sts.test")
        return next(iter(json.loads(body)["domains"]), None) if status == 200 else None

    found = world.relay.wait(after, "another lookup process")
    assert found is not None
    assert found["successes"] >= before["successes"]


def test_a_day_that_was_missed_is_reported_by_mail_and_https(world: World) -> None:
    world.relay.stop()
    day = datetime.now(UTC).date() - timedelta(days=2)
    domain = "reported.sts.test"
    archive = open_archive(world.relay.spool)
    failed = SessionResult(ReportPolicy(domain), "starttls-not-supported", "192.0.2.1", "mx.test", "192.0.2.2")
    archive.add(day, [(SessionResult(ReportPolicy(domain)), 41), (failed, 2)])
    archive.close()
    world.relay.start()
    world.relay.wait(lambda: world.web.posts, "the report by HTTPS")
    mail = world.hosts["good"].wait_mail(f"tls@{domain}")
    (post,) = world.web.posts
    assert (post.host, post.path, post.content_type) == ("reports.sts.test", "/tls", "application/tlsrpt+gzip")
    report = json.loads(gzip.decompress(post.body))
    assert report["organization-name"] == "Example Ltd."
    assert report["contact-info"] == "postmaster@relay.test"
    assert report["date-range"] == {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"}
    assert report["policies"] == [
        {
            "policy": {"policy-type": "no-policy-found", "policy-domain": domain},
            "summary": {"total-successful-session-count": 41, "total-failure-session-count": 2},
            "failure-details": [
                {
                    "result-type": "starttls-not-supported",
                    "sending-mta-ip": "192.0.2.1",
                    "receiving-mx-hostname": "mx.test",
                    "receiving-ip": "192.0.2.2",
                    "failed-session-count": 2,
                }
            ],
        }
    ]
    assert mail.reverse_path == "postmaster@relay.test"
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert (message["TLS-Report-Domain"], message["TLS-Report-Submitter"]) == (domain, "relay.test")
    assert message["TLS-Required"] == "No"
    assert message.get_param("report-type") == "tlsrpt"
    _, attached = message.iter_parts()
    assert attached.get_content() == post.body
    # the day is over: what is known of it can be seen, and the sending of the report is no session of its domain

    def sent() -> list[str | None]:
        (found,) = world.relay.api(f"tls-report?day={day}&domain={domain}")["domains"]
        return sorted(state["address"] for state in found["reports"] if state["state"] == "sent")

    addresses = [f"https://reports.sts.test:{world.web.port}/tls", f"mailto:tls@{domain}"]
    world.relay.wait(lambda: sent() == addresses, "both reports to be sent")
    assert world.results("reported") is None


def test_a_report_that_is_refused_is_no_matter_for_anybody_else(world: World) -> None:
    """No notification, no double bounce, no report about the report."""
    world.relay.stop()
    domain = "deaf.sts.test"
    archive = open_archive(world.relay.spool)
    archive.add(datetime.now(UTC).date() - timedelta(days=3), [(SessionResult(ReportPolicy(domain)), 1)])
    archive.close()
    world.hosts["other"].answer = lambda step: "550 5.1.1 Nobody here" if step.verb == "RCPT" else None
    world.relay.start()
    bounce = world.relay.wait_event("bounce", recipient=f"tls@{domain}")
    # what was told to anybody about it would be in the log by the time that the mail behind it is delivered
    world.delivered("wildcard")
    about = [
        event for event in world.relay.events() if event.get("id") == bounce["id"] or event.get("about") == bounce["id"]
    ]
    assert {event["event"] for event in about} == {"bounce"}
    assert world.relay.events("double_bounce") == []
    assert world.results("deaf") is None


def test_the_command_explains_what_is_wrong(world: World, tmp_path: Path) -> None:
    where = ("--admin", f"127.0.0.1:{world.relay.admin_port}")
    empty = run_command("tls-report", *where, "--day", "2001-01-01")
    assert (empty.returncode, empty.stdout) == (0, "no TLS sessions on 2001-01-01\n")
    as_json = run_command("tls-report", *where, "--day", "2001-01-01", "--json")
    assert json.loads(as_json.stdout) == {"day": "2001-01-01", "domains": []}
    assert run_command("tls-report", *where, "--day", "yesterday").returncode == 2
    nobody = run_command("tls-report", "--admin", f"unix:{tmp_path}/none.sock")
    assert (nobody.returncode, nobody.stderr.count("\n")) == (1, 1)
