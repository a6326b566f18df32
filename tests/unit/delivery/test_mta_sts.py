"""What is a record, what is a policy, and which hosts it covers: the grammar and the examples of RFC 8461."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.delivery.mta_sts import (
    LARGEST_POLICY,
    LONGEST_MAX_AGE_S,
    MOST_PATTERNS,
    Policy,
    PolicyError,
    parse_policy,
    record_id,
)


def policy_file(*lines: str, end: str = "\r\n") -> bytes:
    return "".join(line + end for line in lines).encode()


EXAMPLE = policy_file(  # RFC 8461 §3.2
    "version: STSv1",
    "mode: enforce",
    "mx: mail.example.com",
    "mx: *.example.net",
    "mx: backupmx.example.com",
    "max_age: 604800",
)


# ---------------------------------------------------------------- the TXT record, §3.1


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),  # the example of §3.1
        ([b"v=STSv1; id=20160831085700Z"], "20160831085700Z"),
        ([b"v=STSv1;id=1"], "1"),
        ([b"v=STSv1 \t; \tid=1 ; "], "1"),
        ([b"v=STSv1; a=b; id=1; x.y-z_0=!:<>~"], "1"),
        ([b"v=STSv1; id=1; id=2"], "1"),
        ([b"v=STSv1; id=" + b"a" * 32], "a" * 32),
        ([b"v=spf1 -all", b"v=STSv1; id=1"], "1"),
        ([b"v=STSv10; id=2", b"v=STSv1; id=1"], "1"),
        ([], None),
        ([b""], None),
        ([b"v=spf1 -all"], None),
        ([b"v=STSv1; id=1", b"v=STSv1; id=1"], None),
        ([b"v=STSv1; id=1", b"v=STSv1;"], None),
        ([b"v=STSv1"], None),
        ([b"v=STSv1;"], None),
        ([b"v=STSv1; a=b"], None),
        ([b"v=STSv1; id="], None),
        ([b"v=STSv1; id=" + b"a" * 33], None),
        ([b"v=STSv1; id=a-b"], None),
        ([b"v=STSv1; id=a b"], None),
        ([b"v=STSv1; id = 1"], None),
        ([b"v=STSv1; id=1;;"], None),
        ([b"v=STSv1; id=1; junk"], None),
        ([b"v=STSv1; id=1; " + b"n" * 33 + b"=1"], None),
        ([b"v=STSv1; ID=1"], None),
        ([b"V=STSv1; id=1"], None),
        ([b"v=stsv1; id=1"], None),
        ([b" v=STSv1; id=1"], None),
        ([b"v=STSv1; id=1\n"], None),
        ([b"v=STSv1; id=\xc3\xa4"], None),
    ],
)
def test_the_id_of_the_record(records: list[bytes], expected: str | None) -> None:
    assert record_id(records) == expected


# ---------------------------------------------------------------- the policy, §3.2


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_the_example_of_the_rfc(end: str) -> None:
    policy = parse_policy(EXAMPLE.replace(b"\r\n", end.encode()))
    assert policy == Policy("enforce", 604800, ("mail.example.com", "*.example.net", "backupmx.example.com"))
    assert policy.lines() == tuple(EXAMPLE.decode().splitlines()[i] for i in range(6))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (  # appendix A
            [
                "version: STSv1",
                "mode: enforce",
                "mx: mx1.example.com",
                "mx: mx2.example.com",
                "mx: mx.backup-example.com",
                "max_age: 1296000",
            ],
            Policy("enforce", 1296000, ("mx1.example.com", "mx2.example.com", "mx.backup-example.com")),
        ),
        (
            ["version: STSv1", "mode: testing", "mx: *.example.com", "max_age: 86400"],
            Policy("testing", 86400, ("*.example.com",)),
        ),
        (["version: STSv1", "mode: none", "max_age: 86400"], Policy("none", 86400, ())),
        (["version:STSv1", "mode:enforce  ", "mx:\tMX.Example", "max_age:0"], Policy("enforce", 0, ("mx.example",))),
        (
            ["max_age: 9999999999", "mx: a", "mode: enforce", "version: STSv1"],
            Policy("enforce", LONGEST_MAX_AGE_S, ("a",)),
        ),
        (
            ["version: STSv1", "mode: enforce", "mode: none", "max_age: 1", "max_age: x", "mx: a", "version: STSv2"],
            Policy("enforce", 1, ("a",)),
        ),
        (
            ["version: STSv1", "mode: enforce", "mx: a", "mx: A", "max_age: 1", "x-y.z_0: grüße: 日本"],
            Policy("enforce", 1, ("a",)),
        ),
        (["version: STSv1", "mode: enforce", "mx: xn--bcher-kva.example", "max_age: 1", "", ""],
         Policy("enforce", 1, ("xn--bcher-kva.example",))),
    ],
)  # fmt: skip
def test_policies(lines: list[str], expected: Policy) -> None:
    assert parse_policy(policy_file(*lines)) == expected


SOUND = ["version: STSv1", "mode: enforce", "mx: a.example", "max_age: 1"]


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", 'line 1: "" is not "key: value"'),
        (b"<html>\n</html>\n", "line 1"),
        (policy_file(*SOUND[1:]), "no version"),
        (policy_file(SOUND[0], *SOUND[2:]), "no mode"),
        (policy_file(*SOUND[:3]), "no max_age"),
        (policy_file(*SOUND[:2], SOUND[3]), "names no mail host"),
        (policy_file("version: STSv1", "mode: testing", "max_age: 1"), "names no mail host"),
        (policy_file("version: STSv2", *SOUND[1:]), '"STSv2" is not the version'),
        (policy_file("version: stsv1", *SOUND[1:]), "is not the version"),
        (policy_file(*SOUND[:1], "mode: Enforce", *SOUND[2:]), '"Enforce" is not a mode'),
        (policy_file(*SOUND[:1], "mode: report", *SOUND[2:]), "is not a mode"),
        (policy_file(*SOUND[:3], "max_age: -1"), "is not a max_age"),
        (policy_file(*SOUND[:3], "max_age: 1.5"), "is not a max_age"),
        (policy_file(*SOUND[:3], "max_age: 12345678901"), "is not a max_age"),
        (policy_file(*SOUND[:3], "max_age: ١"), "is not a max_age"),
        (policy_file(*SOUND[:3], "max_age:"), "max_age has no value"),
        (policy_file(*SOUND, "mx: *"), 'line 5: "*" is no host name'),
        (policy_file(*SOUND, "mx: *.*.example"), "is no host name"),
        (policy_file(*SOUND, "mx: mail*.example"), "is no host name"),
        (policy_file(*SOUND, "mx: .example"), "is no host name"),
        (policy_file(*SOUND, "mx: example."), "is no host name"),
        (policy_file(*SOUND, "mx: -a.example"), "is no host name"),
        (policy_file(*SOUND, "mx: bücher.example"), "is no host name"),
        (policy_file(*SOUND, "mx: a b"), "is no host name"),
        (policy_file(*SOUND, "mx: " + "a" * 256), "is no host name"),
        (policy_file(*SOUND, "", "x: y"), 'line 5: "" is not "key: value"'),
        (policy_file(*SOUND, "x y: z"), "line 5"),
        (policy_file(*SOUND, "x : z"), "line 5"),
        (policy_file(*SOUND, " x: z"), "line 5"),
        (policy_file(*SOUND, "x: a\0b"), "control characters"),
        (policy_file(*SOUND, "x: a\rb"), "control characters"),
        (policy_file(*SOUND, "x" * 33 + ": a"), "line 5"),
        (policy_file(*SOUND, "x: a").replace(b"a\r\n", b"\xff\r\n"), "not UTF-8"),
        (policy_file(*SOUND, "x: " + "a" * LARGEST_POLICY), "more than 65536 octets"),
        (policy_file(*SOUND, *(f"mx: h{i}" for i in range(MOST_PATTERNS))), "more than 500 mail hosts"),
    ],
)  # fmt: skip
def test_what_is_no_policy(octets: bytes, why: str) -> None:
    with pytest.raises(PolicyError) as failure:
        parse_policy(octets)
    assert why in str(failure.value)


# ---------------------------------------------------------------- hosts, §4.1


@pytest.mark.parametrize(
    ("pattern", "host", "covered"),
    [
        ("mail.example.com", "mail.example.com", True),
        ("mail.example.com", "MAIL.Example.com.", True),
        ("mail.example.com", "mail2.example.com", False),
        ("mail.example.com", "a.mail.example.com", False),
        ("*.example.com", "mail.example.com", True),  # the examples of §4.1
        ("*.example.com", "example.com", False),
        ("*.example.com", "foo.bar.example.com", False),
        ("*.example.com", "mail.example.net", False),
        ("*.com", "example.com", True),
        ("*.com", "com", False),
        ("*.example.com", "", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "*.example.com", True),
    ],
)
def test_which_hosts_are_covered(pattern: str, host: str, covered: bool) -> None:
    assert Policy("enforce", 1, ("other.example", pattern)).covers(host) is covered


# ---------------------------------------------------------------- anything at all


@given(st.lists(st.binary(max_size=80) | st.from_regex(rb"v=STSv1[ ;id=a-z0-9]*", fullmatch=True), max_size=3))
def test_any_answer_has_an_id_or_none(records: list[bytes]) -> None:
    found = record_id(records)
    assert found is None or (1 <= len(found) <= 32 and found.isalnum() and found.isascii())


LINE = st.sampled_from(
    ["version: STSv1", "mode: enforce", "mode: none", "max_age: 86400", "mx: *.example.com", "mx: a", "x: y", ""]
) | st.text(max_size=20)  # fmt: skip


@given(
    st.binary(max_size=200)
    | st.lists(LINE, max_size=10).map(lambda lines: "\r\n".join(lines).encode("utf-8", "replace"))
)
def test_any_file_is_a_policy_or_a_policy_error(octets: bytes) -> None:
    try:
        policy = parse_policy(octets)
    except PolicyError:
        return
    assert 0 <= policy.max_age_s <= LONGEST_MAX_AGE_S
    assert policy.patterns or policy.mode == "none"
    # what a report shows of it is the same policy
    assert parse_policy(policy_file(*policy.lines())) == policy
