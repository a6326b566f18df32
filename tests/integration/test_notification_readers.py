"""Notifications of every kind, read by programs that others wrote: Sisimai, flufl.bounce and Python's email package."""

from __future__ import annotations

import email
import email.policy
import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from flufl.bounce import all_failures

from angarium.config.wording import KINDS, shipped_wordings
from angarium.mail.status import EnhancedStatus
from angarium.outcome.bounce import DeliveryStatusNotification, build_dsn
from angarium.outcome.report import Kind, OriginalMessage, RecipientReport

if TYPE_CHECKING:
    from pathlib import Path

MAIL = (
    b"Received: from client by relay; Tue, 1 Jul 2025 10:00:00 +0000\r\nFrom: Ada <ada@example.org>\r\n"
    b"To: bob@example.net\r\nSubject: invoice 7\r\nMessage-ID: <1@example.org>\r\n\r\nFirst line\r\n"
)
# One line of JSON for each recipient that Sisimai finds.
SISIMAI = """
use Sisimai; use JSON;
my $found = Sisimai->make($ARGV[0], 'delivered' => 1) || [];
for my $e (@$found) {
    print JSON->new->canonical->encode({
        recipient => $e->recipient->address, action => $e->action, status => $e->deliverystatus,
        reason => $e->reason, diagnostic => $e->diagnosticcode, host => $e->rhost,
        addresser => $e->addresser->address, subject => $e->subject, message_id => $e->messageid,
        soft => $e->softbounce + 0 }), "\\n";
}
"""


@dataclass(frozen=True)
class Case:
    """What is told of a recipient, and what Sisimai makes of it."""

    name: str
    kind: Kind
    status: tuple[int, int, int]
    reply: tuple[int, tuple[int, int, int] | None, bytes]
    reason: str
    by_host: bool = True


CASES = (
    Case("unknown", "failed", (5, 1, 1), (550, (5, 1, 1), b"no such user"), "userunknown"),
    Case("full", "failed", (5, 2, 2), (552, (5, 2, 2), b"mailbox is full"), "mailboxfull"),
    Case("large", "failed", (5, 3, 4), (552, (5, 3, 4), b"message too big"), "mesgtoobig"),
    Case("nodomain", "failed", (5, 1, 2), (0, None, b"the domain does not exist"), "hostunknown", by_host=False),
    Case(
        "expired", "expired", (4, 4, 7), (0, None, b"expired; the last answer was: no answer"), "expired", by_host=False
    ),
    Case("late", "delayed", (4, 4, 1), (0, None, b"connection timed out"), "expired", by_host=False),
    Case("handed", "relayed", (2, 0, 0), (250, (2, 0, 0), b"queued as 77"), "delivered"),
    Case("there", "delivered", (2, 0, 0), (0, None, b"delivered to a file"), "delivered", by_host=False),
    Case("list", "expanded", (2, 0, 0), (0, None, b"3 recipients"), "delivered", by_host=False),
)


def address_of(case: Case, language: str) -> str:
    return f"{case.name}.{language}@example.net"


def report_of(case: Case, path: str) -> RecipientReport:
    code, enhanced, text = case.reply
    return RecipientReport(
        forward_path=path.encode(),
        kind=case.kind,
        status=EnhancedStatus(*case.status),
        text=text,
        reply_code=code,
        reply_enhanced=enhanced,
        remote_mta=b"mx1.example.net" if case.by_host else b"",
        notify=14,
        last_attempt=1751367600.0,
        retries_until=1751796000.0,
    )


def notification(
    *reports: RecipientReport,
    languages: tuple[str, ...] = ("en",),
    reverse_path: str = "ada@example.org",
    mail: bytes = MAIL,
) -> DeliveryStatusNotification:
    dsn = build_dsn(
        OriginalMessage("0ABC", reverse_path.encode(), mail, 1751364000.0, smtputf8=not mail.isascii()),
        reports,
        hostname="relay.example.org",
        now=1751371200.0,
        message_id="0abd@relay.example.org",
        wordings=[shipped_wordings()[language] for language in languages],
    )
    assert dsn is not None
    return dsn


def test_every_kind_is_read() -> None:
    assert {case.kind for case in CASES} == set(KINDS)


# ---------------------------------------------------------------- Sisimai


@pytest.fixture(scope="module")
def sisimai() -> None:
    """Sisimai is there."""
    try:
        found = subprocess.run(["perl", "-MSisimai", "-MJSON", "-e", "1"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("perl is not installed")
    if found.returncode:
        pytest.skip("Sisimai is not installed (Debian: libsisimai-perl)")


def read_with_sisimai(folder: Path, *notifications: DeliveryStatusNotification) -> dict[str, dict[str, object]]:
    """What Sisimai finds in them, by recipient."""
    for number, dsn in enumerate(notifications):
        (folder / f"{number}.eml").write_bytes(dsn.mail_data.replace(b"\r\n", b"\n"))
    done = subprocess.run(["perl", "-e", SISIMAI, str(folder)], capture_output=True, check=True, timeout=60)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == b""
    assert len({row["recipient"] for row in rows}) == len(rows)
    return {row["recipient"]: row for row in rows}


@pytest.mark.parametrize("languages", [("en",), ("de",), ("de", "en")], ids="-".join)
def test_sisimai(sisimai: None, tmp_path: Path, languages: tuple[str, ...]) -> None:
    language = languages[0]
    dsns = [notification(report_of(case, address_of(case, language)), languages=languages) for case in CASES]
    found = read_with_sisimai(tmp_path, *dsns)
    assert len(found) == len(CASES)
    for case in CASES:
        row = found[address_of(case, language)]
        code, enhanced, text = case.reply
        said = f"{code} {'.'.join(map(str, enhanced))} {text.decode()}" if enhanced else text.decode()
        assert row == {
            "recipient": address_of(case, language),
            "action": "failed" if case.kind == "expired" else case.kind,
            "status": ".".join(map(str, case.status)),
            "reason": case.reason,
            "diagnostic": said,
            "host": "mx1.example.net" if case.by_host else "relay.example.org",
            "addresser": "ada@example.org",
            "subject": "invoice 7",
            "message_id": "1@example.org",
            "soft": row["soft"],
        }
        assert row["soft"] == {"2": -1, "4": 1, "5": row["soft"]}[str(case.status[0])]


def test_sisimai_finds_every_recipient_of_one_notification(sisimai: None, tmp_path: Path) -> None:
    failures = [case for case in CASES if case.kind == "failed"]
    dsn = notification(*(report_of(case, address_of(case, "en")) for case in failures))
    found = read_with_sisimai(tmp_path, dsn)
    assert {row["recipient"]: row["reason"] for row in found.values()} == {
        address_of(case, "en"): case.reason for case in failures
    }


# ---------------------------------------------------------------- flufl.bounce


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_flufl_bounce(case: Case, language: str) -> None:
    address = address_of(case, language)
    dsn = notification(report_of(case, address), languages=(language,))
    temporary, permanent = all_failures(email.message_from_bytes(dsn.mail_data))
    assert temporary == ({address.encode()} if case.kind == "delayed" else set())
    assert permanent == ({address.encode()} if case.kind in ("failed", "expired") else set())


def test_flufl_bounce_finds_every_recipient_of_one_notification() -> None:
    dsn = notification(*(report_of(case, address_of(case, "en")) for case in CASES))
    temporary, permanent = all_failures(email.message_from_bytes(dsn.mail_data))
    assert temporary == {b"late.en@example.net"}
    assert permanent == {f"{case.name}.en@example.net".encode() for case in CASES if case.kind in ("failed", "expired")}


# ---------------------------------------------------------------- email


@pytest.mark.parametrize("reverse_path", ["ada@example.org", "\u00e5da@example.org"])
@pytest.mark.parametrize("internationalised", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_email(case: Case, internationalised: bool, reverse_path: str) -> None:
    path = "b\u00f6b@example.net" if internationalised else "bob@example.net"
    mail = MAIL.replace(b"invoice", "R\u00e9chnung".encode()) if internationalised else MAIL
    dsn = notification(report_of(case, path), languages=("de", "en"), reverse_path=reverse_path, mail=mail)
    message = email.message_from_bytes(dsn.mail_data, policy=email.policy.SMTPUTF8)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert not message.defects
    text, status, original = message.iter_parts()
    assert f"<{path}>" in text.get_content()
    assert "invoice 7" in text.get_content() or "R\u00e9chnung 7" in text.get_content()
    as_global = internationalised and not reverse_path.isascii()
    assert status.get_content_type() == ("message/global-delivery-status" if as_global else "message/delivery-status")
    if not as_global:  # the package knows no other kind
        fields = status.get_payload()[1]
        assert fields["Action"] == ("failed" if case.kind == "expired" else case.kind)
        assert fields["Final-Recipient"] == (r"utf-8; b\x{F6}b@example.net" if internationalised else f"rfc822; {path}")
    kinds = {"message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers"}
    assert original.get_content_type() in kinds
    assert original.get_content_type().startswith("message/global") is internationalised
    assert dsn.smtputf8 is (not reverse_path.isascii())
    assert dsn.eight_bit is as_global
