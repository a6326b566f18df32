"""What a session asks of a Permission: the binding and its evasions, and what is done to a header section."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium._core.address_list import parse_addresses
from angarium._core.header import HeaderSection
from tests.support import corpus
from tests.support.permission import permission

MESSAGES = corpus.load()
ME = 'reverse_paths = ["me@example.org"]'
DONE = b"Date: x\r\nMessage-ID: <1@example.org>\r\n"
NOT_YOURS = "550 5.7.1 You may not send with this From: an address in it is none of yours"
SEVERAL = "550 5.7.1 The message has several From or Sender fields (RFC 5322 section 3.6)"
UNREADABLE = "550 5.7.1 The From or Sender field cannot be read (RFC 5322 section 3.4)"
NO_FIELD = "550 5.7.1 A line of the header section is no field (RFC 5322 section 2.2)"
NO_FROM = "550 5.7.1 The message has no From field, and it must be from an address of yours"

# every way that was thought of to have readers see another From than the one that was looked at
EVASIONS = {
    "another address": (b"From: boss@example.org\r\n", NOT_YOURS),
    "another domain": (b"From: me@example.com\r\n", NOT_YOURS),
    "a domain below": (b"From: me@x.example.org\r\n", NOT_YOURS),
    "mine as its display name": (b'From: "me@example.org" <boss@example.org>\r\n', NOT_YOURS),
    "mine as its comment": (b"From: boss@example.org (me@example.org)\r\n", NOT_YOURS),
    "mine in a comment in front": (b"From: (me@example.org) boss@example.org\r\n", NOT_YOURS),
    "mine in a comment within": (b"From: boss(@me)@(me@)example.org\r\n", NOT_YOURS),
    "a second address": (b"From: me@example.org, boss@example.org\r\n", NOT_YOURS),
    "a second address on its own line": (b"From: me@example.org,\r\n boss@example.org\r\n", NOT_YOURS),
    "in a group": (b"From: us: me@example.org, boss@example.org;\r\n", NOT_YOURS),
    "an empty group": (b"From: undisclosed:;\r\n", UNREADABLE),
    "an empty field": (b"From:\r\n", UNREADABLE),
    "two fields": (b"From: me@example.org\r\nFrom: boss@example.org\r\n", SEVERAL),
    "two fields, apart, in other letters": (b"fRoM: me@example.org\r\nX: y\r\nFROM: boss@example.org\r\n", SEVERAL),
    "two fields, one with a blank": (b"From: me@example.org\r\nFrom : boss@example.org\r\n", SEVERAL),
    "two of mine": (b"From: me@example.org\r\nFrom: me@example.org\r\n", SEVERAL),
    "a route": (b"From: <@example.org,@example.net:boss@example.org>\r\n", NOT_YOURS),
    "mine as a route": (b"From: <@me.example.org:boss@example.org>\r\n", NOT_YOURS),
    "two domains": (b"From: me@example.org@example.com\r\n", UNREADABLE),
    "two angle addresses": (b"From: <me@example.org> <boss@example.org>\r\n", UNREADABLE),
    "something behind": (b"From: <me@example.org> boss@example.org\r\n", UNREADABLE),
    "something in front": (b"From: boss@example.org <me@example.org>\r\n", UNREADABLE),
    "a semicolon": (b"From: me@example.org; boss@example.org\r\n", UNREADABLE),
    "brackets within": (b"From: <boss@example.org<me@example.org>>\r\n", UNREADABLE),
    "open brackets": (b"From: <me@example.org\r\n", UNREADABLE),
    "an open quote": (b'From: "me <boss@example.org>\r\n', UNREADABLE),
    "an open comment": (b"From: me@example.org (boss\r\n", UNREADABLE),
    "mine in quotes": (b'From: "me@example.org"\r\n', NOT_YOURS),
    "mine in quotes at another": (b'From: "me@example.org"@example.com\r\n', NOT_YOURS),
    "a word without a domain": (b"From: boss\r\n", NOT_YOURS),
    "a word in front": (b"From: boss, me@example.org\r\n", NOT_YOURS),
    "an encoded word as the local part": (b"From: =?utf-8?q?me?=@example.org\r\n", NOT_YOURS),
    "an encoded word as the whole address": (b"From: =?utf-8?q?me=40example=2Eorg?=\r\n", NOT_YOURS),
    "an encoded address": (b"From: =?utf-8?q?x?= <=?utf-8?q?boss?=@example.org>\r\n", NOT_YOURS),
    "a NUL": (b"From: me@example.org\0boss@example.org\r\n", UNREADABLE),
    "a bare CR": (b"From: me@example.org\rFrom: boss@example.org\r\n", UNREADABLE),
    "octets that are no UTF-8": (b"From: \xff <me@example.org>\r\n", UNREADABLE),
    "a letter that looks the same": ("From: m\u0435@example.org\r\n".encode(), NOT_YOURS),
    "a domain that looks the same": ("From: me@ex\u0430mple.org\r\n".encode(), NOT_YOURS),
    "a tagged address": (b"From: me+boss@example.org\r\n", NOT_YOURS),
    "a dot at the end of the domain": (b"From: me@example.org.\r\n", UNREADABLE),
    "a Sender of another": (
        b"From: me@example.org\r\nSender: boss@example.org\r\n",
        "550 5.7.1 You may not send with this Sender: an address in it is none of yours",
    ),
    "two Senders": (b"From: me@example.org\r\nSender: me@example.org\r\nSender: boss@example.org\r\n", SEVERAL),
    "a Sender that cannot be read": (b"From: me@example.org\r\nSender: <\r\n", UNREADABLE),
    "behind a line that is no field": (b"From: me@example.org\r\nx\r\nFrom: boss@example.org\r\n", NO_FIELD),
    "behind the line of a mailbox file": (b"X: y\r\nFrom me\r\nFrom: boss@example.org\r\n", NO_FIELD),
    "its name folded": (b"X: y\r\nFrom\r\n : boss@example.org\r\n", NO_FIELD),
    "its name with a NUL": (b"X: y\r\nFrom\0: boss@example.org\r\n", NO_FIELD),
    "a mark in front of its name": (b"X: y\r\n\xef\xbb\xbfFrom: boss@example.org\r\n", NO_FIELD),
}


@pytest.mark.parametrize("title", EVASIONS)
def test_there_is_no_way_around_the_binding(title: str) -> None:
    fields, reply = EVASIONS[title]
    allowed = permission(ME, log_in="me")
    for head in (b"", b"Subject: x\r\n"):
        data = head + fields + DONE + b"\r\nbody\r\n"
        assert allowed.tidied(data, b"me@example.org", smtputf8=True) == reply
    # and who is not bound may write what it likes
    assert isinstance(permission().tidied(fields + DONE + b"\r\nbody\r\n", b"me@example.org", smtputf8=True), bytes)


@pytest.mark.parametrize(
    "value",
    [
        b"me@example.org",
        b"Me <me@example.org>",
        b'"Me, Myself" <me@example.org>',
        b"ME@Example.ORG",
        b'"me"@example.org',
        b"me (the boss) @ example . org",
        b"Me.And.I <me@example.org>",
        b"=?utf-8?q?M=C3=A9?= <me@example.org>",
        b"us: me@example.org;",
        b"me@example.org, Me <me@example.org>",
        b"<@example.net:me@example.org>",
        b"Me\r\n <me@example.org>",
        "M\u00e9 <me@example.org>".encode(),
        b",, me@example.org,",
    ],
)
def test_an_address_of_its_own_passes_untouched(value: bytes) -> None:
    allowed = permission(ME, log_in="me")
    data = b"From: " + value + b"\r\n" + DONE + b"\r\nbody\r\n"
    for _ in range(2):  # asked, and remembered
        assert allowed.tidied(data, b"me@example.org", smtputf8=True) == data


def test_without_fix_ups_the_binding_holds_too() -> None:
    allowed = permission(ME + "\nfix_up = false", log_in="me")
    assert allowed.tidied(b"Subject: x\r\n\r\n", b"me@example.org") == NO_FROM
    assert allowed.tidied(b"", b"me@example.org") == NO_FROM
    assert allowed.tidied(b"body\r\nFrom: boss@example.org\r\n", b"me@example.org") == NO_FROM
    assert allowed.tidied(b"From: me\r\n\r\n", b"me@example.org") == NOT_YOURS  # somebody may complete it otherwise
    assert allowed.tidied(b"From: me@example.org\r\n\r\n", b"me@example.org") == b"From: me@example.org\r\n\r\n"


def test_what_is_remembered_of_one_field_is_no_verdict_on_another() -> None:
    allowed = permission('reverse_paths = ["me@example.org", "me@example.net"]\nfrom_addresses = ["me@example.org"]')
    data = b"From: me\r\n" + DONE + b"\r\n"
    assert allowed.tidied(data, b"me@example.org") == data.replace(b"me", b"me@example.org", 1)
    assert allowed.tidied(data, b"me@example.net") == NOT_YOURS
    for number in range(2000):
        allowed.tidied(b"From: Me%d <me@example.org>\r\n" % number + DONE + b"\r\n", b"me@example.org")
    assert allowed.tidied(b"From: boss@example.org\r\n\r\n", b"me@example.org") == NOT_YOURS


def test_a_from_that_is_added_must_be_allowed_as_well() -> None:
    allowed = permission('reverse_paths = ["bounces@example.org"]\nfrom_addresses = ["news@example.org"]')
    assert allowed.tidied(b"Subject: x\r\n\r\n", b"bounces@example.org") == NO_FROM


@pytest.mark.parametrize(
    ("log_in", "path", "author"),
    [
        ("me", b"me@example.net", b"From: me@example.net\r\n"),
        ("me", b"", b"From: me@relay.example.org\r\n"),
        ("me@example.org", b"", b"From: me@example.org\r\n"),
        ("", b"", b""),
        ("not a name", b"", b""),
    ],
)
def test_a_missing_from_is_made_of_what_is_known(log_in: str, path: bytes, author: bytes) -> None:
    tidied = permission(log_in=log_in).tidied(b"\r\nbody\r\n", path)
    assert isinstance(tidied, bytes)
    head, _, body = tidied.partition(b"\r\n\r\n")
    assert body == b"body\r\n"
    assert (author in head + b"\r\n") if author else b"From" not in head


@pytest.mark.parametrize(
    ("value", "completed"),
    [
        (b"me", b"me@example.net"),
        (b"Me <me> (x)", b"Me <me@example.net> (x)"),
        (b"us: <me>, you@example.org, <them>;", b"us: <me@example.net>, you@example.org, <them@example.net>;"),
        (b'"a b"', b'"a b"@example.net'),
        (b"me (of\r\n course)", b"me@example.net (of\r\n course)"),
        # a comma in a name that should stand in quotes
        (b"Mary, Smith <mary@example.org>", b"Mary, Smith <mary@example.org>"),
        (b"what is <this", b"what is <this"),
    ],
)
def test_an_address_without_a_domain_gets_one(value: bytes, completed: bytes) -> None:
    data = b"Subject: x\r\nFrom: " + value + b"\r\n" + DONE + b"\r\nbody\r\n"
    expected = b"Subject: x\r\nFrom: " + completed + b"\r\n" + DONE + b"\r\nbody\r\n"
    assert permission().tidied(data, b"me@example.net") == expected


def test_blind_copies_are_taken_out() -> None:
    data = b"BCC: a@example.net\r\n" + DONE + b"From: x@y\r\nResent-Bcc: b\r\nbcc:\r\n c\r\nTo: d\r\n\r\nBcc: body\r\n"
    tidied = permission().tidied(data, b"x@y")
    assert tidied == DONE + b"From: x@y\r\nTo: d\r\n\r\nBcc: body\r\n"


def test_a_legacy_device_is_helped() -> None:
    device = permission(
        'networks = ["10.0.0.0/8"]\nlegacy = true\nrewrite_from = "Scanner <scan@example.org>"', role="relay"
    )
    cases = {
        b"": b"",
        b"Subject: Scan\r\n\r\nx": b"Subject: Scan\r\n\r\nx",
        b"no header at all\r\n": b"\r\nno header at all\r\n",
        b"Subject: Scan\r\npage one\r\n": b"Subject: Scan\r\n\r\npage one\r\n",
        b"From: root@localhost\r\nX: y\r\n\r\n": b"X-Original-From: root@localhost\r\nX: y\r\n\r\n",
        b"From: a\r\nFrom: b\r\nSender: c\r\n\r\n": b"X-Original-From: a\r\n\r\n",
        b"Subject: gr\xfc\xdfe\r\nFrom: \xfc\r\n\r\n": b"X-Original-From: \xfc\r\nSubject: gr\xfc\xdfe\r\n\r\n",
    }
    for data, rest in cases.items():
        tidied = device.tidied(data, b"scan@example.org")
        assert isinstance(tidied, bytes), data
        head = b"Date: Thu, 26 Nov 2026 00:00:00 +0000\r\nMessage-ID: <0000000000001@relay.example.org>\r\n"
        assert tidied == head + b"From: Scanner <scan@example.org>\r\n" + rest, data
    own = b"From: scan@example.org\r\n" + DONE + b"\r\n"
    assert device.tidied(own, b"scan@example.org") == own


@pytest.mark.parametrize("name", MESSAGES)
def test_real_messages_only_gain_what_they_lack(name: str) -> None:
    message = MESSAGES[name]
    tidied = permission().tidied(message, b"me@origin.test", smtputf8=True)
    assert isinstance(tidied, bytes)
    section = HeaderSection(message)
    lacks = [field for field in (b"Date", b"Message-ID", b"From") if not section.count(field)]
    section.remove(b"bcc")
    section.remove(b"resent-bcc")
    kept = section.render() + message[section.length :]
    head = tidied.removesuffix(kept)
    assert head + kept == tidied
    assert [field.partition(b":")[0] for field in head.splitlines() if field] == lacks


@given(
    st.binary(max_size=200), st.sampled_from(["", 'networks = ["10.0.0.0/8"]\nlegacy = true']), st.binary(max_size=20)
)
def test_whatever_comes_the_body_stays(data: bytes, text: str, path: bytes) -> None:
    tidied = permission(text).tidied(data, path, smtputf8=True)
    assert isinstance(tidied, bytes)
    assert tidied.endswith(data[HeaderSection(data).body :])
    assert HeaderSection(tidied).count(b"date") == max(1, HeaderSection(data).count(b"date"))


# ---------------------------------------------------------------- what holds of every header section

names = st.sampled_from([b"From", b"from", b"Sender", b"Bcc", b"Resent-Bcc", b"Date", b"Message-ID", b"To", b"X"])
values = st.sampled_from(
    [b"me@example.org", b"boss@example.org", b"me", b"Me <me>", b"a, b", b"<", b"", b"x\r\n y", b"\xff", b"g: me;"]
)
fields = st.lists(st.tuples(names, values).map(lambda pair: pair[0] + b": " + pair[1] + b"\r\n"), max_size=7)
ends = st.sampled_from([b"", b"\r\nbody\r\n", b"no field\r\nFrom: boss@example.org\r\n", b" x\r\n"])
keys = st.sampled_from(["", ME, ME + "\nfix_up = false", 'networks = ["10.0.0.0/8"]\nlegacy = true\n' + ME])


@given(fields, ends, keys, st.booleans(), st.booleans())
def test_what_passes_is_whole_and_bound(
    lines: list[bytes], end: bytes, text: str, rewritten: bool, smtputf8: bool
) -> None:
    if rewritten and text:
        text += '\nrewrite_from = "me@example.org"'
    data = b"".join(lines) + end
    tidied = permission(text, log_in="me").tidied(data, b"me@example.org", smtputf8=smtputf8)
    if isinstance(tidied, str):
        assert tidied.startswith(("550 5.7.1 ", "554 5.6.0 "))
        assert not rewritten or not text or "no field" in tidied or tidied.startswith("554")
        return
    section = HeaderSection(tidied)
    before = HeaderSection(data)
    if "fix_up = false" not in text:
        assert section.count(b"bcc") == section.count(b"resent-bcc") == 0
        for name in (b"date", b"message-id", b"from"):
            assert section.count(name) == max(1, before.count(name)) or rewritten
    # nothing that was not asked for is lost, and the body is what it was
    for name in (b"to", b"x", b"date", b"message-id"):
        assert before.get_all(name) == section.get_all(name)[-before.count(name) :] or not before.count(name)
    assert tidied.endswith(data[before.body :])
    if text:
        assert section.count(b"from") == 1
        (value,) = section.get_all(b"from")
        found = parse_addresses(value)
        assert found is not None
        assert {(local, domain) for local, domain, _, _ in found} == {(b"me", b"example.org")}
        assert not section.malformed
