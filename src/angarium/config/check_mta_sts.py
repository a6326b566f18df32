"""What must hold in [mta_sts] and [tls_report]: files that can be read, an address that mail can come from."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from angarium.config.model import Config
    from angarium.config.problem import Findings

__all__ = ["check_mta_sts", "check_tls_report"]

_MAILBOX = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


def check_mta_sts(config: Config, findings: Findings) -> None:
    """The file of authorities holds some."""
    path = ("mta_sts", "ca_file")
    if config.mta_sts.ca_file is None or not findings.sound(path):
        return
    try:
        ssl.create_default_context(cafile=config.mta_sts.ca_file)
    except ssl.SSLError:
        findings.error(path, f"{config.mta_sts.ca_file} has no certificates in PEM format")
    except OSError as failure:
        findings.error(path, f"{config.mta_sts.ca_file} cannot be read: {failure.strerror}")


def check_tls_report(config: Config, findings: Findings) -> None:
    """Reports have an author, and a name that fits into JSON and a header."""
    contact, path = config.tls_report.contact, ("tls_report", "contact")
    if contact is not None and findings.sound(path) and not _MAILBOX.fullmatch(contact):
        findings.error(path, f'"{contact}" is not a mail address in ASCII such as "postmaster@example.org"')
    organization, path = config.tls_report.organization, ("tls_report", "organization")
    if organization is not None and findings.sound(path) and not organization.isprintable():
        findings.error(path, "has control characters in it")
