"""Who the relay runs as: from the user that started it to `node.user`, once, when the ports are bound.

Input: the configuration. Output: this process is that user, with the groups that the user is in, and the spool and the
folders that only root could make are that user's.

Fails: StartFailure for a user or a group that is not there, OSError for what may not be changed.
"""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from angarium.app.start_failure import StartFailure
from angarium.queue.dropped import make_folders

if TYPE_CHECKING:
    from angarium.config.model import Config, Node, Sendmail

__all__ = ["drop_privileges", "identity_of"]


def identity_of(node: Node) -> tuple[int, int]:
    """User and group that the relay runs as; -1: as which it was started."""
    if node.user is None or os.geteuid() != 0:
        return -1, -1
    try:
        user = pwd.getpwnam(node.user)
        return user.pw_uid, grp.getgrnam(node.group).gr_gid if node.group else user.pw_gid
    except KeyError as failure:
        raise StartFailure(f"node.user or node.group: {failure}") from failure


def drop_privileges(config: Config) -> bool:
    """Become the configured user, with the groups that the user is in. Whether there was anything to give up."""
    uid, gid = identity_of(config.node)
    if uid == -1:
        return False
    spool = Path(config.node.spool)
    for path in (spool, spool / "run", spool / "lock"):
        os.chown(path, uid, gid)
    if config.sendmail is not None:
        _make_local_folders(config.sendmail, uid, gid)
    assert config.node.user is not None
    os.initgroups(config.node.user, gid)  # a key that only the group ssl-cert may read, for one
    os.setgid(gid)
    os.setuid(uid)
    return True


def _make_local_folders(sendmail: Sendmail, uid: int, gid: int) -> None:
    """What only root can make: where the socket of this machine's users will be, and their drop folder."""
    folder = Path(sendmail.socket).parent
    try:
        if not folder.exists():
            folder.mkdir(mode=0o755, parents=True)
            os.chown(folder, uid, gid)
        make_folders(sendmail.drop, uid, gid)
    except OSError as failure:
        raise StartFailure(f"[sendmail]: {failure.filename}: {failure.strerror}") from failure
