"""`angarium queue export`: messages of the queue as files.

Input: the archive that the admin API makes (docs/api.md), read while it comes. Output: in the folder, for each message
its mail data and its envelope as JSON; and what the relay said of the whole, with the folder synced.

Fails: RelayError when the archive ends before its end, holds a name that is not one of ours, or a file cannot be
written. What was written until then stays. A file that is there already is replaced.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from angarium.cli.client import RelayError

if TYPE_CHECKING:
    from angarium.cli.client import RelayClient

__all__ = ["write_export"]

_MEMBER = re.compile(r"([0-9A-HJKMNP-TV-Z]{13})\.(eml|json)")
REPORT = "export.json"
REPORT_MAX_OCTETS = 1 << 20


def write_export(client: RelayClient, meant: dict[str, Any], folder: str, layout: str) -> dict[str, Any]:
    """Write what is meant into folder; layout `eml` or `maildir`. Returns the relay's report."""
    place = Path(folder)
    mails, envelopes = (place / "new", place / "envelopes") if layout == "maildir" else (place, place)
    report: dict[str, Any] | None = None
    try:
        for made in (place, mails, envelopes, *([place / "cur", place / "tmp"] if layout == "maildir" else [])):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            client.download("queue", "export", body=meant) as answer,
            tarfile.open(fileobj=answer, mode="r|") as archive,
        ):
            for member in archive:
                content = archive.extractfile(member)
                name = _MEMBER.fullmatch(member.name)
                if content is None or (name is None and member.name != REPORT):
                    raise RelayError(f"{client.address} sends something that is no export: {member.name!r}")
                if name is None:
                    report = json.loads(content.read(REPORT_MAX_OCTETS))
                    continue
                target = envelopes / member.name
                if name[2] == "eml":
                    target = mails / (f"{int(member.mtime)}.{name[1]}.angarium" if layout == "maildir" else member.name)
                _write(target, content)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise RelayError(f"the export ended before its end: {error}") from None
    if report is None:
        raise RelayError("the export ended before its end: the relay did not say that it is whole")
    os.sync()
    return report


def _write(target: Path, content: Any) -> None:
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            while octets := content.read(1 << 20):
                file.write(octets)
    except OSError as error:
        raise RelayError(f"cannot write {target}: {error.strerror or error}") from None
