"""The open listeners of one worker, over changes of the configuration.

Job: `prepare` builds everything that another configuration needs (TLS contexts, profiles) while nothing changes;
`commit` then takes it all at once: sessions go on under their listener's new profile, new listeners accept, removed
ones accept no more. A listener is known by its address: one that got another name or other settings keeps its socket
and its sessions; one of the same name at another address hands its sessions on.

The sessions of a removed listener go on to their end under the terms that they have.

Input: configurations, bound sockets. Output: ServerSessions. Fails: `prepare` with OSError, ssl.SSLError or ValueError
when something cannot be built; nothing has changed then, and `Prepared.discard` closes the new sockets.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from angarium.config.resolve import needs_access
from angarium.delivery.call_line import SLICE_S
from angarium.ingress.authentication import Verifier
from angarium.ingress.certificates import Certificates
from angarium.ingress.door import Door
from angarium.ingress.listener import make_profile, serve

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from angarium._core.listener_profile import ListenerProfile
    from angarium._core.server_session import Reception, ServerSession
    from angarium.config.model import Config, Listener
    from angarium.delivery.lookup_client import LookupClient
    from angarium.ingress.certificates import LiveContext
    from angarium.policy.inbound import InboundPolicies
    from angarium.policy.quota import Quotas

__all__ = ["Listeners", "Prepared"]


@dataclass(frozen=True, slots=True)
class _Setting:
    """What the configuration says of one listener, built."""

    config: Config
    listener: Listener
    profile: ListenerProfile
    live: LiveContext | None  # None: no TLS


class _Open:
    """One listener: its socket for as long as it is open, and what holds on it at the moment."""

    def __init__(self, reception: Reception, sock: socket.socket, setting: _Setting) -> None:
        self._reception = reception
        self._socket = sock
        self._server: asyncio.Server | Door | None = None
        self.setting = setting

    def session(self, client: str | None = None) -> ServerSession:
        """What speaks with a client that has come to the end of what stands before SMTP."""
        return self._reception.session(self.setting.profile, client)

    async def serve(self) -> None:
        """Accept connections, unless they are."""
        if self._server is None:
            setting = self.setting
            sock = self._socket.dup()  # a server closes its socket, and another may follow on the same
            self._server = await serve(
                setting.config, setting.listener, sock, setting.live, self.session, self._reception
            )

    def change(self, setting: _Setting) -> None:
        """Other settings hold from now on; `serve` is to be called behind it."""
        self.setting = setting
        if isinstance(self._server, Door) or setting.listener.tls == "implicit" or setting.listener.proxy_networks:
            # what comes before SMTP is a server's own; whoever waits in the kernel waits for the next one
            self._stop()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Accept no more, for good."""
        self._stop()
        self._socket.close()


@dataclass
class Prepared:
    """Listeners that are built and not yet in force."""

    settings: list[_Setting]
    inbound: InboundPolicies
    sockets: dict[str, socket.socket] = field(default_factory=dict)  # by address: those that are new
    certificates: Certificates | None = None

    def discard(self) -> None:
        """It does not come into force."""
        for sock in self.sockets.values():
            sock.close()


class Listeners:
    """Those of one worker."""

    def __init__(self, reception: Reception, access: LookupClient, inbound: InboundPolicies, quotas: Quotas) -> None:
        """`access` is the way to the access process, which is there when there are log-ins to verify.

        inbound: of no listener yet.
        """
        self._reception = reception
        self.inbound = inbound  # which recipients are ours
        self._quotas = quotas
        self._verifier = Verifier(access)
        self._open: dict[str, _Open] = {}
        self._certificates: Certificates | None = None

    def prepare(self, config: Config, sockets: Mapping[str, socket.socket]) -> Prepared:
        """Build what config says; sockets: by address, those of the listeners that are not open yet.

        They are the result's from then on, also when this fails.
        """
        prepared = Prepared([], self.inbound.follow(), dict(sockets))
        reception = self._reception
        verifier = self._verifier if needs_access(config) else None
        try:
            if config.tls is not None:
                prepared.certificates = Certificates(config, reception.counters, reception.events)
            for listener in config.listener:
                address = str(listener.listen)
                if address not in self._open and address not in sockets:
                    raise ValueError(f"there is no socket for {address}")
                live = None
                if prepared.certificates is not None and listener.tls != "none":
                    live = prepared.certificates.of(listener)
                profile = make_profile(
                    config, listener, live, reception, verifier, prepared.inbound.policy_of(listener), self._quotas
                )
                prepared.settings.append(_Setting(config, listener, profile, live))
        except BaseException:
            prepared.discard()
            raise
        return prepared

    async def commit(self, prepared: Prepared) -> None:
        """Let what was prepared come into force."""
        self.inbound = prepared.inbound
        before = self._open
        by_name = {found.setting.listener.name: found.setting.profile for found in before.values()}
        successors: dict[ListenerProfile, ListenerProfile] = {}
        self._open = {}
        for setting in prepared.settings:
            address = str(setting.listener.listen)
            found = before.pop(address, None)
            if found is None:
                found = _Open(self._reception, prepared.sockets.pop(address), setting)
            else:
                successors[found.setting.profile] = setting.profile
                found.change(setting)
            self._open[address] = found
        for setting in prepared.settings:
            moved = by_name.get(setting.listener.name)
            if moved is not None:
                successors.setdefault(moved, setting.profile)  # the same listener at another address
        for removed in before.values():
            removed.close()
        more = self._reception.follow(successors, SLICE_S)
        if self._certificates is not None:
            self._certificates.close()
        self._certificates = prepared.certificates
        if self._certificates is not None:
            self._certificates.watch()
        for found in self._open.values():
            await found.serve()
        while more:
            await asyncio.sleep(0)  # thousands of sessions, and others have their turn
            more = self._reception.follow({}, SLICE_S)

    def close(self) -> None:
        """Accept no more."""
        for found in self._open.values():
            found.close()
        self._open = {}
        if self._certificates is not None:
            self._certificates.close()
