"""XCLIENT's arguments, right or wrong: the compiled reader says what the plain one says."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from angarium._core.xclient import read_xclient
from tests.reference.xclient import Said
from tests.reference.xclient import read_xclient as plain

attribute = st.sampled_from(
    [
        b"NAME",
        b"ADDR",
        b"PORT",
        b"PROTO",
        b"HELO",
        b"LOGIN",
        b"DESTADDR",
        b"DESTPORT",
        b"addr",
        b"Login",
        b"REVERSE",
        b"",
    ]
)
value = st.one_of(
    st.ip_addresses().map(lambda address: str(address).encode()),
    st.ip_addresses(v=6).map(lambda address: b"IPV6:" + str(address).encode()),
    st.integers(-1, 70000).map(lambda number: b"%d" % number),
    st.sampled_from([b"SMTP", b"esmtp", b"LMTP", b"[UNAVAILABLE]", b"[tempunavail]", b"[UNKNOWN]", b"", b"+00", b"+0"]),
    st.sampled_from(
        [b"anna+40example.org", "änna".encode(), b"+C3+A4nna", b"+C3", b"a+20b", b"a+7F", b"a=b", b"x" * 255]
    ),
    st.sampled_from([b"x" * 256, b"+41" * 255, b"1.2.3.04", b"IPV6:1.2.3.4", b"fe80::1%eth0", b"mail.example.org"]),
    st.binary(max_size=12),
)
word = st.one_of(
    st.tuples(attribute, value).map(b"=".join), attribute, st.tuples(st.binary(max_size=5), value).map(b"=".join)
)
arguments = st.lists(word, max_size=8).map(b" ".join)


def compiled(given_arguments: bytes) -> Said | bytes:
    said = read_xclient(given_arguments)
    if isinstance(said, bytes):
        return said
    return {
        "address": said.address,
        "name": said.name,
        "greeting": said.greeting,
        "login": said.login,
        "plain": said.plain,
    }


@given(arguments)
@example(b"NAME=spike.porcupine.org ADDR=168.100.189.2")
@example(b"ADDR=1.2.3.4+00")
@example(b"ADDR=IPV6:2001:DB8::1 PORT=65535 DESTPORT=65536")
def test_it_says_what_the_reference_says(given_arguments: bytes) -> None:
    assert compiled(given_arguments) == plain(given_arguments)
