"""Asking the supervisor which configuration is in force.

Input: its Unix socket. Output: what it says, or None when it does not answer: it is asked for `status` alone, which
must not fail for that. Bounds: TIMEOUT_S, ANSWER_OCTETS.
"""

import asyncio
from pathlib import Path

import msgspec

from angarium.admin.model import ConfigurationStatus
from angarium.delivery.short_path import short_path

__all__ = ["NodeReport", "ask_node", "node_socket_path"]

TIMEOUT_S = 2.0
ANSWER_OCTETS = 1 << 20


class NodeReport(msgspec.Struct, frozen=True):
    """What the supervisor says of the node."""

    draining: bool
    configuration: ConfigurationStatus


class _Answer(msgspec.Struct, frozen=True):
    ok: bool
    result: NodeReport


_ANSWER = msgspec.json.Decoder(_Answer)


def node_socket_path(spool: Path) -> Path:
    """Where the supervisor's socket of the node with this spool is."""
    return spool / "run" / "supervisor.sock"


async def ask_node(path: Path) -> NodeReport | None:
    """The supervisor's report."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            with short_path(str(path)) as name:
                reader, writer = await asyncio.open_unix_connection(name, limit=ANSWER_OCTETS)
            try:
                writer.write(b'{"op": "status"}\n')
                octets = await reader.readuntil(b"\n")
            finally:
                writer.transport.abort()
        return _ANSWER.decode(octets).result
    except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError, msgspec.MsgspecError):
        return None
