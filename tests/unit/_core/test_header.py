"""The walk over the header section and the edits of it, RFC 5322 §2.2 and §4.5."""

import time

import pytest

from angarium._core.header import HeaderSection, HeaderWalk

MAIL = (
    b"Received: from a.example (a.example [192.0.2.1])\r\n"
    b"\tby b.example with ESMTP id 1;\r\n"
    b"\tTue, 1 Jul 2025 10:00:00 +0000\r\n"
    b"received: from c.example by a.example; Tue, 1 Jul 2025 09:59:59 +0000\r\n"
    b"Date: Tue, 1 Jul 2025 09:59:58 +0000\r\n"
    b"FROM: Ada <ada@example.org>\r\n"
    b"To : Bob <bob@example.net>\r\n"
    b"Subject:  a subject\r\n"
    b"  of two lines \r\n"
    b"Message-ID:\r\n"
    b" <1@example.org>\r\n"
    b"\r\n"
    b"Subject: body\r\n"
)
HEADER = MAIL[: MAIL.index(b"\r\n\r\n") + 2]


def test_one_walk_finds_what_policy_asks() -> None:
    walk = HeaderWalk(MAIL)
    assert (walk.length, walk.body) == (len(HEADER), len(HEADER) + 2)
    assert (walk.fields, walk.received, walk.malformed) == (7, 2, False)
    assert walk.message_id == b"<1@example.org>"
    assert walk.from_ == b"Ada <ada@example.org>"
    assert walk.subject == b"a subject\r\n  of two lines"
    present = {name for name in dir(walk) if name.startswith("has_") and getattr(walk, name)}
    assert present == {"has_date", "has_message_id", "has_from", "has_to"}
    assert not walk.tls_required_no


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        (b"Date", "has_date"),
        (b"Message-ID", "has_message_id"),
        (b"From", "has_from"),
        (b"Sender", "has_sender"),
        (b"To", "has_to"),
        (b"Cc", "has_cc"),
        (b"Bcc", "has_bcc"),
    ],
)
def test_names_are_compared_whole_and_without_regard_to_case(name: bytes, fact: str) -> None:
    for spelling in (name, name.upper(), name.lower()):
        assert getattr(HeaderWalk(spelling + b": x\r\n\r\n"), fact)
    for other in (b"X" + name, name + b"X", name[:-1] + b"z", b"Z" + name[1:]):
        walk = HeaderWalk(other + b": x\r\n\r\n" + name + b": x\r\n")
        assert not any(getattr(walk, each) for each in dir(walk) if each.startswith("has_"))


def test_the_first_of_several_fields_counts() -> None:
    walk = HeaderWalk(b"Subject: a\r\nFrom: b\r\nMessage-ID: c\r\nSubject: d\r\nFrom: e\r\nMessage-ID: f\r\n\r\n")
    assert (walk.subject, walk.from_, walk.message_id) == (b"a", b"b", b"c")


def test_an_empty_field_is_not_an_absent_one() -> None:
    walk = HeaderWalk(b"Subject:\r\nFrom: \r\n \r\n\r\n")
    assert (walk.subject, walk.from_, walk.message_id) == (b"", b"", None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"No", True), (b"no", True), (b"\r\n NO ", True), (b"Yes", False), (b"None", False), (b"", False), (b"n", False)],
)
def test_tls_required_no(value: bytes, expected: bool) -> None:
    assert HeaderWalk(b"TLS-Required: " + value + b"\r\n\r\n").tls_required_no is expected


# data, length, body, fields, malformed
SECTIONS = {
    "nothing": (b"", 0, 0, 0, False),
    "empty section": (b"\r\nbody", 0, 2, 0, False),
    "empty section, LF": (b"\nbody", 0, 1, 0, False),
    "no body": (b"A: b\r\n", 6, 6, 1, False),
    "no line end": (b"A: b", 4, 4, 1, False),
    "no value": (b"A:", 2, 2, 1, False),
    "empty body": (b"A: b\r\n\r\n", 6, 8, 1, False),
    "LF lines": (b"A: b\n c\nB: c\n\nbody", 13, 14, 2, False),
    "fold of white space alone": (b"A: b\r\n \r\nB: c\r\n\r\n", 15, 17, 2, False),
    "cut in the empty line": (b"A: b\r\n\r", 6, 6, 1, True),
    "CR CR LF is no empty line": (b"A: b\r\n\r\r\n", 6, 6, 1, True),
    "no header section": (b"Hello\r\n", 0, 0, 0, True),
    "continuation of nothing": (b" A: b\r\n\r\n", 0, 0, 0, True),
    "colon first": (b": b\r\n\r\n", 0, 0, 0, True),
    "white space in the name": (b"A: b\r\nA B: c\r\n\r\n", 6, 6, 1, True),
    "mbox line": (b"From ada@example.org Tue Jul  1 10:00:00 2025\r\nA: b\r\n\r\n", 0, 0, 0, True),
    "eight-bit name": (b"A: b\r\n\xc3\xa9: c\r\n\r\n", 6, 6, 1, True),
    "control in the name": (b"A: b\r\nB\x7f: c\r\n\r\n", 6, 6, 1, True),
    "NUL in the name": (b"A: b\r\n\0: c\r\n\r\n", 6, 6, 1, True),
    "name cut by the end": (b"A: b\r\nBcc", 6, 6, 1, True),
    "colon on the next line": (b"A: b\r\nBcc\r\n : c\r\n", 6, 6, 1, True),
    "HTAB before the colon": (b"A\t: b\r\n\r\n", 7, 9, 1, False),
}


@pytest.mark.parametrize(("data", "length", "body", "fields", "malformed"), SECTIONS.values(), ids=SECTIONS)
def test_where_the_section_ends(data: bytes, length: int, body: int, fields: int, malformed: bool) -> None:
    walk, section = HeaderWalk(data), HeaderSection(data)
    assert (walk.length, walk.body, walk.fields, walk.malformed) == (length, body, fields, malformed)
    assert (section.length, section.body, len(section.fields()), section.malformed) == (length, body, fields, malformed)
    assert section.render() + data[section.length :] == data


@pytest.mark.parametrize(
    "data",
    [
        b"A" * 4_000_000,
        b"A: " + b"x" * 4_000_000,
        b"A: b\r\n" * 600_000,
        b"A: b\r\n" + b" \r\n" * 1_300_000,
        b"\r\n" + b"x" * 4_000_000,
    ],
    ids=["a name", "a value", "fields", "folds", "a body"],
)
def test_megabytes_are_walked_in_linear_time(data: bytes) -> None:
    begin = time.process_time()
    HeaderWalk(data)
    HeaderSection(data)
    assert time.process_time() - begin < 10, "quadratic time would be hours"


def test_fields_are_read_by_name() -> None:
    section = HeaderSection(MAIL)
    assert [name for name, _ in section.fields()] == [
        b"Received",
        b"received",
        b"Date",
        b"FROM",
        b"To",
        b"Subject",
        b"Message-ID",
    ]
    assert section.fields()[5] == (b"Subject", b"a subject\r\n  of two lines")
    assert section.get(b"TO") == b"Bob <bob@example.net>"
    assert section.get(b"Bcc") is None
    assert section.get_all(b"RECEIVED") == [section.get(b"received"), section.fields()[1][1]]
    assert section.get_all(b"Bcc") == []
    assert (section.count(b"received"), section.count(b"Bcc"), section.count(b"")) == (2, 0, 0)


def test_a_section_not_edited_is_rendered_as_it_came() -> None:
    section = HeaderSection(MAIL)
    assert section.remove(b"Bcc") == 0
    assert not section.replace(b"Bcc", b"x")
    assert not section.replace(b"Date", b"x", index=1)
    assert not section.edited
    assert section.render() == HEADER


def test_prepended_fields_stand_on_top_the_last_one_first() -> None:
    section = HeaderSection(MAIL)
    section.prepend(b"X-One", b"1")
    section.prepend(b"X-Two", b"2\r\n\tfolded")
    assert section.edited
    assert section.render() + MAIL[section.length :] == b"X-Two: 2\r\n\tfolded\r\nX-One: 1\r\n" + MAIL
    assert section.get(b"x-two") == b"2\r\n\tfolded"


def test_appended_fields_stand_behind_the_last_field() -> None:
    section = HeaderSection(MAIL)
    section.append(b"X-One", b"1")
    section.append(b"X-Two", b"")
    assert section.render() == HEADER + b"X-One: 1\r\nX-Two: \r\n"


def test_a_replaced_field_keeps_its_place_and_all_others_their_octets() -> None:
    section = HeaderSection(MAIL)
    assert section.replace(b"subject", b"new")
    assert section.replace(b"Received", b"second", index=1)
    expected = HEADER.replace(b"Subject:  a subject\r\n  of two lines \r\n", b"subject: new\r\n").replace(
        b"received: from c.example by a.example; Tue, 1 Jul 2025 09:59:59 +0000\r\n", b"Received: second\r\n"
    )
    assert section.render() == expected


def test_all_fields_of_a_name_are_removed() -> None:
    section = HeaderSection(MAIL)
    assert section.remove(b"RECEIVED") == 2
    assert section.render() == HEADER[HEADER.index(b"Date:") :]
    assert section.remove(b"RECEIVED") == 0
    for name, _ in section.fields():
        section.remove(name)
    assert (section.fields(), section.render()) == ([], b"")


def test_edits_see_each_other() -> None:
    section = HeaderSection(b"A: 1\r\n\r\n")
    section.prepend(b"B", b"2")
    section.append(b"b", b"3")
    assert section.get_all(b"B") == [b"2", b"3"]
    assert section.replace(b"B", b"4", index=1)
    assert section.remove(b"A") == 1
    assert section.fields() == [(b"B", b"2"), (b"B", b"4")]
    assert section.render() == b"B: 2\r\nB: 4\r\n"


def test_a_field_behind_one_without_line_end_begins_a_line() -> None:
    section = HeaderSection(b"A: 1\r\nB: 2")
    section.prepend(b"C", b"3")
    assert section.render() == b"C: 3\r\nA: 1\r\nB: 2"
    section.append(b"D", b"4")
    assert section.render() == b"C: 3\r\nA: 1\r\nB: 2\r\nD: 4\r\n"


def test_hundreds_of_edits() -> None:
    section = HeaderSection(b"A: 1\r\n\r\n")
    for i in range(500):
        section.prepend(b"P", b"%d" % i)
        section.append(b"Q", b"%d" % i)
    assert section.get_all(b"P") == [b"%d" % i for i in reversed(range(500))]
    assert section.get_all(b"Q") == [b"%d" % i for i in range(500)]
    assert section.get(b"A") == b"1"


NAMES = {
    b"": "a header field name is empty",
    b"A:": "octet 1",
    b"A B": "octet 1",
    b"\xc3\xa9": "octet 0",
    b"A\r\nB": "octet 1",
    b"A\0": "octet 1",
    b"A\x7f": "octet 1",
}
VALUES = {
    b"a\nb": "bare LF at octet 1",
    b"a\n b": "bare LF at octet 1",
    b"a\rb": "bare CR at octet 1",
    b"a\r": "bare CR at octet 1",
    b"a\r\r\n b": "bare CR at octet 1",
    b"a\r\nBcc: x": "no white space behind the CRLF at octet 1",
    b"a\r\n": "no white space behind the CRLF at octet 1",
    b"a\r\n\r\nbody": "no white space behind the CRLF at octet 1",
    b"a\0": "NUL at octet 1",
    b"a\r\n \r\n b": "a line of white space alone before octet 4",
    b"a\r\n\t": "its last line is white space alone",
}


@pytest.mark.parametrize(("name", "message"), NAMES.items())
def test_a_name_that_is_none_is_refused(name: bytes, message: str) -> None:
    section = HeaderSection(MAIL)
    for edit in (section.prepend, section.append, section.replace):
        with pytest.raises(ValueError, match=message):
            edit(name, b"x")
    assert not section.edited
    assert section.render() == HEADER


@pytest.mark.parametrize(("value", "message"), VALUES.items())
def test_a_value_that_is_not_one_field_is_refused(value: bytes, message: str) -> None:
    section = HeaderSection(MAIL)
    for edit in (section.prepend, section.append, section.replace):
        with pytest.raises(ValueError, match=rf"value of header field b'Subject': {message}"):
            edit(b"Subject", value)
    assert not section.edited
    assert section.render() == HEADER


@pytest.mark.parametrize("value", [b"", b" ", b"a\r\n b", b"\r\n a", b"a\r\n b\r\n\tc", b"\xc3\xa9", b"x" * 2000])
def test_a_value_is_taken_as_it_is(value: bytes) -> None:
    section = HeaderSection(b"")
    section.append(b"A", value)
    assert section.render() == b"A: " + value + b"\r\n"
    assert HeaderWalk(section.render() + b"\r\n").fields == 1


def test_any_buffer_is_taken_and_not_held() -> None:
    data = bytearray(MAIL)
    section = HeaderSection(memoryview(data))
    data[:] = b""  # would raise BufferError if the section held the buffer
    assert section.render() == HEADER
    with pytest.raises(TypeError):
        HeaderSection("A: b\r\n")


def test_a_section_is_initialised_once() -> None:
    section = HeaderSection(MAIL)
    with pytest.raises(TypeError, match="initialised once"):
        section.__init__(b"A: b\r\n")
    assert section.render() == HEADER


def test_names_and_values_are_bytes() -> None:
    section = HeaderSection(MAIL)
    for call in (section.get, section.get_all, section.count, section.remove):
        with pytest.raises(TypeError):
            call("Subject")
    for edit in (section.prepend, section.append, section.replace):
        with pytest.raises(TypeError):
            edit(b"Subject", "x")
        with pytest.raises(TypeError):
            edit("Subject", b"x")
