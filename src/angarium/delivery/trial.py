"""Try a next hop out: a session up to RCPT, and no mail.

Input: the Connector, a Target (its log-in too), an envelope of one recipient. Output: what became of each host, up to
the first that took the connection, and the replies of its dialogue. Nothing is counted, no host rests for it, and no
ready queue knows of it.

Fails: never; what went wrong is in the answer. Bound: TRIAL_S for all of it, whatever the route's timeouts."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiosmtplib

from angarium.delivery.dial import by_name, where_of
from angarium.delivery.failure import ConnectFailure

if TYPE_CHECKING:
    from angarium.delivery.connection import Connector
    from angarium.delivery.target import Protocol, Target

__all__ = ["Trial", "try_out"]

TRIAL_S = 45.0
QUIT_S = 2.0  # what is owed to politeness
LONGEST_REPLY = 1000


@dataclass(slots=True)
class Trial:
    """`hosts`: each that was tried, and why it could not be used, empty for the last. `dialogue`: command and reply."""

    hosts: list[tuple[str, str]] = field(default_factory=list)
    tls: str | None = None  # the version; None: plaintext, or no host
    dialogue: list[tuple[str, str]] = field(default_factory=list)
    accepted: bool = False  # the recipient was
    failure: str | None = None


async def try_out(connector: Connector, target: Target, reverse_path: str, recipient: str) -> Trial:
    """A session with the first host of target that can be used."""
    trial = Trial()
    client: aiosmtplib.SMTP | None = None
    try:
        async with asyncio.timeout(TRIAL_S):
            client = await _connect(connector, target, trial)
            if client is not None:
                await _converse(client, trial, target.protocol, reverse_path, recipient)
    except TimeoutError:
        trial.failure = f"not done after {TRIAL_S:g} s"
    except (aiosmtplib.SMTPException, OSError, ValueError) as failure:
        trial.failure = str(failure)
    finally:
        if client is not None:
            client.close()
    return trial


async def _connect(connector: Connector, target: Target, trial: Trial) -> aiosmtplib.SMTP | None:
    hosts = await connector.in_order(target, look=True)
    for left in by_name(hosts):
        named = where_of(left[0])
        while left:
            try:
                host, client = await connector.try_out(target, left)
            except ConnectFailure as failure:
                trial.hosts.append((named, f"{failure.code} {failure.text}" if failure.code else failure.text))
            else:
                trial.hosts.append((where_of(host), ""))
                return client
    trial.failure = "no host could be used" if hosts else "no host has an address"
    return None


async def _converse(
    client: aiosmtplib.SMTP, trial: Trial, protocol: Protocol, reverse_path: str, recipient: str
) -> None:
    transport = client.transport
    ssl_object = None if transport is None else transport.get_extra_info("ssl_object")
    trial.tls = None if ssl_object is None else ssl_object.version()
    greeted = client.last_ehlo_response
    if greeted is not None:
        trial.dialogue.append(("LHLO" if protocol == "lmtp" else "EHLO", _reply(greeted.code, greeted.message)))
    options = ["SMTPUTF8"] if not (reverse_path + recipient).isascii() else []
    if await _say(client, trial, f"MAIL FROM:<{reverse_path}>", *options):
        trial.accepted = await _say(client, trial, f"RCPT TO:<{recipient}>")
        await _say(client, trial, "RSET")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(QUIT_S):
            await _say(client, trial, "QUIT")


async def _say(client: aiosmtplib.SMTP, trial: Trial, *words: str) -> bool:
    command = " ".join(words)
    trial.dialogue.append((command, ""))
    reply = await client.execute_command(command.encode("utf-8"))
    trial.dialogue[-1] = (command, _reply(reply.code, reply.message))
    return 200 <= reply.code < 300


def _reply(code: int, text: str) -> str:
    return f"{code} {text}"[:LONGEST_REPLY]
