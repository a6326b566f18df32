"""What a listener offers, and exchanges that wait for somebody else's answer; SCRAM against scramp's own client."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from scramp import ScramClient  # type: ignore[import-untyped]

from angarium._core.counters import Slab
from angarium._core.event_log import EventLog
from angarium._core.intake import CallbackIntake
from angarium._core.server_session import AuthVerdict, Reception
from angarium.config.address import ListenAddress
from angarium.config.credentials import Credentials
from angarium.config.model import Config, Listener, Node, Tls
from angarium.delivery.mail_host import ResolutionFailure
from angarium.ingress.authentication import Verifier, mechanisms_of
from angarium.ingress.exchange import Plain, Scram
from angarium.ingress.listener import make_profile
from angarium.policy.access_protocol import PASSWORD, PasswordAttempt, Verdict
from tests.support.certificates import Authority
from tests.support.log_ins import LOG_IN, Knows
from tests.support.log_ins import PASSWORD as RIGHT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from angarium._core.listener_profile import ListenerProfile

WHO = ("submission", "192.0.2.1")


def listener_of(**settings: Any) -> Listener:
    settings = {"role": "submission", "tls": "starttls", **settings}
    return Listener(name="submission", listen=ListenAddress(host="127.0.0.1", port=587), **settings)


def config_of(listener: Listener, *kinds: str, **rest: Any) -> Config:
    credentials = tuple(Credentials(kind=kind) for kind in kinds)  # type: ignore[arg-type]
    return Config(node=Node(hostname="a.example", spool="/s"), listener=(listener,), credentials=credentials, **rest)


def profile_of(config: Config, listener: Listener, verifier: Verifier | None = None) -> ListenerProfile:
    """Without a certificate of its own; what it would count and tell is no matter."""
    counters = Slab.create(1).region(0)
    reception = Reception(counters, EventLog(None, counters), CallbackIntake(lambda message, done: done(0)))
    return make_profile(config, listener, None, reception, verifier)


@pytest.mark.parametrize(
    ("kinds", "settings", "offered"),
    [
        (["file"], {}, "SCRAM-SHA-256 PLAIN LOGIN"),
        (["dovecot"], {}, "PLAIN LOGIN"),
        (["dovecot"], {"mechanisms": ("PLAIN", "SCRAM-SHA-256")}, "SCRAM-SHA-256 PLAIN"),
        (["file", "oauth2"], {}, "SCRAM-SHA-256 OAUTHBEARER XOAUTH2 PLAIN LOGIN"),
        # a client would take SCRAM, whoever knows its password
        (["file", "http"], {}, "PLAIN LOGIN"),
        (["file", "dovecot"], {}, "PLAIN LOGIN"),
        (["oauth2"], {}, "OAUTHBEARER XOAUTH2"),
        (["http", "oauth2"], {}, "OAUTHBEARER XOAUTH2 PLAIN LOGIN"),
        (["file"], {"mechanisms": ("PLAIN", "SCRAM-SHA-256-PLUS")}, "SCRAM-SHA-256-PLUS PLAIN"),
        (["file"], {"role": "relay"}, ""),
        (["file"], {"role": "relay", "mechanisms": ("LOGIN",)}, "LOGIN"),
        ([], {"auth": "any"}, "PLAIN LOGIN"),
    ],
)
def test_what_is_offered(kinds: list[str], settings: dict[str, Any], offered: str) -> None:
    listener = listener_of(**settings)
    assert " ".join(mechanisms_of(config_of(listener, *kinds), listener)) == offered


def test_no_binding_is_offered_without_a_certificate_that_has_a_hash(tmp_path: Path) -> None:
    for kind, offered in (("ec", (b"SCRAM-SHA-256-PLUS", b"PLAIN")), ("ed25519", (b"PLAIN",))):
        host = Authority("CA", kind=kind).issue("a.example")
        (tmp_path / "chain.pem").write_bytes(host.pem)
        listener = listener_of(mechanisms=("SCRAM-SHA-256-PLUS", "PLAIN"))
        tls = Tls(certificate=str(tmp_path / "chain.pem"), key="unused")
        verifier = Verifier(None)  # type: ignore[arg-type]  # nobody is asked
        assert profile_of(config_of(listener, "file", tls=tls), listener, verifier).mechanisms == offered


def test_a_listener_with_log_ins_needs_somebody_who_verifies_them() -> None:
    listener = listener_of()
    with pytest.raises(ValueError, match="nobody to verify them"):
        profile_of(config_of(listener, "file"), listener)


class Client:
    """A LookupClient that says what the test wants, or fails."""

    def __init__(self, said: Verdict | ResolutionFailure) -> None:
        self.said = said
        self.asked: list[object] = []

    def ask_once_then(
        self, kind: object, question: object, tell: Callable[[Verdict | ResolutionFailure], None]
    ) -> None:
        self.asked.append(question)
        tell(self.said)


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (Verdict("accepted", "alice"), "accepted"),
        (ResolutionFailure(False, 451, (4, 4, 3), "away"), "unavailable"),
    ],
)
def test_the_access_process_is_asked(said: Verdict | ResolutionFailure, outcome: str) -> None:
    client = Client(said)
    answered: list[Verdict] = []
    attempt = PasswordAttempt("alice", "x", "192.0.2.1", "submission", "PLAIN")
    Verifier(client).ask(PASSWORD, attempt, answered.append)  # type: ignore[arg-type]
    assert [verdict.outcome for verdict in answered] == [outcome]
    assert client.asked == [attempt]


def step(exchange: Any, response: str | bytes | None) -> Any:
    """What an exchange decides at once."""
    decided: list[Any] = []
    octets = response.encode() if isinstance(response, str) else response
    exchange.step(None if octets is None else base64.b64encode(octets), decided.append)
    return decided[0]


def text_of(challenge: bytes) -> str:
    return base64.b64decode(challenge).decode()


@pytest.mark.parametrize("initial", [True, False], ids=["initial response", "asked for"])
def test_scram_with_scramp_s_client(initial: bool) -> None:
    exchange = Scram(Knows(), *WHO, "SCRAM-SHA-256", [])
    client = ScramClient(["SCRAM-SHA-256"], LOG_IN, RIGHT)
    if not initial:
        decided: list[Any] = []
        exchange.step(None, decided.append)  # type: ignore[arg-type]
        assert decided == [b""]
    client.set_server_first(text_of(step(exchange, client.get_client_first())))
    client.set_server_final(text_of(step(exchange, client.get_client_final())))
    assert step(exchange, "") == LOG_IN


def test_scram_with_a_wrong_password() -> None:
    exchange = Scram(Knows(), *WHO, "SCRAM-SHA-256", [])
    client = ScramClient(["SCRAM-SHA-256"], LOG_IN, "wrong")
    client.set_server_first(text_of(step(exchange, client.get_client_first())))
    assert step(exchange, client.get_client_final()) == AuthVerdict.AUTH_REFUSED


def test_who_does_not_read_what_the_server_proves_is_not_logged_in() -> None:
    exchange = Scram(Knows(), *WHO, "SCRAM-SHA-256", [])
    client = ScramClient(["SCRAM-SHA-256"], LOG_IN, RIGHT)
    client.set_server_first(text_of(step(exchange, client.get_client_first())))
    step(exchange, client.get_client_final())
    assert step(exchange, "more") == AuthVerdict.AUTH_SYNTAX


OLD, NEW, STRANGE = b"o" * 32, b"n" * 32, b"s" * 32


@pytest.mark.parametrize(("seen", "proved"), [(NEW, True), (OLD, True), (STRANGE, False)])
def test_a_binding_to_any_certificate_of_ours_and_to_no_other(seen: bytes, proved: bool) -> None:
    exchange = Scram(Knows(), *WHO, "SCRAM-SHA-256-PLUS", [OLD, NEW])
    client = ScramClient(["SCRAM-SHA-256-PLUS"], LOG_IN, RIGHT, channel_binding=("tls-server-end-point", seen))
    client.set_server_first(text_of(step(exchange, client.get_client_first())))
    said = step(exchange, client.get_client_final())
    assert (said != AuthVerdict.AUTH_REFUSED) == proved
    if proved:
        client.set_server_final(text_of(said))
        assert step(exchange, "") == LOG_IN


def test_a_client_who_was_told_that_nothing_can_be_bound_is_refused() -> None:
    """Somebody between the two took -PLUS out of what is offered (RFC 5802 §6)."""
    exchange = Scram(Knows(), *WHO, "SCRAM-SHA-256", [NEW])
    client = ScramClient(["SCRAM-SHA-256"], LOG_IN, RIGHT, channel_binding=("tls-server-end-point", NEW))
    assert client.get_client_first().startswith("y,,")
    again = ScramClient(["SCRAM-SHA-256"], LOG_IN, RIGHT, channel_binding=("tls-server-end-point", NEW))
    assert step(exchange, again.get_client_first()) == AuthVerdict.AUTH_REFUSED


def test_a_client_that_cannot_bind_is_let_in_beside_plus() -> None:
    exchange = Scram(Knows(), *WHO, "SCRAM-SHA-256", [NEW])
    client = ScramClient(["SCRAM-SHA-256"], LOG_IN, RIGHT)
    client.set_server_first(text_of(step(exchange, client.get_client_first())))
    client.set_server_final(text_of(step(exchange, client.get_client_final())))
    assert step(exchange, "") == LOG_IN


def test_what_a_password_is_asked_with() -> None:
    knows = Knows()
    assert step(Plain(knows, *WHO), f"\0{LOG_IN}\0{RIGHT}") == LOG_IN
    assert knows.asked == [PasswordAttempt(LOG_IN, RIGHT, "192.0.2.1", "submission", "PLAIN")]
    assert RIGHT not in repr(knows.asked)
