"""What [events] and [[stream]] refuse, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium.config.check_stream import parse_syslog, parse_target
from angarium.config.load import examine_text
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

NODE = """
[node]
hostname = "a.example"
spool = "/spool"
[[listener]]
name = "r"
listen = "127.0.0.1:25"
role = "relay"
relay_networks = ["127.0.0.0/8"]
[[tenant]]
name = "shop"
networks = ["10.0.0.0/8"]
"""
LOG = '[events]\nfile = "/log/events.jsonl"\n'
STREAM = '[[stream]]\nname = "crm"\nurl = "https://crm.example.org/mail"\nsecret = "s"\n'
KAFKA = '[[stream]]\nname = "lake"\nurl = "kafkas://127.0.0.1/mail"\n'
PAIR = 'certificate = "/c.pem"\nkey = "/c.key"\n'
OTLP = '[[stream]]\nname = "traces"\nurl = "otlp+http://127.0.0.1:4318/v1/traces"\n'


def problems(text: str, severity: str = "error") -> list[str]:
    found = examine_text(NODE + text).problems
    return [f"{problem.key}: {problem.message}" for problem in found if problem.severity == severity]


def test_a_stream_that_can_be() -> None:
    config = examine_text(NODE + LOG + STREAM + 'events = ["bounce"]\ntenants = ["shop"]\n').config
    assert config is not None
    assert config.stream[0].events == ("bounce",)
    assert problems(LOG + STREAM, "warning") == []
    assert config.event_file == "/log/events.jsonl"


def test_where_events_go_that_go_elsewhere() -> None:
    config = examine_text(NODE + '[events]\nto = "journald"\n').config
    assert config is not None
    assert config.event_file == "/spool/events/events.jsonl"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (STREAM, "stream[0]: reads the event log, and there is none: set events.file"),
        (LOG + STREAM + STREAM, 'stream[1].name: another stream is named "crm" too'),
        (LOG + STREAM.replace("crm", "../x"), 'stream[0].name: "../x" is not a name'),
        (LOG + STREAM.replace("https:", "ftp:"), "stream[0].url: "),
        (LOG + STREAM.replace("https://", "https://u:p@"), "stream[0].url: has a log-in in it"),
        (LOG + STREAM.replace("https://crm.example.org/mail", "redis://127.0.0.1"), "stream[0].url: wants the key of"),
        (LOG + STREAM.replace("https://", "nats://"), "over the network in plaintext, and the log-in"),
        (LOG + STREAM + 'secret_env = "X"\n', "stream[0].secret_env: stands beside secret"),
        (LOG + STREAM + 'user = "u"\n', "stream[0].user: a webhook has no log-in"),
        (LOG + STREAM + 'events = ["bounce", "bonce"]\n', 'stream[0].events[1]: there is no event "bonce"'),
        (LOG + STREAM + 'tenants = ["shap"]\n', 'stream[0].tenants[0]: there is no tenant "shap"'),
        (LOG + STREAM + 'retry_first = "10m"\n', "stream[0].retry_first: is longer than the longest"),
        (LOG + STREAM + 'ca = "/nowhere.pem"\n', "stream[0].ca: /nowhere.pem cannot be read"),
        (LOG + KAFKA + 'certificate = "/c.pem"\n', "stream[0].certificate: needs key beside it"),
        (LOG + KAFKA + 'key = "/c.key"\n', "stream[0].key: needs certificate beside it"),
        (LOG + KAFKA.replace("kafkas", "kafka") + PAIR, "stream[0].certificate: has no effect without TLS: kafkas://"),
        (LOG + OTLP + PAIR, "stream[0].certificate: has no effect without TLS: otlp+https://"),
        (LOG + KAFKA + 'mechanism = "SCRAM-SHA-256"\n', "stream[0].mechanism: has no effect without user"),
        (LOG + KAFKA + 'mechanism = "SCRAM-SHA-1"\n', "stream[0].mechanism: "),
        (LOG + STREAM + 'mechanism = "SCRAM-SHA-256"\n', "stream[0].mechanism: is for Kafka alone"),
        (LOG + KAFKA + 'user = "scram:u"\nsecret = "s"\n', "stream[0].user: is the name alone: write mechanism"),
        ('[events]\nsyslog = "ftp://x"\n', "events.syslog: "),
        (LOG + STREAM + "sample = 0.5\n", "stream[0].sample: is for OpenTelemetry (otlp+http://) alone"),
        (LOG + OTLP + 'user = "u"\nsecret = "s"\n', "stream[0].user: OTLP has no log-in"),
        (LOG + OTLP.replace("127.0.0.1", "10.0.0.1") + 'secret_env = "X"\n', "in plaintext, and the log-in"),
        (LOG + OTLP + "sample = 1.5\n", "stream[0].sample: "),
    ],
)
def test_what_cannot_be(text: str, says: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert says in found[0]


def test_files_that_are_shown_and_trusted_are_read(tmp_path: Path) -> None:
    authority = Authority("CA")
    ca, _ = authority.write(tmp_path, "ca")
    certificate, key = authority.issue("relay.test").write(tmp_path, "relay")
    _, other = authority.issue("other.test").write(tmp_path, "other")
    text = LOG + KAFKA + f'ca = "{ca}"\ncertificate = "{certificate}"\nkey = "{key}"\n'
    assert problems(text) == []
    (found,) = problems(text.replace(str(key), str(other)))
    assert found == f"stream[0].key: {other} is not the key of the certificate in {certificate}"
    (found,) = problems(text.replace(f'ca = "{ca}"', f'ca = "{key}"'))
    assert found == f"stream[0].ca: {key} has no certificates in PEM form that can be read"


def test_a_sandbox_sends_nothing_away() -> None:
    sandbox = "sandbox = true\n" + NODE.replace(
        "[[tenant]]", '[[route]]\nrecipients = ["*"]\nnext_hop = "discard:"\n[[tenant]]'
    )
    for text, count in (
        (LOG + STREAM, 1),
        (LOG + STREAM.replace("crm.example.org", "127.0.0.1"), 0),
        ('[events]\nto = "syslog"\nsyslog = "udp://192.0.2.1"\n', 1),
    ):
        found = [problem.message for problem in examine_text(sandbox + text).problems if problem.severity == "error"]
        assert len(found) == count, found
        assert all("this is a sandbox" in message for message in found)


def test_what_is_probably_not_meant(tmp_path: Path) -> None:
    open_to_all = tmp_path / "secret"
    open_to_all.write_text("s\n")
    open_to_all.chmod(0o644)
    assert "no secret" in problems(LOG + STREAM.replace('secret = "s"\n', ""), "warning")[0]
    assert "plaintext" in problems(LOG + STREAM.replace("https:", "http:"), "warning")[0]
    text = LOG + STREAM.replace('secret = "s"', f'secret_file = "{open_to_all}"')
    assert "every user" in problems(text, "warning")[0]


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (found,) = problems(LOG + STREAM.replace("https://crm.example.org/mail", "kafkas://10.0.0.1/mail"))
    assert found == 'stream[0].url: needs the extra "kafka": pip install "angarium[kafka]"'


def test_targets() -> None:
    kafka = parse_target("kafkas://a.test:1,b.test/mail%20x".replace("%20", "-"))
    assert (kafka.kind, kafka.tls, kafka.hosts, kafka.topic) == (
        "kafka",
        True,
        (("a.test", 1), ("b.test", 9093)),
        "mail-x",
    )
    hook = parse_target("https://[::1]:8443/x?key=secret")
    assert (hook.kind, hook.hosts, hook.shown) == ("webhook", (("::1", 8443),), "https://[::1]:8443/x")
    assert parse_target("redis://h/a/b").topic == "a/b"
    assert parse_target("nats://h/mail.events").hosts == (("h", 4222),)
    syslog = parse_syslog("tls://h")
    assert (syslog.transport, syslog.host, syslog.port) == ("tls", "h", 6514)
    local, told = parse_syslog("unix:/dev/log"), parse_syslog("unix-rfc5424:/dev/log")
    assert (local.path, local.local, told.path, told.local) == ("/dev/log", True, "/dev/log", False)
