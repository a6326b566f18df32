"""Reports of TLS results: where they are wanted, what they say, how they are mailed; the examples of RFC 8460."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.outcome.tls_report import (
    MOST_ADDRESSES,
    RESULT_TYPES,
    DayReport,
    FailureCount,
    PolicyCount,
    ReportPolicy,
    build_report,
    mailbox_of,
    report_addresses,
    report_file,
    report_mail,
    report_name,
)

# ---------------------------------------------------------------- the TXT record, RFC 8460 §3


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        # the examples of §3.1
        ([b"v=TLSRPTv1;rua=mailto:reports@example.com"], ("mailto:reports@example.com",)),
        (
            [b"v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt"],
            ("https://reporting.example.com/v1/tlsrpt",),
        ),
        (
            [b"v=TLSRPTv1; rua=mailto:a@example.com , https://example.com/;"],
            ("mailto:a@example.com", "https://example.com/"),
        ),
        ([b"v=TLSRPTv1 ; x=y ; rua=mailto:a@example.com; z="], ("mailto:a@example.com",)),
        ([b"v=TLSRPTv1; rua=mailto:a@example.com?subject=x"], ("mailto:a@example.com?subject=x",)),
        ([b"v=TLSRPTv1; rua=MAILTO:a%2Bb@example.com"], ("MAILTO:a%2Bb@example.com",)),
        ([b"v=TLSRPTv1; rua=mailto:a@example.com,mailto:a@example.com"], ("mailto:a@example.com",)),
        ([b"v=spf1 -all", b"v=TLSRPTv1; rua=mailto:a@example.com"], ("mailto:a@example.com",)),
        ([b"v=TLSRPTv1; rua=mailto:a@example.com; rua=mailto:b@example.com"], ("mailto:a@example.com",)),
        # other ways to report are passed over
        ([b"v=TLSRPTv1; rua=ftp://example.com/,mailto:a@example.com"], ("mailto:a@example.com",)),
        ([b"v=TLSRPTv1; rua=http://example.com/"], ()),
        ([b"v=TLSRPTv1; rua=https:///path"], ()),
        ([b"v=TLSRPTv1; rua=https://user@example.com/"], ()),
        ([b"v=TLSRPTv1; rua=https://[::1/"], ()),
        ([b"v=TLSRPTv1; rua=https://example.com:99999/"], ()),
        ([b"v=TLSRPTv1; rua=mailto:nobody"], ()),
        ([b"v=TLSRPTv1; rua=mailto:a@b@example.com"], ()),
        ([b"v=TLSRPTv1; rua=mailto:a%0D%0ATo:x@example.com"], ()),
        ([b"v=TLSRPTv1; rua=mailto:a@example.com%0A"], ()),
        ([], ()),
        ([b"v=TLSRPTv1"], ()),
        ([b"v=TLSRPTv1;"], ()),
        ([b"v=TLSRPTv1; rua="], ()),
        ([b"v=TLSRPTv1; x=y"], ()),
        ([b"v=tlsrptv1; rua=mailto:a@example.com"], ()),
        ([b"v=TLSRPTv2; rua=mailto:a@example.com"], ()),
        ([b"v=TLSRPTv1; rua=mailto:a@example.com junk"], ()),
        ([b"v=TLSRPTv1; rua=mailto:a!b@example.com"], ()),  # "!" must be encoded
        ([b"v=TLSRPTv1; rua=mailto:\xc3\xa4@example.com"], ()),
        ([b"v=TLSRPTv1; rua=mailto:a@example.com", b"v=TLSRPTv1; rua=mailto:b@example.com"], ()),
    ],
)
def test_where_reports_are_wanted(records: list[bytes], expected: tuple[str, ...]) -> None:
    assert report_addresses(records) == expected


def test_the_number_of_addresses_is_bounded() -> None:
    record = "v=TLSRPTv1; rua=" + ",".join(f"mailto:a{i}@example.com" for i in range(20))
    found = report_addresses([record.encode()])
    assert found == tuple(f"mailto:a{i}@example.com" for i in range(MOST_ADDRESSES))


def test_the_mailbox_of_an_address() -> None:
    assert mailbox_of("mailto:a%2Bb@example.com?subject=x") == "a+b@example.com"
    assert mailbox_of("https://example.com/") is None


@given(st.lists(st.binary(max_size=60) | st.from_regex(rb"v=TLSRPTv1;[ ]*rua=[!-~ ]*", fullmatch=True), max_size=3))
def test_any_answer_has_usable_addresses_or_none(records: list[bytes]) -> None:
    for address in report_addresses(records):
        assert mailbox_of(address) is not None or address.lower().startswith("https://")
        assert address.isprintable()
        assert " " not in address


# ---------------------------------------------------------------- the report, §4.4

EXAMPLE = DayReport(  # Figure 2: what the example report says, as values
    "company-y.example",
    date(2016, 4, 1),
    (
        PolicyCount(
            ReportPolicy(
                "company-y.example",
                "sts",
                ("version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"),
                ("*.mail.company-y.example",),
            ),
            5326,
            303,
            (
                FailureCount(
                    "certificate-expired", 100, "2001:db8:abcd:0012::1", "mx1.mail.company-y.example"
                ),
                FailureCount(
                    "starttls-not-supported",
                    200,
                    "2001:db8:abcd:0013::1",
                    "mx2.mail.company-y.example",
                    "203.0.113.56",
                ),
                FailureCount(
                    "validation-failure",
                    3,
                    "198.51.100.62",
                    "mx-backup.mail.company-y.example",
                    "203.0.113.58",
                    reason="X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                ),
            ),
        ),
    ),
)  # fmt: skip
REPORT_ID = "5065427c23d347cab6e0946e"


def test_the_example_of_the_rfc() -> None:
    made = build_report(
        EXAMPLE, organization="Company-X", contact="sts-reporting@company-x.example", report_id=REPORT_ID
    )
    assert json.loads(made) == {
        "organization-name": "Company-X",
        "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
        "contact-info": "sts-reporting@company-x.example",
        "report-id": REPORT_ID,
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": [
                        "version: STSv1",
                        "mode: testing",
                        "mx: *.mail.company-y.example",
                        "max_age: 86400",
                    ],
                    "policy-domain": "company-y.example",
                    "mx-host": ["*.mail.company-y.example"],
                },
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "2001:db8:abcd:0012::1",
                        "receiving-mx-hostname": "mx1.mail.company-y.example",
                        "failed-session-count": 100,
                    },
                    {
                        "result-type": "starttls-not-supported",
                        "sending-mta-ip": "2001:db8:abcd:0013::1",
                        "receiving-mx-hostname": "mx2.mail.company-y.example",
                        "receiving-ip": "203.0.113.56",
                        "failed-session-count": 200,
                    },
                    {
                        "result-type": "validation-failure",
                        "sending-mta-ip": "198.51.100.62",
                        "receiving-ip": "203.0.113.58",
                        "receiving-mx-hostname": "mx-backup.mail.company-y.example",
                        "failed-session-count": 3,
                        "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                    },
                ],
            }
        ],
    }


def test_a_domain_without_a_policy() -> None:
    report = DayReport("a.example", date(2026, 2, 28), (PolicyCount(ReportPolicy("a.example"), 7, 0),))
    made = json.loads(build_report(report, organization="O", contact="c@o.example", report_id="1"))
    assert made["policies"] == [
        {
            "policy": {"policy-type": "no-policy-found", "policy-domain": "a.example"},
            "summary": {"total-successful-session-count": 7, "total-failure-session-count": 0},
        }
    ]
    assert made["date-range"]["end-datetime"] == "2026-02-28T23:59:59Z"


def test_the_result_types_are_those_of_the_rfc() -> None:
    assert len(RESULT_TYPES) == 11  # §4.3.1: four, §4.3.2.1: four, §4.3.2.2: three


def test_the_file_and_its_name() -> None:
    assert gzip.decompress(report_file(b"{}")) == b"{}"
    assert report_file(b"{}") == report_file(b"{}")
    name = report_name(EXAMPLE, submitter="mail.sender.example", unique="001")
    assert name == "mail.sender.example!company-y.example!1459468800!1459555199!001.json.gz"


def test_the_message_that_carries_it() -> None:
    compressed = report_file(b'{"report": 1}' * 40)
    octets = report_mail(
        EXAMPLE,
        compressed,
        submitter="mail.sender.example",
        contact="postmaster@mail.sender.example",
        recipient="tlsrpt@company-y.example",
        report_id=REPORT_ID,
        now=1459560000.0,
    )
    assert max(len(line) for line in octets.split(b"\r\n")) <= 998
    assert b"\n" not in octets.replace(b"\r\n", b"")
    message = email.message_from_bytes(octets, policy=email.policy.default)
    assert message["TLS-Report-Domain"] == "company-y.example"
    assert message["TLS-Report-Submitter"] == "mail.sender.example"
    assert message["TLS-Required"] == "No"
    assert message["From"] == "postmaster@mail.sender.example"
    assert message["To"] == "tlsrpt@company-y.example"
    assert message["Subject"] == (
        f"Report Domain: company-y.example Submitter: mail.sender.example Report-ID: <{REPORT_ID}@mail.sender.example>"
    )
    assert message["Date"].datetime.timestamp() == 1459560000
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "tlsrpt"
    text, report = message.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert "MTA-STS: 5326 sessions over TLS, 303 failures" in text.get_content()
    assert report.get_content_type() == "application/tlsrpt+gzip"
    assert report.get_content_disposition() == "attachment"
    assert report.get_filename() == report_name(EXAMPLE, submitter="mail.sender.example", unique=REPORT_ID)
    assert report.get_content() == compressed
    assert not message.defects
