"""What `angarium check` says of listeners that take mail to domains of ours, and of LMTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium.config.load import examine_text

if TYPE_CHECKING:
    from pathlib import Path

    from angarium.config.load import Examination

HEAD = '[node]\nhostname = "relay.example.org"\nspool = "/spool"\n[[listener]]\nname = "mx"\n'
INBOUND = 'listen = "127.0.0.1:2500"\nrole = "inbound"\n'
DOMAINS = 'domains = ["ours.example", "*.below.example"]\n'


def examine(text: str, **options: bool) -> Examination:
    return examine_text(HEAD + text, **options)


def said(text: str, **options: bool) -> list[str]:
    """Key and message of each problem."""
    problems = examine(text, **options).problems
    return [f"{problem.severity} {problem.key.removeprefix('listener[0].')}: {problem.message}" for problem in problems]


def test_an_inbound_listener(tmp_path: Path) -> None:
    file = tmp_path / "recipients"
    file.write_text("ada@ours.example\npostmaster@ours.example\n")
    text = INBOUND + DOMAINS + f'verify_recipients = "list"\nrecipient_file = "{file}"\nrecipient_delimiter = "+-"\n'
    examination = examine(text)
    assert examination.problems == ()
    assert examination.config is not None
    (listener,) = examination.config.listener
    assert [str(domain) for domain in listener.domains] == ["ours.example", "*.below.example"]


@pytest.mark.parametrize(
    "hop", ["lmtp://127.0.0.1:24", "lmtp+unix:/run/lmtp", "smtp://box.example", "smtps://box.example"]
)
def test_a_call_ahead(hop: str) -> None:
    verification = (
        'verification = { keep_known = "1h", keep_unknown = "0s", timeout = "3s", unreachable = "accept", '
        "entries = 10, connections = 1 }\n"
    )
    text = INBOUND + DOMAINS + f'verify_recipients = "call-ahead"\ncall_ahead = "{hop}"\n' + verification
    examination = examine(text)
    assert examination.problems == ()
    assert examination.config is not None
    (listener,) = examination.config.listener
    assert str(listener.call_ahead).startswith(hop)
    assert (listener.verification.keep_known_s, listener.verification.unreachable) == (3600.0, "accept")


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (INBOUND, "role", "there are none"),
        (INBOUND + "domains = []\n", "role", "there are none"),
        (INBOUND + 'domains = ["*"]\n', "domains[0]", "open relay"),
        (INBOUND + 'domains = ["a.example", "ada@b.example"]\n', "domains[1]", "one address"),
        (INBOUND + 'domains = ["a..example"]\n', "domains[0]", "not a domain"),
        (INBOUND + DOMAINS + 'verify_recipients = "lst"\n', "verify_recipients", "expected one of"),
        (INBOUND + DOMAINS + 'verify_recipients = "list"\n', "verify_recipients", "needs a recipient_file"),
        (INBOUND + DOMAINS + 'verify_recipients = "call-ahead"\n', "verify_recipients", "needs call_ahead"),
        (INBOUND + DOMAINS + 'recipient_file = "/x"\n', "recipient_file", 'unless verify_recipients = "list"'),
        (INBOUND + DOMAINS + 'recipient_delimiter = "+"\n', "recipient_delimiter", 'unless verify_recipients = "list"'),
        (INBOUND + DOMAINS + 'call_ahead = "lmtp://127.0.0.1"\n', "call_ahead", 'verify_recipients = "call-ahead"'),
        (INBOUND + DOMAINS + 'verification.timeout = "1s"\n', "verification", 'verify_recipients = "call-ahead"'),
        (
            INBOUND + DOMAINS + 'verify_recipients = "list"\nrecipient_file = "/nonexistent/x"\n',
            "recipient_file",
            "cannot be read",
        ),
        (
            INBOUND + DOMAINS + 'verify_recipients = "call-ahead"\ncall_ahead = "mx"\n',
            "call_ahead",
            "cannot be asked about a recipient",
        ),
        (
            INBOUND + DOMAINS + 'verify_recipients = "call-ahead"\ncall_ahead = "smtp://127.0.0.1:2500"\n',
            "call_ahead",
            "would ask itself",
        ),
        ('listen = "0.0.0.0:25"\nrole = "relay"\nrelay_networks = ["10.0.0.0/8"]\n' + DOMAINS, "domains", '"inbound"'),
        (
            'listen = "0.0.0.0:25"\nrole = "relay"\nrelay_networks = ["10.0.0.0/8"]\nverify_recipients = "list"\n',
            "verify_recipients",
            '"inbound"',
        ),
        (INBOUND + DOMAINS + 'relay_networks = ["0.0.0.0/0"]\n', "relay_networks", "open relay"),
        (
            'listen = "0.0.0.0:25"\nrole = "inbound"\nprotocol = "lmtp"\n' + DOMAINS,
            "listen",
            "port 25 (RFC 2033 §5)",
        ),
    ],
)
def test_what_cannot_be(text: str, key: str, words: str) -> None:
    errors = [line for line in said(text) if line.startswith("error ")]
    assert len(errors) == 1, errors
    assert errors[0].startswith(f"error {key}: ")
    assert words in errors[0]


@pytest.mark.parametrize("delimiter", ["a", "+@", " ", "+-=/_", "ö", "%\\n"])
def test_what_is_no_delimiter(tmp_path: Path, delimiter: str) -> None:
    file = tmp_path / "recipients"
    file.write_text("@ours.example\n")
    text = INBOUND + DOMAINS + f'verify_recipients = "list"\nrecipient_file = "{file}"\n'
    (error,) = said(text + f'recipient_delimiter = "{delimiter}"\n')
    assert error.startswith("error recipient_delimiter: ")


def test_every_bad_line_of_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "recipients"
    file.write_text("ada@ours.example\nnobody\n\n@\n")
    errors = said(INBOUND + DOMAINS + f'verify_recipients = "list"\nrecipient_file = "{file}"\n')
    assert [line.split(" ")[2].rstrip(":") for line in errors] == [f"{file}:2", f"{file}:4"]


def test_warnings(tmp_path: Path) -> None:
    (warning,) = said(INBOUND + DOMAINS)
    assert warning.startswith("warning listener[0]: ")
    assert "mail they never sent" in warning
    file = tmp_path / "recipients"
    file.write_text("ada@ours.example\n")
    text = INBOUND + 'domains = ["ours.example", "empty.example"]\n'
    first, second = said(text + f'verify_recipients = "list"\nrecipient_file = "{file}"\n')
    assert "lacks postmaster@ours.example" in first
    assert "no recipient at empty.example" in second


def test_a_route_back_to_an_lmtp_listener() -> None:
    text = (
        INBOUND
        + 'protocol = "lmtp"\n'
        + DOMAINS
        + '[[route]]\nrecipients = ["*"]\nnext_hop = "lmtp://127.0.0.1:2500"\n'
    )
    (error,) = [line for line in said(text) if line.startswith("error ")]
    assert error.startswith("error route[0].next_hop: leads back to listener")


def test_submission_is_no_lmtp() -> None:
    lines = said('listen = "127.0.0.1:2500"\nrole = "submission"\nprotocol = "lmtp"\n')
    assert any(line.startswith("error protocol: ") for line in lines)


def test_a_call_ahead_out_of_the_sandbox() -> None:
    text = INBOUND + DOMAINS + 'verify_recipients = "call-ahead"\ncall_ahead = "lmtp://192.0.2.1"\n'
    route = '[[route]]\nrecipients = ["*"]\nnext_hop = "discard:"\n'
    assert any(line.startswith("error call_ahead: ") for line in said(text + route, sandbox=True))
    assert not any(
        line.startswith("error call_ahead: ")
        for line in said(text.replace("192.0.2.1", "127.0.0.1") + route, sandbox=True)
    )
