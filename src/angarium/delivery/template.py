"""Fill in the names of `maildir:` and `pipe:` next hops for one recipient: no address can mean more than itself.

    {recipient}   the whole address
    {local}       its local part, without quotes
    {user}        the local part up to its first +
    {detail}      what stands behind that +; empty where there is none
    {domain}      the domain, A-labels in lower case; the relay's own for the domainless Postmaster
    {sender}      the reverse-path, {queue_id} the queue id, {tenant} the tenant: for programs only

Input: a recipient and its message. Output: a path below the template's first literal parts, or the words of a command.

Fails: Inexpressible, with a permanent reply, for a recipient that has no safe form: one that would be empty, begin with
a dot, have a slash, a control character or no UTF-8 in it, or be too long as the name of a folder; or that would begin
a word with a minus, which programs take for an option. Nothing is escaped, so that no two values meet in one folder.
One part of a path alone is left out: that which says {detail} and nothing else of the recipient, where there is none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from angarium.mail.address import ascii_domain, split_mailbox
from angarium.mail.status import EnhancedStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from angarium.config.template import Template

__all__ = ["Inexpressible", "Values", "folder_of", "words_of"]

LONGEST_NAME = 255  # octets: NAME_MAX
LONGEST_PATH = 3800  # octets: PATH_MAX, less what a Maildir adds
_UNSAFE = re.compile(rb"[\x00-\x1f\x7f/]")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)


class Inexpressible(Exception):
    """This recipient cannot be delivered to in this way, ever."""

    def __init__(self, status: EnhancedStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Values:
    """What the names stand for, for one recipient of one message."""

    def __init__(
        self, recipient: bytes, *, hostname: str, reverse_path: bytes = b"", queue_id: str = "", tenant: bytes = b""
    ) -> None:
        local, domain = split_mailbox(recipient)
        quoted = _QUOTED.fullmatch(local)
        if quoted is not None:
            local = re.sub(rb"\\(.)", rb"\1", quoted[1], flags=re.DOTALL)
        user, _, detail = local.partition(b"+")
        try:
            domain = ascii_domain(domain) or hostname.encode("ascii").lower()
        except ValueError as failure:
            raise Inexpressible(EnhancedStatus(5, 1, 2), str(failure)) from None
        self._values = {
            "recipient": recipient,
            "local": local,
            "user": user,
            "detail": detail,
            "domain": domain,
            "sender": reverse_path,
            "queue_id": queue_id.encode("ascii"),
            "tenant": tenant,
        }

    def __getitem__(self, name: str) -> bytes:
        return self._values[name]


def folder_of(parts: Sequence[Template], values: Values) -> bytes:
    """The path that the parts make for this recipient. Inexpressible: it would be no folder of its own."""
    path = b""
    for part in parts:
        if "detail" in part.names and len(set(part.names)) == 1 and not values["detail"]:
            continue
        name = part.fill(_checked(values))
        if len(name) > LONGEST_NAME:
            raise Inexpressible(EnhancedStatus(5, 1, 3), "the address is too long for the name of a folder")
        path += b"/" + name
    if len(path) > LONGEST_PATH:
        raise Inexpressible(EnhancedStatus(5, 1, 3), "the address is too long for the path of a folder")
    return path


def _checked(values: Values) -> Callable[[str], bytes]:
    def value(name: str) -> bytes:
        octets = values[name]
        why = ""
        if not octets:
            why = f"its {name} is empty"
        elif octets.startswith(b"."):
            why = f"its {name} begins with a dot"
        elif _UNSAFE.search(octets):
            why = f"its {name} has a slash or a control character in it"
        else:
            try:
                octets.decode("utf-8")
            except UnicodeDecodeError:
                why = f"its {name} is not UTF-8"
        if why:
            raise Inexpressible(EnhancedStatus(5, 1, 3), f"the address cannot be the name of a folder: {why}")
        return octets

    return value


def words_of(words: Sequence[Template], values: Values) -> list[bytes]:
    """The words of a command for this recipient. Inexpressible: one of them would be taken for an option."""
    made = []
    for word in words:
        text = word.fill(values.__getitem__)
        if word.names and not word.literals[0] and text.startswith(b"-"):
            of_sender = word.names[0] == "sender"
            what = "reverse-path" if of_sender else "address"
            why = f"the {what} begins with a minus, which programs take for an option"
            raise Inexpressible(EnhancedStatus(5, 1, 7 if of_sender else 3), why)
        if b"\0" in text:
            raise Inexpressible(EnhancedStatus(5, 1, 3), "the address has a NUL in it")
        made.append(text)
    return made
