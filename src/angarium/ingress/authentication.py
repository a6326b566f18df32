"""AUTH of one listener (RFC 4954): which mechanisms it offers, and the exchange of each.

Job: from the configuration to what ListenerProfile wants. A session asks for an exchange by mechanism name and gives
it each response with a Decision, which is answered with the next challenge (base64 octets), with the log-in's name
(proved), or with an AuthVerdict. The exchanges stand in ingress.exchange; who is right is known by the access process,
which is asked by `Verifier`: a worker never looks at a password itself. The sandbox accepts every log-in and asks
nobody.

Fails: while the access process does not answer, AUTH is answered 454. Bounds: those of delivery.lookup_client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from angarium.config.credentials import ALL_MECHANISMS, PASSWORD_MECHANISMS, TOKEN_MECHANISMS
from angarium.delivery.mail_host import ResolutionFailure
from angarium.ingress.exchange import AnyLogin, AnyPlain, External, Login, OAuthBearer, Plain, Scram, XOAuth2
from angarium.policy.access_protocol import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.server_session import ServerSession
    from angarium.config.credentials import Mechanism
    from angarium.config.model import Config, Listener
    from angarium.delivery.lookup_client import LookupClient
    from angarium.delivery.lookup_protocol import Kind
    from angarium.ingress.channel_binding import EndPoints
    from angarium.ingress.exchange import Asks, Exchange

__all__ = ["ListenerAuthentication", "Verifier", "any_login", "mechanisms_of"]

ANY_LOG_IN: tuple[Mechanism, ...] = ("PLAIN", "LOGIN")


def mechanisms_of(config: Config, listener: Listener) -> tuple[Mechanism, ...]:
    """What a listener offers under TLS, the strongest first; nothing where nobody logs in.

    What it names itself, or else what all credentials allow: a client takes the strongest, whoever knows its password.
    So SCRAM-SHA-256 is offered by itself where all passwords are in files. EXTERNAL needs a client's certificate and
    is offered where it is named. So is SCRAM-SHA-256-PLUS: a client that can bind by tls-exporter alone would choose
    it, and fail.
    """
    if listener.auth == "any":
        return ANY_LOG_IN
    if listener.mechanisms:
        return tuple(one for one in ALL_MECHANISMS if one in listener.mechanisms)
    if listener.role != "submission":
        return ()
    kinds = {one.kind for one in config.credentials}
    offered: list[Mechanism] = []
    if kinds - {"oauth2"} == {"file"}:
        offered.append("SCRAM-SHA-256")
    if "oauth2" in kinds:
        offered.extend(TOKEN_MECHANISMS)
    if kinds - {"oauth2"}:
        offered.extend(PASSWORD_MECHANISMS)
    return tuple(offered)


class Verifier:
    """Asks the access process, and tells whoever asked when it has answered."""

    def __init__(self, client: LookupClient) -> None:
        self._client = client

    def ask(self, kind: Kind[Any, Verdict], question: object, then: Callable[[Verdict], None]) -> None:
        """`then` is called with the verdict, in a later turn of the loop."""

        def tell(answer: Verdict | ResolutionFailure) -> None:
            then(Verdict("unavailable") if isinstance(answer, ResolutionFailure) else answer)

        self._client.ask_once_then(kind, question, tell)


class ListenerAuthentication:
    """Makes the exchanges of one listener."""

    def __init__(self, listener: str, verifier: Asks | None, end_points: EndPoints | None) -> None:
        """`verifier`: None where there is nothing but EXTERNAL. `end_points`: where SCRAM-SHA-256-PLUS is offered."""
        self._listener = listener
        self._verifier = verifier
        self._end_points = end_points

    def __call__(self, mechanism: bytes, session: ServerSession) -> Exchange | None:
        """The exchange of a mechanism."""
        name = mechanism.decode("ascii", "replace")
        if name == "EXTERNAL":
            return External(session.certificate)
        if self._verifier is None:
            return None
        who = (self._verifier, self._listener, session.client)
        if name == "PLAIN":
            return Plain(*who)
        if name == "LOGIN":
            return Login(*who)
        if name in {"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}:
            # a client that could have bound its proof, and was told that it could not, was told so by somebody else
            return Scram(*who, name, self._end_points.hashes() if self._end_points is not None else [])
        if name == "OAUTHBEARER":
            return OAuthBearer(*who)
        return XOAuth2(*who) if name == "XOAUTH2" else None


def any_login(mechanism: bytes, _: ServerSession) -> Exchange | None:
    """Exchanges that accept every name and password: for the sandbox, from which nothing leaves."""
    if mechanism == b"PLAIN":
        return AnyPlain()
    return AnyLogin() if mechanism == b"LOGIN" else None
