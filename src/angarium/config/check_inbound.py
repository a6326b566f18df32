"""What must hold of a listener that takes mail to domains of ours, of how it verifies recipients, and of LMTP.

The file of recipients is read as the workers will read it. Nothing is asked of the mailbox host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium.config.check_route import check_stays, leads_to
from angarium.config.model import Verification
from angarium.config.next_hop import SESSION_KINDS
from angarium.config.recipient_file import BadRecipientFile, read_recipients

if TYPE_CHECKING:
    from angarium.config.locate import KeyPath
    from angarium.config.model import Config, Listener
    from angarium.config.problem import Findings
    from angarium.config.recipient_file import RecipientList

__all__ = ["check_inbound"]

SMTP_PORT = 25
_DELIMITERS = set("!#$%&'*+-/=?^_`{|}~.")
MOST_DELIMITERS = 4
MOST_TOLD = 5
# key -> the verify_recipients that it is for; "": of every inbound listener
_KEYS = {
    "domains": "",
    "verify_recipients": "",
    "recipient_file": "list",
    "recipient_delimiter": "list",
    "call_ahead": "call-ahead",
    "verification": "call-ahead",
}


def check_inbound(config: Config, listener: Listener, path: KeyPath, findings: Findings) -> None:
    """Every check of one listener."""
    _check_protocol(listener, path, findings)
    if not findings.sound((*path, "role"), (*path, "verify_recipients")):
        return
    for key, verification in _KEYS.items():
        value = getattr(listener, key)
        if value in ((), None, "none") or (key == "verification" and value == Verification()):
            continue
        if listener.role != "inbound":
            findings.error((*path, key), 'has no effect unless role = "inbound"')
        elif verification not in ("", listener.verify_recipients):
            findings.error((*path, key), f'has no effect unless verify_recipients = "{verification}"')
    if listener.role != "inbound":
        return
    _check_domains(listener, path, findings)
    if listener.verify_recipients == "list":
        _check_list(listener, path, findings)
    elif listener.verify_recipients == "call-ahead":
        _check_call_ahead(config, listener, path, findings)
    else:
        message = (
            f'listener "{listener.name}" takes mail for mailboxes that may not exist; when they do not, strangers get '
            'notifications of mail they never sent: write verify_recipients = "list" or "call-ahead"'
        )
        findings.warn(path, message)


def _check_protocol(listener: Listener, path: KeyPath, findings: Findings) -> None:
    if listener.protocol != "lmtp" or not findings.sound((*path, "protocol")):
        return
    if listener.role == "submission":
        findings.error((*path, "protocol"), "users submit mail by SMTP; LMTP is for relays and deliveries")
    elif listener.listen.port == SMTP_PORT:
        findings.error((*path, "listen"), "LMTP must not be spoken on port 25 (RFC 2033 §5); 24 is usual")


def _check_domains(listener: Listener, path: KeyPath, findings: Findings) -> None:
    where = (*path, "domains")
    if not listener.domains and findings.sound(where) and findings.whole(where):
        message = '"inbound" takes mail to the domains of its key "domains", and there are none'
        findings.error((*path, "role"), message)
    for number, pattern in enumerate(listener.domains):
        if pattern.kind == "any":
            message = '"*" would take mail to every domain from everybody: an open relay; name your own domains'
            findings.error(findings.element(where, number), message)
        elif pattern.kind == "address":
            message = f'"{pattern}" is one address; domains are listed here, and addresses in recipient_file'
            findings.error(findings.element(where, number), message)


def _check_list(listener: Listener, path: KeyPath, findings: Findings) -> None:
    delimiter = listener.recipient_delimiter
    if delimiter is not None and (not set(delimiter) <= _DELIMITERS or len(delimiter) > MOST_DELIMITERS):
        message = f'"{delimiter}" is not a delimiter such as "+": at most {MOST_DELIMITERS} marks of an address'
        findings.error((*path, "recipient_delimiter"), message)
    where = (*path, "recipient_file")
    if not findings.sound(where):
        return
    if listener.recipient_file is None:
        findings.error((*path, "verify_recipients"), '"list" needs a recipient_file')
        return
    try:
        found = read_recipients(listener.recipient_file)
    except OSError as error:
        findings.error(where, f"{listener.recipient_file} cannot be read: {error.strerror}")
    except BadRecipientFile as error:
        for line, problem in error.problems[:MOST_TOLD]:
            findings.error(where, f"{listener.recipient_file}:{line}: {problem}")
    else:
        _check_postmasters(listener, found, where, findings)


def _check_postmasters(listener: Listener, found: RecipientList, where: KeyPath, findings: Findings) -> None:
    for pattern in listener.domains:
        if pattern.kind != "domain":
            continue
        if not found.hosts(pattern.domain):
            findings.warn(where, f"{listener.recipient_file} has no recipient at {pattern}: all of them are refused")
        elif not found.has(b"postmaster@" + pattern.domain):
            findings.warn(where, f"{listener.recipient_file} lacks postmaster@{pattern} (RFC 5321 §4.5.1)")


def _check_call_ahead(config: Config, listener: Listener, path: KeyPath, findings: Findings) -> None:
    where = (*path, "call_ahead")
    if not findings.sound(where):
        return
    hop = listener.call_ahead
    if hop is None:
        findings.error((*path, "verify_recipients"), '"call-ahead" needs call_ahead, such as "lmtp://127.0.0.1:24"')
        return
    if hop.kind not in SESSION_KINDS:
        findings.error(where, f'"{hop}" cannot be asked about a recipient; {", ".join(SESSION_KINDS)} can')
        return
    for other in config.listener:
        if leads_to(hop, other):
            findings.error(where, f'leads back to listener "{other.name}", which would ask itself')
    if config.sandbox:
        check_stays(config, hop, where, findings)
