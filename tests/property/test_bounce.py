"""Whatever a client or a next hop says, a notification keeps its structure."""

import email
import email.policy

from hypothesis import given
from hypothesis import strategies as st

from angarium._core.command import Notify, encode_xtext
from angarium.config.wording import shipped_wordings
from angarium.mail.status import EnhancedStatus
from angarium.outcome.bounce import OriginalMessage, RecipientReport, build_dsn

octets = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.sampled_from([b"\r\n", b"\n", b" ", b"--", b"=_id.example_0", b"x" * 90, b": ", b";", b"\xc3\xa9", b"word"]),
        max_size=20,
    ).map(b"".join),
)
reports = st.builds(
    RecipientReport,
    forward_path=octets.map(lambda local: b'"' + local + b'"@example.net'),
    kind=st.sampled_from(["failed", "expired", "delayed", "relayed", "delivered", "expanded"]),
    status=st.just(EnhancedStatus(5, 0, 0)),
    text=octets,
    reply_code=st.sampled_from([0, 550]),
    remote_mta=octets,
    orcpt=st.one_of(st.just(b""), octets.map(lambda address: b"rfc822;" + encode_xtext(address))),
    last_attempt=st.just(1.7e9),
    retries_until=st.just(1.8e9),
    notify=st.just(Notify.NOTIFY_SUCCESS | Notify.NOTIFY_FAILURE | Notify.NOTIFY_DELAY),
)
originals = st.builds(
    OriginalMessage,
    queue_id=st.just("1"),
    reverse_path=octets.map(lambda local: local + b"@example.org"),
    mail_data=octets,
    received=st.floats(0, 4e9),
    envid=octets.map(encode_xtext),
    ret=st.integers(0, 2),
    smtputf8=st.booleans(),
)


@given(
    originals,
    st.lists(reports, min_size=1, max_size=3),
    st.lists(st.sampled_from(["en", "de"]), min_size=1, max_size=2),
)
def test_a_notification_has_three_parts_and_a_group_for_each_recipient(
    original: OriginalMessage, told: list[RecipientReport], languages: list[str]
) -> None:
    known = shipped_wordings()
    dsn = build_dsn(
        original,
        told,
        hostname="relay.example.org",
        now=1.7e9,
        message_id="id@example",
        wordings=[known[language] for language in languages],
    )
    assert dsn is not None
    assert dsn.eight_bit or not any(octet > 127 for octet in dsn.mail_data.partition(b"\r\n\r\n")[2])
    header, _, body = dsn.mail_data.partition(b"\r\n\r\n")
    assert dsn.smtputf8 or header.isascii()
    message = email.message_from_bytes(header + b"\r\n\r\n" + body, policy=email.policy.compat32)
    assert message["Subject"] is not None
    assert len(message.keys()) <= 12
    boundary = message.get_boundary()
    assert boundary is not None
    pieces = body.split(b"\r\n--" + boundary.encode())
    assert len(pieces) == 5, "preamble, three parts, the end"
    assert pieces[-1] == b"--\r\n"
    assert max(map(len, pieces[1].split(b"\r\n"))) <= 998
    status = pieces[2].partition(b"\r\n\r\n")[2]
    groups = status.removesuffix(b"\r\n").split(b"\r\n\r\n")
    assert len(groups) == 1 + len(told)
    for group in groups:
        for line in group.split(b"\r\n"):
            assert line.strip(), "no line of blanks in a header"
            assert b"\r" not in line
            assert b"\n" not in line
    for report, group in zip(told, groups[1:], strict=True):
        assert f"Action: {report.action}".encode() in group.split(b"\r\n")
