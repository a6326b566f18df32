"""A tar archive (POSIX.1-2001 ustar) made in pieces, so that it is sent while it is made.

Fails: ValueError for a member's name that is too long for the format.
"""

from __future__ import annotations

import tarfile
import time
from typing import Any

import msgspec

__all__ = ["TarArchive"]


class TarArchive:
    """The octets of an archive, one member after the other."""

    def __init__(self) -> None:
        self._time = int(time.time())

    def member(self, name: str, content: bytes) -> bytes:
        """A file: its header, its content, filled up to a whole block."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mtime = self._time
        info.mode = 0o600
        filling = bytes(-len(content) % tarfile.BLOCKSIZE)
        return b"".join((info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"), content, filling))

    def end(self, report: dict[str, Any]) -> bytes:
        """The last member, export.json, and the end of the archive."""
        return self.member("export.json", msgspec.json.encode(report) + b"\n") + bytes(2 * tarfile.BLOCKSIZE)
