"""Reports of TLS results, RFC 8460: what is counted, where a report is wanted, and the report itself. Values only.

A worker counts SessionResults: one for each session with a mail host that was set up over TLS, or should have been and
was not. They are gathered for a node and a day of UTC (angarium.outcome.tls_archive). `build_report` makes a day's
report about one domain as JSON (§4), `report_file` compresses it, `report_name` gives the file its name (§5.1),
`report_mail` puts it into a message (§5.3), and `report_addresses` reads where the domain wants it (§3).

Input: values; time and ids are passed in. Output: octets, values. Nothing here fails: a record that is none wants no
report. What comes from outside (host names, greetings, policies) is escaped by JSON, and no header field is made of it.

Decided beyond the RFC: `mx-host` is an array, as §4.4 says in words (its example shows a string). What cannot be known
about a failure is left out. An rua that is neither mailto: nor https: is passed over, and of the others the first
MOST_ADDRESSES count. A mailto: address is one ASCII mailbox; its header fields (RFC 6068) are passed over.
"""

from __future__ import annotations

import base64
import gzip
import re
from datetime import UTC, date, datetime, time, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct

from angarium.smtp.tls_result import TlsResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "DayReport",
    "FailureCount",
    "PolicyCount",
    "PolicyType",
    "ReportPolicy",
    "SessionResult",
    "build_report",
    "report_addresses",
    "report_file",
    "report_mail",
    "report_name",
]

PolicyType = Literal["tlsa", "sts", "no-policy-found"]  # §4.4
RESULT_TYPES: tuple[TlsResult, ...] = get_args(TlsResult)

MOST_ADDRESSES = 5
LONGEST_TEXT = 300
MEDIA_TYPE = "application/tlsrpt+gzip"

_RECORD = re.compile(  # §3; a URI may hold anything but "," ";" "!" and white space, and is looked at by itself
    r"v=TLSRPTv1(?:[ \t]*;[ \t]*(?:rua=[^,;! \t]+(?:[ \t]*,[ \t]*[^,;! \t]+)*"
    r"|(?!rua\b)[A-Za-z0-9][A-Za-z0-9_.-]{0,31}[ \t]*=[ \t]*[!-:<>-~]*))+(?:[ \t]*;[ \t]*)?"
)
_OURS = re.compile(rb"v=TLSRPTv1[ \t]*;")
_RUA = re.compile(r";[ \t]*rua=([^;]+)")
_MAILBOX = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


class ReportPolicy(Struct, frozen=True, order=True):
    """The policy that a session was held to. `strings` are its own words, `hosts` what an MTA-STS policy names."""

    domain: str
    type: PolicyType = "no-policy-found"
    strings: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


class SessionResult(Struct, frozen=True):
    """How one session came out; equal ones are counted together. Without `failure` it was a success."""

    policy: ReportPolicy
    failure: TlsResult | None = None
    sending_ip: str = ""
    receiving_host: str = ""
    receiving_ip: str = ""
    receiving_helo: str = ""
    reason: str = ""  # failure-reason-code


class FailureCount(Struct, frozen=True):
    """Sessions that failed alike. Of what is empty nothing is known."""

    type: TlsResult
    count: int
    sending_ip: str = ""
    receiving_host: str = ""
    receiving_ip: str = ""
    receiving_helo: str = ""
    reason: str = ""


class PolicyCount(Struct, frozen=True):
    """What was gathered under one policy."""

    policy: ReportPolicy
    successes: int
    failures: int
    details: tuple[FailureCount, ...] = ()


class DayReport(Struct, frozen=True):
    """One domain, one day of UTC."""

    domain: str
    day: date
    policies: tuple[PolicyCount, ...]

    @property
    def start(self) -> datetime:
        return datetime.combine(self.day, time(), UTC)

    @property
    def end(self) -> datetime:
        """The day's last second."""
        return self.start + timedelta(days=1, seconds=-1)


# ---------------------------------------------------------------------- where it goes, §3


def report_addresses(records: Iterable[bytes]) -> tuple[str, ...]:
    """The `mailto:` and `https:` URIs of the one record that is meant; `records` have their strings joined.

    None where there is no such record, or several, or it is malformed.
    """
    meant = [record for record in records if _OURS.match(record)]
    if len(meant) != 1 or not meant[0].isascii():
        return ()
    text = meant[0].decode("ascii")
    if not text.isprintable() or not _RECORD.fullmatch(text):
        return ()
    found: dict[str, None] = {}
    for listed in _RUA.findall(text)[:1]:
        for uri in listed.split(","):
            if _is_usable(uri.strip()):
                found.setdefault(uri.strip())
    return tuple(found)[:MOST_ADDRESSES]


def mailbox_of(uri: str) -> str | None:
    """The mailbox of a `mailto:` URI; None for what is none."""
    scheme, _, rest = uri.partition(":")
    mailbox = unquote(rest.partition("?")[0])
    return mailbox if scheme.lower() == "mailto" and _MAILBOX.fullmatch(mailbox) else None


def _is_usable(uri: str) -> bool:
    if mailbox_of(uri) is not None:
        return True
    try:
        parts = urlsplit(uri)
        return parts.scheme.lower() == "https" and bool(parts.hostname) and parts.port != 0 and not parts.username
    except ValueError:
        return False


# ---------------------------------------------------------------------- the report, §4


def build_report(report: DayReport, *, organization: str, contact: str, report_id: str) -> bytes:
    """The report as JSON, §4.4."""
    return msgspec.json.encode(
        {
            "organization-name": organization,
            "date-range": {"start-datetime": _moment(report.start), "end-datetime": _moment(report.end)},
            "contact-info": contact,
            "report-id": report_id,
            "policies": [_policy(counted) for counted in report.policies],
        }
    )


def _policy(counted: PolicyCount) -> dict[str, Any]:
    policy = counted.policy
    described: dict[str, Any] = {"policy-type": policy.type}
    if policy.strings:
        described["policy-string"] = list(policy.strings)
    described["policy-domain"] = policy.domain
    if policy.hosts:
        described["mx-host"] = list(policy.hosts)
    made: dict[str, Any] = {
        "policy": described,
        "summary": {
            "total-successful-session-count": counted.successes,
            "total-failure-session-count": counted.failures,
        },
    }
    if counted.details:
        made["failure-details"] = [_failure(failure) for failure in counted.details]
    return made


def _failure(failure: FailureCount) -> dict[str, Any]:
    known = {
        "result-type": failure.type,
        "sending-mta-ip": failure.sending_ip,
        "receiving-mx-hostname": failure.receiving_host,
        "receiving-mx-helo": failure.receiving_helo,
        "receiving-ip": failure.receiving_ip,
        "failed-session-count": failure.count,
        "failure-reason-code": failure.reason[:LONGEST_TEXT],
    }
    return {name: value for name, value in known.items() if value != ""}


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def report_file(json: bytes) -> bytes:
    """The report compressed; the same octets for the same report."""
    return gzip.compress(json, mtime=0)


def report_name(report: DayReport, *, submitter: str, unique: str) -> str:
    """The name of the file, §5.1."""
    start, end = int(report.start.timestamp()), int(report.end.timestamp())
    return f"{submitter}!{report.domain}!{start}!{end}!{unique}.json.gz"


# ---------------------------------------------------------------------- in a message, §5.3


def report_mail(
    report: DayReport,
    compressed: bytes,
    *,
    submitter: str,
    contact: str,
    recipient: str,
    report_id: str,
    now: float,
) -> bytes:
    """The message that carries a report to `recipient`. `contact` is its author; `report_id` is letters and digits.

    `TLS-Required: No` (RFC 8689 §5): a report is to arrive also where TLS is what does not work (RFC 8460 §3).
    """
    boundary = f"=_tlsrpt_{report_id}"
    name = report_name(report, submitter=submitter, unique=report_id)
    day = report.day.isoformat()
    lines = [
        f"From: <{contact}>",
        f"To: <{recipient}>",
        f"Subject: Report Domain: {report.domain}",
        f" Submitter: {submitter}",
        f" Report-ID: <{report_id}@{submitter}>",
        f"Date: {format_datetime(datetime.fromtimestamp(int(now), UTC))}",
        f"Message-ID: <{report_id}.tlsrpt@{submitter}>",
        f"TLS-Report-Domain: {report.domain}",
        f"TLS-Report-Submitter: {submitter}",
        "TLS-Required: No",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type="tlsrpt";',
        f' boundary="{boundary}"',
        "",
        "This is a report of TLS results in MIME format (RFC 8460).",
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "Content-Transfer-Encoding: 7bit",
        "",
        f"{submitter} delivered mail to {report.domain} on {day} (UTC). How TLS went is in the attached report.",
        *_summary(report.policies),
        "",
        f"--{boundary}",
        f"Content-Type: {MEDIA_TYPE}",
        "Content-Transfer-Encoding: base64",
        "Content-Disposition: attachment;",
        f' filename="{name}"',
        "",
        *(line.decode("ascii") for line in base64.encodebytes(compressed).splitlines()),
        f"--{boundary}--",
        "",
    ]
    return "\r\n".join(lines).encode("ascii", "replace")


def _summary(policies: Sequence[PolicyCount]) -> list[str]:
    names = {"tlsa": "DANE", "sts": "MTA-STS", "no-policy-found": "no policy"}
    return [
        f"{names[counted.policy.type]}: {counted.successes} sessions over TLS, {counted.failures} failures"
        for counted in policies
    ]
