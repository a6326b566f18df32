"""The values that are written as text: durations, sizes, addresses, networks, next hops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.config.address import DnsServer, ListenAddress, Network, covers_everything
from angarium.config.next_hop import NextHop
from angarium.config.units import MemoryBudget, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("90s", 90),
        ("1m", 60),
        ("4h", 14400),
        ("5d", 432000),
        ("1h30m", 5400),
        ("0.5s", 0.5),
        ("0s", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "1 m", "m", "-1s", "1w", "1m!", "!1m", "1e3s", "4000d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a duration|ten years"):
        parse_duration(text)


@given(st.integers(0, 86400 * 1000))
def test_a_duration_is_read_back_from_its_text(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("50MB", 50_000_000),
        ("64KiB", 65536),
        ("4096", 4096),
        ("1GiB", 2**30),
        ("1.5 KB", 1500),
        ("7B", 7),
        ("2gb", 2 * 10**9),
    ],
)
def test_sizes(text: str, octets: int) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize("text", ["", "MB", "-1", "5TB", "1.5", "0.3KiB", "9999999999GB", "5 0"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a size|whole number|million"):
        parse_size(text)


@given(st.integers(0, 2**45))
def test_a_size_is_read_back_from_its_text(octets: int) -> None:
    assert parse_size(format_size(octets)) == octets


def test_memory_budget_is_a_share_or_a_size() -> None:
    assert MemoryBudget.parse("25%") == MemoryBudget(percent=25.0)
    assert MemoryBudget.parse("2GB") == MemoryBudget.parse(2_000_000_000) == MemoryBudget(octets=2_000_000_000)
    assert [str(MemoryBudget.parse(text)) for text in ("12.5%", "2GB")] == ["12.5%", "2GB"]
    for text in ("0%", "91%", "lots", "1000"):
        with pytest.raises(ValueError, match=r"memory|1MiB"):
            MemoryBudget.parse(text)


@pytest.mark.parametrize(
    ("text", "shown", "loopback"),
    [
        ("0.0.0.0:25", "0.0.0.0:25", False),
        ("127.0.0.1:0", "127.0.0.1:0", True),
        ("127.3.2.1:25", "127.3.2.1:25", True),
        ("localhost:8025", "127.0.0.1:8025", True),
        ("[::1]:25", "[::1]:25", True),
        ("[2001:DB8:0::1]:25", "[2001:db8::1]:25", False),
        ("unix:/run/a.sock", "unix:/run/a.sock", True),
    ],
)
def test_listen_addresses(text: str, shown: str, loopback: bool) -> None:
    address = ListenAddress.parse(text)
    assert (str(address), address.is_loopback) == (shown, loopback)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("25", "not an address and a port"),
        (":25", "not an address and a port"),
        ("127.0.0.1", "not an address and a port"),
        ("127.0.0.1:65536", "not a port number"),
        ("127.0.0.1:x", "not a port number"),
        ("127.0.0.1:٢٥", "not a port number"),
        ("mail.example.org:25", "not an IP address"),
        ("::1:25", "in brackets"),
        ("[::1", "IPv6 address"),
        ("[::1]25", "IPv6 address"),
        ("[1.2.3.4]:25", "not an IPv6 address"),
        ("unix:run/a.sock", "absolute path"),
    ],
)
def test_what_is_no_listen_address(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ListenAddress.parse(text)


def test_name_servers() -> None:
    written = ["127.0.0.1", "127.0.0.1:5353", "::1", "[::1]:5353"]
    assert [str(DnsServer.parse(text)) for text in written] == [
        "127.0.0.1:53",
        "127.0.0.1:5353",
        "[::1]:53",
        "[::1]:5353",
    ]
    for text in ("dns.example", "127.0.0.1:0", "127.0.0.1:"):
        with pytest.raises(ValueError, match=r"by name|port number"):
            DnsServer.parse(text)


def test_networks_hold_addresses() -> None:
    private = Network.parse("10.0.0.0/8")
    assert "10.255.0.1" in private
    assert "11.0.0.1" not in private
    assert "::ffff:10.1.2.3" in private  # an IPv4 client of an IPv6 socket
    assert "::a00:1" not in private
    assert "192.0.2.7" in Network.parse("192.0.2.7")
    assert "192.0.2.8" not in Network.parse("192.0.2.7")
    assert "2001:db8::5" in Network.parse("2001:db8::/32")
    assert "10.0.0.1" not in Network.parse("::/0")
    assert str(private) == "10.0.0.0/8"


def test_a_network_with_host_bits_names_the_network_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r'the network is "10\.0\.0\.0/8"'):
        Network.parse("10.0.0.1/8")
    with pytest.raises(ValueError, match="is not a network"):
        Network.parse("10.0.0.0/33")


@pytest.mark.parametrize(
    ("networks", "everything"),
    [
        (["0.0.0.0/0"], True),
        (["128.0.0.0/1", "0.0.0.0/1"], True),
        (["0.0.0.0/1", "10.0.0.0/8", "128.0.0.0/2", "192.0.0.0/2"], True),
        (["0.0.0.0/1", "128.0.0.0/2"], False),
        (["128.0.0.0/1"], False),
        (["::/0"], True),
        (["10.0.0.0/8"], False),
        ([], False),
    ],
)
def test_networks_that_are_the_whole_world(networks: list[str], everything: bool) -> None:
    assert covers_everything([Network.parse(text) for text in networks]) is everything


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mx", "mx"),
        ("smtp://mail.example.org", "smtp://mail.example.org:25"),
        ("SMTP://Mail.Example.ORG.:2525", "smtp://mail.example.org:2525"),
        ("smtp://[::1]:25", "smtp://[::1]:25"),
        ("smtp://127.0.0.1:26/", "smtp://127.0.0.1:26"),
        ("smtps://h", "smtps://h:465"),
        ("lmtp://h", "lmtp://h:24"),
        ("lmtp+unix:/run/dovecot/lmtp", "lmtp+unix:/run/dovecot/lmtp"),
        ("maildir:/var/mail/x", "maildir:/var/mail/x"),
        ("pipe: /bin/cat -n", "pipe:/bin/cat -n"),
        ("discard:", "discard:"),
    ],
)
def test_next_hops(text: str, shown: str) -> None:
    next_hop = NextHop.parse(text)
    assert str(next_hop) == shown
    assert NextHop.parse(shown) == next_hop


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("bounce:", (550, (5, 7, 1), "Refused by configuration")),
        ("bounce:550 5.1.1 No such user here", (550, (5, 1, 1), "No such user here")),
        ("bounce:550 No such user", (550, (5, 7, 1), "No such user")),
        ("bounce:554 Go away", (554, (5, 0, 0), "Go away")),
        ("bounce:450 4.2.1", (450, (4, 2, 1), "Refused by configuration")),
    ],
)
def test_the_reply_of_a_bounce(text: str, reply: tuple[int, tuple[int, int, int], str]) -> None:
    assert NextHop.parse(text).reply == reply


def test_the_words_of_a_pipe_are_those_of_a_shell() -> None:
    words = NextHop.parse("pipe:/bin/x -f '{sender} s' a\\ b {{literal}} \"{recipient}\"").words
    assert [word.fill(lambda name: name.upper().encode()) for word in words] == [
        b"/bin/x",
        b"-f",
        b"SENDER s",
        b"a b",
        b"{literal}",
        b"RECIPIENT",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("smpt://h", 'did you mean "smtp://host:port"'),
        ("mail.example.org", "a next hop is one of mx, smtp://host:port"),
        ("", "a next hop is one of"),
        ("mx:example.org", "takes nothing behind it"),
        ("discard", 'written "discard:"'),
        ("discard:x", "takes nothing behind it"),
        ("smtp:host", "two slashes"),
        ("smtp://", "names no host"),
        ("smtp://:25", "names no host"),
        ("smtp://h:0", "not a port number from 1"),
        ("smtp://h:", "not a port number"),
        ("smtp://u:p@h", "user and password"),
        ("smtp://h:25/x", "more behind the port"),
        ("smtp://::1", "in brackets"),
        ("smtp://a b", "not a host name"),
        ("smtp://1.2.3", "neither an IP address nor a host name"),
        ("smtp://-a.b", "not a host name"),
        ("maildir:var/mail", "absolute path"),
        ("maildir:/var/{locale}", "did you mean {local}"),
        ("maildir:/var/{sender}", "{sender} stands for nothing"),
        ("maildir:/var/{local", "a brace alone"),
        ("maildir:/var/../{local}", "have no place in a path"),
        ("pipe: ", "names no program"),
        ("pipe:procmail -d x", "absolute path"),
        ("pipe:/bin/{local}", "absolute path"),
        ("pipe:/bin/cat 'x", "no closing quotation"),
        ("pipe:/bin/cat {recipent}", "did you mean {recipient}"),
        ("bounce:250 ok", "with a code of 4yz or 5yz"),
        ("bounce:nobody", "with a code of 4yz or 5yz"),
        ("bounce:550 4.1.1 x", "550 and 4.1.1 contradict each other"),
        ("bounce:421 4.3.2 x", "421 is said of a connection"),
        ("bounce:550 5.1.1 caf\u00e9", "printable ASCII"),
    ],
)
def test_what_is_no_next_hop(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        NextHop.parse(text)


def test_only_a_loopback_address_counts_as_loopback() -> None:
    hops = ["smtp://127.0.0.1", "smtp://127.9.9.9", "smtp://[::1]", "smtp://localhost", "smtp://192.0.2.1", "mx"]
    assert [NextHop.parse(text).is_loopback for text in hops] == [True, True, True, False, False, False]
