"""Log-ins as a client says them: the examples of the RFCs, the choice of the mechanism, what is refused."""

import base64

import pytest

from angarium.smtp.auth import AuthError, Credentials, begin, choose, decode_challenge

TIM = Credentials("tim", "tanstaaftanstaaf")


def test_plain() -> None:
    assert begin("PLAIN", TIM, "", 0).first == b"\0tim\0tanstaaftanstaaf"  # RFC 4616 §4


def test_cram_md5() -> None:
    exchange = begin("CRAM-MD5", TIM, "", 0)
    assert exchange.first is None
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"  # RFC 2195 §2
    assert exchange.answer(challenge) == b"tim b913a602c7eda7a495b4e6e7334d3890"


def test_login_answers_two_prompts_and_no_third() -> None:
    exchange = begin("LOGIN", TIM, "", 0)
    assert exchange.first is None
    assert exchange.answer(b"Username:") == b"tim"
    assert exchange.answer(b"whatever") == b"tanstaaftanstaaf"
    with pytest.raises(AuthError, match="asks for more than LOGIN has"):
        exchange.answer(b"Again:")


def test_oauthbearer() -> None:
    token = Credentials("user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==", is_token=True)
    exchange = begin("OAUTHBEARER", token, "server.example.com", 143)
    assert exchange.first is not None
    assert base64.b64encode(exchange.first) == (  # RFC 7628 §4.1
        b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52"
        b"YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )


def test_names_are_escaped_where_a_comma_would_end_them() -> None:
    exchange = begin("OAUTHBEARER", Credentials("a=b,c", "t", is_token=True), "h", 25)
    assert exchange.first == b"n,a=a=3Db=2Cc,\x01host=h\x01port=25\x01auth=Bearer t\x01\x01"


def test_xoauth2() -> None:
    exchange = begin("XOAUTH2", Credentials("someuser@example.com", "ya29.token", is_token=True), "h", 25)
    assert exchange.first == b"user=someuser@example.com\x01auth=Bearer ya29.token\x01\x01"


@pytest.mark.parametrize(("mechanism", "end"), [("OAUTHBEARER", b"\x01"), ("XOAUTH2", b"")])
def test_what_a_host_has_against_a_token_is_answered_once(mechanism: str, end: bytes) -> None:
    exchange = begin(mechanism, Credentials("u", "t", is_token=True), "h", 25)
    assert exchange.answer(b'{"status":"invalid_token","scope":"mail"}') == end
    assert exchange.refusal == "invalid_token"
    with pytest.raises(AuthError):
        exchange.answer(b"{}")


@pytest.mark.parametrize("challenge", [b"", b"no JSON", b"[]", b'{"status": ""}', b"\xff"])
def test_an_error_that_says_nothing_is_one_all_the_same(challenge: bytes) -> None:
    exchange = begin("XOAUTH2", Credentials("u", "t", is_token=True), "h", 25)
    exchange.answer(challenge)
    assert exchange.refusal == "invalid_token"


@pytest.mark.parametrize(
    ("offered", "is_token", "chosen"),
    [
        ("PLAIN LOGIN", False, "PLAIN"),
        ("login plain cram-md5", False, "CRAM-MD5"),
        ("LOGIN XOAUTH2", False, "LOGIN"),
        ("PLAIN XOAUTH2", True, "XOAUTH2"),
        ("XOAUTH2 OAUTHBEARER", True, "OAUTHBEARER"),
    ],
)
def test_the_strongest_that_the_host_offers(offered: str, is_token: bool, chosen: str) -> None:
    assert choose(offered, Credentials("u", "s", is_token)) == chosen


@pytest.mark.parametrize(
    ("offered", "is_token", "wanted"),
    [("", False, None), ("XOAUTH2", False, None), ("PLAIN", True, None), ("PLAIN CRAM-MD5", False, "LOGIN")],
)
def test_no_mechanism_fits(offered: str, is_token: bool, wanted: str | None) -> None:
    with pytest.raises(AuthError, match="the host offers no mechanism for this log-in"):
        choose(offered, Credentials("u", "secret words", is_token), wanted)


def test_a_mechanism_can_be_asked_for() -> None:
    assert choose("PLAIN CRAM-MD5 LOGIN", TIM, "LOGIN") == "LOGIN"


@pytest.mark.parametrize("user", ["a\0b", "a\r\nQUIT", "a\x01b"])
def test_no_control_character_leaves(user: str) -> None:
    with pytest.raises(AuthError, match="control character"):
        begin("PLAIN", Credentials(user, "s"), "", 0)


def test_challenges_are_base64() -> None:
    assert decode_challenge(" VXNlcm5hbWU6 ") == b"Username:"
    assert decode_challenge("") == b""
    with pytest.raises(AuthError, match="not in base64"):
        decode_challenge("Username:")


def test_a_secret_is_not_shown() -> None:
    assert "tanstaaf" not in repr(TIM)
