"""A file of recipients: who has a mailbox behind this relay.

    # one a line; blank lines and what begins with # mean nothing
    ada@example.org
    postmaster@example.org
    @lists.example.org          every address of that domain

UTF-8. Case means nothing: this file is written by the people who have the mailboxes, and none of them has two that
differ by it. Domains may be written in U-labels or A-labels.

`read_recipients` gives a RecipientList. Fails: OSError when the file cannot be read, BadRecipientFile with every line
that is none. Bounds: LONGEST_FILE_OCTETS; a list takes some 120 octets of memory an address.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from angarium.mail.address import folded_domain, split_mailbox, unquote_local_part
from angarium.mail.pattern import AddressPattern

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

__all__ = ["LONGEST_FILE_OCTETS", "BadRecipientFile", "RecipientList", "read_recipients"]

LONGEST_FILE_OCTETS = 64 << 20
MOST_TOLD = 20  # bad lines that are named
_PLAIN = re.compile(rb"[a-z0-9!#$&'+/=?^_`{|}~.-]{1,64}@[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?")


class BadRecipientFile(ValueError):
    """Lines that are no recipients. `problems`: the first of them, line number and what is wrong."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join(f"line {line}: {text}" for line, text in problems))
        self.problems = problems


class RecipientList:
    """Addresses and whole domains, folded."""

    def __init__(self, addresses: AbstractSet[bytes], domains: AbstractSet[bytes]) -> None:
        self._addresses = addresses
        self.domains = domains

    def __len__(self) -> int:
        return len(self._addresses) + len(self.domains)

    def has(self, mailbox: bytes, delimiter: bytes = b"") -> bool:
        """Whether the mailbox is in the list. `delimiter`: octets behind which a local part has only a detail, so that
        `ada+list@` is ada's; none: there are no details."""
        local, domain = _folded(mailbox)
        if domain in self.domains or local + b"@" + domain in self._addresses:
            return True
        ends = [at for at in (local.find(delimiter[i : i + 1], 1) for i in range(len(delimiter))) if at > 0]
        return bool(ends) and local[: min(ends)] + b"@" + domain in self._addresses

    def hosts(self, domain: bytes) -> bool:
        """Whether there is any recipient at a domain, which is folded."""
        return domain in self.domains or any(address.endswith(b"@" + domain) for address in self._addresses)


def read_recipients(path: str) -> RecipientList:
    """The list in a file."""
    octets = _read(path)
    addresses: set[bytes] = set()
    domains: set[bytes] = set()
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(octets.split(b"\n"), 1):
        entry = line.strip().lower()
        if not entry or entry.startswith(b"#"):
            continue
        if _PLAIN.fullmatch(entry) and b".." not in entry.rpartition(b"@")[2]:
            addresses.add(entry)
            continue
        try:
            _add(line.strip().decode("utf-8"), addresses, domains)
        except ValueError as why:
            problems.append((number, str(why) if not isinstance(why, UnicodeDecodeError) else "is not UTF-8"))
            if len(problems) >= MOST_TOLD:
                break
    if problems:
        raise BadRecipientFile(problems)
    return RecipientList(frozenset(addresses), frozenset(domains))


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        octets = file.read(LONGEST_FILE_OCTETS + 1)
    if len(octets) > LONGEST_FILE_OCTETS:
        raise BadRecipientFile([(1, f"the file has more than {LONGEST_FILE_OCTETS} octets")])
    return octets.removeprefix(b"\xef\xbb\xbf")


def _add(text: str, addresses: set[bytes], domains: set[bytes]) -> None:
    pattern = AddressPattern.parse(text.removeprefix("@"))
    if text.startswith("@") and pattern.kind == "domain":
        domains.add(pattern.domain)
    elif not text.startswith("@") and pattern.kind == "address":
        local, domain = _folded(pattern.local + b"@" + pattern.domain)
        addresses.add(local + b"@" + domain)
    else:
        raise ValueError(f'"{text}" is neither an address nor "@" and a domain')


def _folded(mailbox: bytes) -> tuple[bytes, bytes]:
    """Local part and domain as they compare."""
    local, domain = split_mailbox(mailbox)
    local = unquote_local_part(local).lower()
    if not local.isascii():
        local = unicodedata.normalize("NFC", local.decode("utf-8", "replace")).casefold().encode()
    return local, folded_domain(domain)
