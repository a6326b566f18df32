"""Hand-off into a Maildir: one file per message, whole or not at all.

Written under tmp/, synced, renamed into new/, and the folder synced, so that "delivered" means what 250 means.
Return-Path (RFC 5321 §4.4) and a Delivered-To per recipient are put on top.

Fails: OSError when the folder cannot be made or written; nothing is left in new/ then.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_numbers = itertools.count(1)


def for_mailbox(reverse_path: bytes, recipients: list[bytes], mail_data: bytes) -> bytes:
    """The message as Unix programs read it: with its trace fields of the last delivery, lines that end with LF."""
    top = b"Return-Path: <" + reverse_path + b">\r\n"
    top += b"".join(b"Delivered-To: " + recipient + b"\r\n" for recipient in recipients)
    return (top + mail_data).replace(b"\r\n", b"\n")


def deliver(folder: Path, hostname: str, reverse_path: bytes, recipients: list[bytes], mail_data: bytes) -> Path:
    """Write one message; returns its file. Blocks: call it in a thread."""
    for name in ("tmp", "new", "cur"):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    now = time.time_ns()
    host = hostname.replace("/", "\\057").replace(":", "\\072")
    name = f"{now // 1_000_000_000}.M{now // 1000 % 1_000_000:06d}P{os.getpid()}Q{next(_numbers)}.{host}"
    temporary = folder / "tmp" / name
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(for_mailbox(reverse_path, recipients, mail_data))
            file.flush()
            os.fsync(file.fileno())
        final = folder / "new" / name
        temporary.rename(final)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(folder / "new")
    return final


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
