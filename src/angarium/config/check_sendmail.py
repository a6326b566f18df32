"""What must hold of [sendmail]: its paths can be reached by those whose mail comes in there, and its tenant exists."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from angarium.config.model import SENDMAIL
from angarium.config.problem import nearest

if TYPE_CHECKING:
    from angarium.config.model import Config
    from angarium.config.problem import Findings

__all__ = ["check_sendmail"]


def check_sendmail(config: Config, findings: Findings) -> None:
    """Every check of [sendmail]. Nothing is made here: the relay makes what is missing when it starts."""
    sendmail = config.sendmail
    if sendmail is None:
        return
    for index, listener in enumerate(config.listener):
        path = findings.element(("listener",), index)
        if listener.name == SENDMAIL:
            findings.error((*path, "name"), f'"{SENDMAIL}" is the name of what [sendmail] takes; choose another')
        if listener.listen.path == sendmail.socket and findings.sound(("sendmail", "socket"), (*path, "listen")):
            findings.error(("sendmail", "socket"), f'is the address of listener "{listener.name}" already')
    if config.admin.listen.path == sendmail.socket and findings.sound(("sendmail", "socket"), ("admin", "listen")):
        findings.error(("sendmail", "socket"), "is the address of admin.listen already")
    for key in ("socket", "drop"):
        where = ("sendmail", key)
        if findings.sound(where, ("node", "spool")) and _within(getattr(sendmail, key), config.node.spool):
            message = f"stands in the spool, {config.node.spool}, which nobody but the relay may enter"
            findings.error(where, message)
    if findings.sound(("sendmail", "drop")) and os.path.exists(sendmail.drop):
        if not os.path.isdir(sendmail.drop):
            findings.error(("sendmail", "drop"), f"{sendmail.drop} is no folder")
        elif not os.stat(sendmail.drop).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            findings.warn(("sendmail", "drop"), f"no user but its owner may leave mail in {sendmail.drop}: chmod 3733")
    names = [tenant.name for tenant in config.tenant]
    if sendmail.tenant is not None and sendmail.tenant not in names and findings.whole(("tenant",)):
        findings.error(
            ("sendmail", "tenant"), f'there is no tenant "{sendmail.tenant}"', nearest(sendmail.tenant, names)
        )


def _within(path: str, folder: str) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)
