"""The node's table of what its senders have sent: where it is, and who counts as one sender.

Input: the spool, a [[permission]], who the client is. Output: the Quota that compiled sessions count with. The table
is a file of the spool that every worker maps (`cext/quota.pyx`); a process opens it when it first needs it, so that a
configuration without limits has none.

Fails: OSError when the file cannot be made or mapped.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from angarium._core.quota import Quota, QuotaTable
from angarium.mail.log_in import fold_log_in

if TYPE_CHECKING:
    from pathlib import Path

    from angarium.clock import Clock
    from angarium.config.model import Config, Permission

__all__ = ["FILE", "Quotas"]

FILE = "quota.table"


class Quotas:
    """The table of one node, as one process sees it."""

    def __init__(self, spool: Path, clock: Clock) -> None:
        self._path = spool / FILE
        self._table: QuotaTable | None = None
        self._clock = clock

    def of(self, permission: Permission, number: int, *, address: str, log_in: str, tenant: str) -> Quota | None:
        """What a client counts with; None where the permission limits nothing over time. `number`: its place."""
        if not permission.counts:
            return None
        above = permission.hold_above
        return Quota(
            self.table(),
            key_of(permission, number, address=address, log_in=log_in, tenant=tenant),
            per_hour=permission.recipients_per_hour or 0,
            per_day=permission.recipients_per_day or 0,
            queues=permission.at_limit == "queue",
            unusual_above=above.recipients if above is not None and log_in else 0,
            unusual_times=above.times if above is not None and log_in else 0,
        )

    def table(self) -> QuotaTable:
        """The table, which is opened now if it was not."""
        if self._table is None:
            self._table = QuotaTable(str(self._path))
        return self._table

    def trust(self, config: Config, log_in: str) -> bool:
        """What a log-in sent so far is not unusual, and what it sends is not held any more. Whether it was."""
        trusted = False
        for number, permission in enumerate(config.permission):
            if permission.hold_above is None or permission.counted_by != "sender":
                continue
            quota = self.of(permission, number, address="", log_in=log_in, tenant="")
            trusted |= quota is not None and quota.excuse(int(self._clock.now()))
        return trusted

    def close(self) -> None:
        """Let go of the table; no Quota may be used afterwards."""
        if self._table is not None:
            self._table.close()
            self._table = None


def key_of(permission: Permission, number: int, *, address: str, log_in: str, tenant: str) -> bytes:
    """Who counts as one sender under a permission: by name, or by its place in the file where it has none."""
    if permission.counted_by == "permission":
        whose = ("permission", "")
    elif permission.counted_by == "tenant":
        whose = ("tenant", tenant)
    else:
        whose = ("log-in", fold_log_in(log_in)) if log_in else ("address", address)
    which = permission.name if permission.name is not None else str(number)
    return hashlib.blake2b("\0".join((which, *whose)).encode(), digest_size=16).digest()
