"""The listeners of one worker: what the configuration says, as profiles that the compiled sessions read, and servers on
bound sockets.

Input: the configuration and sockets that the supervisor has bound. Output: asyncio servers whose protocols are
ServerSessions.

Fails: ssl.SSLError or OSError when a certificate cannot be loaded; a TLS handshake that fails ends that connection and
is counted."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from angarium._core.server_session import ListenerProfile
from angarium.config.model import DURABILITIES
from angarium.ingress.authentication import any_login
from angarium.ingress.implicit_tls import ImplicitTlsServer
from angarium.policy.tenancy import client_terms

if TYPE_CHECKING:
    import socket

    from angarium._core.server_session import Reception, ServerSession
    from angarium.config.model import Config, Limits, Listener, Tls

BACKLOG = 1024
HANDSHAKE_TIMEOUT_S = 60.0


def server_context(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 and up with the node's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    return context


class TlsUpgrade:
    """STARTTLS for the sessions of one listener."""

    def __init__(self, context: ssl.SSLContext, timeout_s: float) -> None:
        self._context = context
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, session: ServerSession) -> None:
        task = asyncio.get_running_loop().create_task(self._handshake(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handshake(self, session: ServerSession) -> None:
        session.discard_plaintext()
        if session.closed or session.transport is None:
            return
        try:
            transport = await asyncio.get_running_loop().start_tls(
                session.transport,
                session,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._timeout_s,
            )
        except (OSError, ssl.SSLError):  # ConnectionError and TimeoutError are OSErrors
            session.tls_failed()
            return
        session.tls_established(transport)


def _handshake_timeout_s(limits: Limits) -> float:
    """Who says nothing is idle, whether TLS has begun or not."""
    return min(HANDSHAKE_TIMEOUT_S, limits.idle_timeout_s)


def make_profile(config: Config, listener: Listener, context: ssl.SSLContext | None) -> ListenerProfile:
    """What all sessions of listener have in common."""
    limits = config.limits_of(listener)
    any_log_in = listener.auth == "any"
    return ListenerProfile(
        hostname=config.node.hostname.encode("ascii"),
        name=listener.name.encode("utf-8"),
        client_policy=client_terms(config, listener),
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
        authentication=any_login if any_log_in else None,
        mechanisms=(b"PLAIN", b"LOGIN") if any_log_in else (),
        start_tls=TlsUpgrade(context, _handshake_timeout_s(limits))
        if listener.tls == "starttls" and context is not None
        else None,
        future_release_s=int(limits.future_release_s),
        priorities=(listener.priority_profile or "").encode("ascii") if listener.mt_priority else None,
    )


async def listen(
    config: Config, reception: Reception, sockets: list[socket.socket]
) -> list[tuple[asyncio.Server | ImplicitTlsServer, ListenerProfile]]:
    """Serve each listener of the configuration on its socket, in the configuration's order."""
    loop = asyncio.get_running_loop()
    context = server_context(config.tls) if config.tls is not None else None
    servers: list[tuple[asyncio.Server | ImplicitTlsServer, ListenerProfile]] = []
    for listener, sock in zip(config.listener, sockets, strict=True):
        profile = make_profile(config, listener, context)

        def session(profile: ListenerProfile = profile) -> ServerSession:
            return reception.session(profile)

        if listener.tls == "implicit" and context is not None:
            limits = config.limits_of(listener)
            implicit = ImplicitTlsServer(
                sock,
                session,
                reception.counters,
                context,
                backlog=BACKLOG,
                connections=limits.connections,
                connections_per_client=limits.connections_per_client,
                handshake_timeout_s=_handshake_timeout_s(limits),
            )
            servers.append((implicit, profile))
        else:
            servers.append((await loop.create_server(session, sock=sock, backlog=BACKLOG), profile))
    return servers
