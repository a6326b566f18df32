"""Who may relay: by the networks that the listener names (RFC 5321 §3.6.2 leaves that to policy).

The answer for an address is asked for once and remembered by the compiled session's ListenerProfile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.config.model import Listener

__all__ = ["client_policy"]


def client_policy(listener: Listener) -> Callable[[str], tuple[bool, bool]]:
    """address -> (may relay, may send bare newlines), from the listener's networks.

    An address that is none may nothing. A client of the listener's own Unix socket has the address "" and may relay:
    the socket's permissions say who that is.
    """

    def policy(address: str) -> tuple[bool, bool]:
        if not address:
            return listener.role == "relay" and not listener.listen.host, False
        try:
            may_relay = listener.role in {"relay", "inbound"} and any(
                address in network for network in listener.relay_networks
            )
            repair = listener.bare_newline == "repair" and any(
                address in network for network in listener.repair_networks
            )
        except ValueError:
            return False, False
        return may_relay, repair

    return policy
