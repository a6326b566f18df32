"""A listener: what the configuration says of it, as a profile that the compiled sessions read, and a server on its
socket. angarium.ingress.listeners holds those of a worker.

Input: the configuration, and sockets that the supervisor has bound. Output: servers whose protocols are ServerSessions:
asyncio's own where SMTP begins with the connection, and a Door where something else comes first.

Fails: ssl.SSLError, OSError or ValueError when a certificate cannot be loaded; a TLS handshake that fails ends that
connection and is counted."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING

from angarium._core.counters import Slot
from angarium._core.listener_profile import ListenerProfile
from angarium._core.tls_transport import TlsTransport
from angarium.config.model import DURABILITIES
from angarium.ingress.authentication import ListenerAuthentication, Verifier, any_login, mechanisms_of
from angarium.ingress.channel_binding import EndPoints
from angarium.ingress.door import Door, DoorLimits
from angarium.policy.certificate import read_certificate
from angarium.policy.tenancy import client_terms, identity_terms

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from angarium._core.recipient_policy import RecipientPolicy
    from angarium._core.server_session import Reception, ServerSession
    from angarium.config.address import Peer
    from angarium.config.credentials import Mechanism
    from angarium.config.model import Config, Limits, Listener
    from angarium.ingress.certificates import LiveContext
    from angarium.ingress.exchange import Exchange
    from angarium.policy.certificate import ClientCertificate
    from angarium.policy.quota import Quotas

    Exchanges = Callable[[bytes, ServerSession], Exchange | None]

BACKLOG = 1024
HANDSHAKE_TIMEOUT_S = 60.0
HEADER_TIMEOUT_S = 10.0  # for a proxy's header


class TlsUpgrade:
    """STARTTLS for the sessions of one listener."""

    def __init__(self, live: LiveContext, timeout_s: float) -> None:
        self._live = live
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, session: ServerSession) -> None:
        task = asyncio.get_running_loop().create_task(self._handshake(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handshake(self, session: ServerSession) -> None:
        await self._live.line.turn()
        if not session.begin_tls():
            return
        plain = session.transport
        tls = TlsTransport(self._live.context, partial(_shaken, session), session, timeout_s=self._timeout_s)
        plain.set_protocol(tls)
        tls.connection_made(plain)
        plain.resume_reading()


def _shaken(session: ServerSession, tls: TlsTransport, failure: Exception | None) -> None:
    if failure is None:
        session.tls_established(tls)
    else:
        session.tls_failed()


def _handshake_timeout_s(limits: Limits) -> float:
    """Who says nothing is idle, whether TLS has begun or not."""
    return min(HANDSHAKE_TIMEOUT_S, limits.idle_timeout_s)


class ClientCertificates:
    """What the certificates of a listener's clients are known as; each is counted, and told in the event log."""

    def __init__(self, listener: Listener, reception: Reception) -> None:
        self._listener = listener
        self._reception = reception

    def __call__(self, address: str, ssl_object: ssl.SSLObject) -> ClientCertificate | None:
        shown = ssl_object.getpeercert()
        der = ssl_object.getpeercert(binary_form=True)
        if not shown or der is None:
            return None  # the client has none
        certificate = read_certificate(self._listener, shown, der)
        slot = Slot.INGRESS_CERTIFICATE_RELAYS if certificate.relays else Slot.INGRESS_CERTIFICATE_OTHER
        self._reception.counters.add(slot, 1)
        self._reception.events.event(
            "client_certificate",
            {
                "listener": self._listener.name,
                "client": address,
                "names": list(certificate.names),
                "fingerprint": certificate.fingerprint,
                "grants": "relaying" if certificate.relays else "nothing",
            },
        )
        return certificate


def _among(peers: Sequence[Peer]) -> Callable[[str], bool] | None:
    """Whether an address is one of the peers'; None when there are none."""
    if not peers:
        return None
    return lambda address: any(address in peer for peer in peers)


def _authentication(
    config: Config, listener: Listener, verifier: Verifier | None
) -> tuple[tuple[Mechanism, ...], Exchanges | None]:
    """What a listener offers, and who makes its exchanges."""
    offered = mechanisms_of(config, listener)
    if not offered or listener.auth == "any":
        return offered, any_login if offered else None
    end_points = None
    if "SCRAM-SHA-256-PLUS" in offered and config.tls is not None:
        end_points = EndPoints([config.tls.certificate, *(one.certificate for one in config.certificate)])
        if not end_points.hashes():  # nothing to bind to
            end_points, offered = None, tuple(one for one in offered if one != "SCRAM-SHA-256-PLUS")
    if verifier is None and set(offered) != {"EXTERNAL"}:
        raise ValueError(f"listener {listener.name} has log-ins, and there is nobody to verify them")
    return offered, ListenerAuthentication(listener.name, verifier, end_points)


def make_profile(
    config: Config,
    listener: Listener,
    live: LiveContext | None,
    reception: Reception,
    verifier: Verifier | None = None,
    recipient_policy: RecipientPolicy | None = None,
    quotas: Quotas | None = None,
) -> ListenerProfile:
    """What all sessions of listener have in common. `verifier`: of log-ins, where there are any to verify."""
    limits = config.limits_of(listener)
    offered, authentication = _authentication(config, listener, verifier)
    return ListenerProfile(
        hostname=config.node.hostname.encode("ascii"),
        name=listener.name.encode("utf-8"),
        client_policy=client_terms(config, listener, quotas),
        durability=DURABILITIES.index(config.durability_of(listener)),
        message_octets=limits.message_size_octets,
        header_octets=limits.header_size_octets,
        recipients=limits.recipients,
        command_octets=limits.command_line_octets,
        errors=limits.errors,
        commands_per_second=limits.commands_per_second,
        hops=limits.hops,
        transactions=limits.transactions,
        connections=limits.connections,
        connections_per_client=limits.connections_per_client,
        idle_timeout_s=limits.idle_timeout_s,
        data_timeout_s=limits.data_timeout_s,
        authentication_required=listener.role == "submission",
        authentication=authentication,
        mechanisms=tuple(one.encode("ascii") for one in offered),
        start_tls=TlsUpgrade(live, _handshake_timeout_s(limits))
        if listener.tls == "starttls" and live is not None
        else None,
        future_release_s=int(limits.future_release_s),
        priorities=(listener.priority_profile or "").encode("ascii") if listener.mt_priority else None,
        identity_policy=identity_terms(config, listener, quotas),
        client_certificate=ClientCertificates(listener, reception) if listener.client_ca is not None else None,
        xclient=_among(listener.xclient_networks),
        recipient_policy=recipient_policy,
        lmtp=listener.protocol == "lmtp",
    )


async def serve(
    config: Config,
    listener: Listener,
    sock: socket.socket,
    live: LiveContext | None,
    session: Callable[..., ServerSession],
    reception: Reception,
) -> asyncio.Server | Door:
    """Accept connections on a socket, which is the server's from then on.

    `session` makes what speaks with a client: without an argument, or for the address that a proxy has named.
    """
    implicit = listener.tls == "implicit"
    if not (implicit or listener.proxy_networks or sock.family == socket.AF_UNIX):
        return await asyncio.get_running_loop().create_server(session, sock=sock, backlog=BACKLOG)
    limits = config.limits_of(listener)
    return Door(
        sock,
        session,
        reception.counters,
        reception.events,
        DoorLimits(
            backlog=BACKLOG,
            connections=limits.connections,
            connections_per_client=limits.connections_per_client,
            handshake_timeout_s=_handshake_timeout_s(limits),
            header_timeout_s=min(HEADER_TIMEOUT_S, limits.idle_timeout_s),
        ),
        name=listener.name,
        tls=live if implicit else None,
        is_proxy=_among(listener.proxy_networks),
    )
