"""What operators have suspended: SPOOL/suspensions.json, written by the admin process, read by every worker.

A suspension names a domain, a site, a source or a tenant, a reason, who asked for it, and when it ends by itself. The
file is replaced as a whole and synced (new file, fsync, rename, fsync of the folder), so that whoever reads it finds
the old list or the new one. The admin process alone writes it; workers read it when they start, when they are told to,
and when it has changed.

Fails: OSError when it cannot be read or written; SuspensionError for a file or a name that makes no sense. No file is
an empty list. Bound: MOST suspensions.
"""

from __future__ import annotations

import os
from datetime import datetime  # noqa: TC003  # msgspec reads the annotations
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from angarium.mail.address import ascii_domain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["KINDS", "MOST", "Kind", "Suspension", "SuspensionError", "in_force", "load", "normal_name", "store"]

FILE = "suspensions.json"
MOST = 10_000
LONGEST_NAME = 255

Kind = Literal["domain", "site", "source", "tenant"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class SuspensionError(ValueError):
    """A suspension that makes no sense, or a file that holds something else."""


class Suspension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delivery stands still for one domain, site, source or tenant. Times are in UTC."""

    kind: Kind
    name: str
    reason: str
    by: str
    since: datetime
    until: datetime

    @property
    def key(self) -> tuple[Kind, str]:
        """What there is one suspension of."""
        return self.kind, self.name


_LIST: msgspec.json.Decoder[list[Suspension]] = msgspec.json.Decoder(list[Suspension])


def normal_name(kind: Kind, name: str) -> str:
    """The name as it is compared: domains and sites as ASCII in lower case. SuspensionError for one that is none."""
    name = name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise SuspensionError(f"{name!r} is no name of a {kind}")
    if kind == "tenant":
        return name
    try:
        return ascii_domain(name.encode()).decode("ascii") if kind == "domain" else name.lower()
    except ValueError as error:
        raise SuspensionError(f"{name!r} is no domain: {error}") from None


def in_force(suspensions: Iterable[Suspension], now: datetime) -> list[Suspension]:
    """Those that have not ended."""
    return [suspension for suspension in suspensions if suspension.until > now]


def load(spool: Path) -> list[Suspension]:
    """What the file says; those that have ended are among them."""
    path = spool / FILE
    try:
        octets = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        return _LIST.decode(octets)
    except msgspec.MsgspecError as error:
        raise SuspensionError(f"{path}: {error}") from None


def store(spool: Path, suspensions: list[Suspension]) -> None:
    """Replace the file; it is on disk when this returns. SuspensionError when there are more than MOST."""
    if len(suspensions) > MOST:
        raise SuspensionError(f"there can be {MOST} suspensions, not {len(suspensions)}")
    path = spool / FILE
    temporary = path.with_suffix(".new")
    octets = msgspec.json.format(msgspec.json.encode(suspensions), indent=1) + b"\n"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(octets)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    folder = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
