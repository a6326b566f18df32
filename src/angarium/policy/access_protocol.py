"""What the workers and the access process say to each other: kinds of question for delivery.lookup_protocol.

Job: the shapes of questions about log-ins, and of their answers, which are never kept (`expires` is 0). A question
holds a secret; none shows it when it is printed. Asked with LookupClient.ask_once, so that no cache sees it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import msgspec

from angarium.delivery.lookup_protocol import Kind

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ACCESS_STATUS",
    "BANS",
    "PASSWORD",
    "SCRAM_FINAL",
    "SCRAM_FIRST",
    "TOKEN_LOG_IN",
    "UNBAN",
    "AccessStatus",
    "Ban",
    "BanList",
    "Lifted",
    "Outcome",
    "PasswordAttempt",
    "ScramFinal",
    "ScramFirst",
    "TokenAttempt",
    "Verdict",
    "access_socket_path",
]

Outcome = Literal["accepted", "refused", "unavailable", "banned", "challenge"]


class _Question(msgspec.Struct, array_like=True, frozen=True):
    """It may hold a secret."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


class PasswordAttempt(_Question, frozen=True):
    """A log-in and its password, of a client at an address."""

    log_in: str
    password: str
    address: str
    listener: str
    mechanism: str


class TokenAttempt(_Question, frozen=True):
    """An access token; `log_in` is whom the client says it is for, "" for nobody."""

    log_in: str
    token: str
    address: str
    listener: str
    mechanism: str


class ScramFirst(_Question, frozen=True):
    """The first message of a SCRAM client. `binding` is the hash of a certificate of this node, b"" for none."""

    message: str
    nonce: str
    binding: bytes
    address: str
    listener: str
    mechanism: str


class ScramFinal(_Question, frozen=True):
    """The first and the last message of a SCRAM client, with the nonce that the first was answered with."""

    first: str
    final: str
    nonce: str
    binding: bytes
    address: str
    listener: str
    mechanism: str


class Verdict(msgspec.Struct, array_like=True, frozen=True):
    """What an attempt came to. `log_in` is whose; `message` is what SCRAM or OAuth has to say."""

    outcome: Outcome
    log_in: str = ""
    message: str = ""
    expires: float = 0.0


class Ban(msgspec.Struct, array_like=True, frozen=True):
    """A client or a log-in that is not listened to. `of` is the address (of IPv6 its /64) or the log-in."""

    kind: Literal["address", "log_in"]
    of: str
    failures: int
    left_s: float


class BanList(msgspec.Struct, array_like=True, frozen=True):
    """All of them, those that end last first."""

    bans: tuple[Ban, ...]
    expires: float = 0.0


class Lifted(msgspec.Struct, array_like=True, frozen=True):
    """How many bans were lifted."""

    bans: int
    expires: float = 0.0


class AccessStatus(msgspec.Struct, array_like=True, frozen=True):
    """What the process says of itself."""

    pid: int
    uptime_s: float
    under_way: int
    bans: int
    expires: float = 0.0


PASSWORD: Kind[PasswordAttempt, Verdict] = Kind("password", PasswordAttempt, Verdict)
TOKEN_LOG_IN: Kind[TokenAttempt, Verdict] = Kind("token_log_in", TokenAttempt, Verdict)
SCRAM_FIRST: Kind[ScramFirst, Verdict] = Kind("scram_first", ScramFirst, Verdict)
SCRAM_FINAL: Kind[ScramFinal, Verdict] = Kind("scram_final", ScramFinal, Verdict)
BANS: Kind[None, BanList] = Kind("bans", type(None), BanList)
UNBAN: Kind[str, Lifted] = Kind("unban", str, Lifted)  # an address, a log-in, or "*" for all
ACCESS_STATUS: Kind[None, AccessStatus] = Kind("access_status", type(None), AccessStatus)


def access_socket_path(spool: Path) -> str:
    """Where the access process of the node with this spool listens."""
    return os.path.join(spool, "run", "access.sock")
