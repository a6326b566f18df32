"""Permissions of the core as the configuration makes them, and tables of quotas without a spool."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from msgspec import structs

from angarium._core.quota import QuotaTable
from angarium.config.load import examine_text
from angarium.policy.permission import core_permission
from angarium.policy.quota import Quotas
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from angarium._core.permission import Permission
    from angarium.config.model import Config

HEAD = """
[node]
hostname = "relay.example.org"
spool = "/var/spool/angarium"
[[listener]]
name = "door"
listen = "127.0.0.1:2525"
role = "relay"
relay_networks = ["10.0.0.0/8"]
"""


def config_of(text: str, *, role: Literal["relay", "submission"] = "submission") -> Config:
    """A configuration with one listener of that role and these tables."""
    examination = examine_text(HEAD + text)
    assert examination.config is not None, examination.problems
    listener = structs.replace(examination.config.listener[0], role=role)
    return structs.replace(examination.config, listener=(listener,))


class MemoryQuotas(Quotas):
    """A table that is no file of a spool."""

    def __init__(self, clock: FakeClock | None = None, capacity: int = 64) -> None:
        self._clock = clock if clock is not None else FakeClock()
        fd = os.memfd_create("quotas", os.MFD_CLOEXEC)
        self._table = QuotaTable(f"/proc/self/fd/{fd}", capacity)
        os.close(fd)


def permission(
    text: str = "",
    *,
    role: Literal["relay", "submission"] = "submission",
    log_in: str = "",
    address: str = "10.0.0.1",
    tenant: str = "",
    quotas: Quotas | None = None,
) -> Permission:
    """What `[[permission]]` with these keys says to a session; no text: what a submission listener says by itself."""
    config = config_of(f"[[permission]]\n{text}\n" if text else "", role=role)
    found = (0, config.permission[0]) if config.permission else None
    made = core_permission(config, config.listener[0], found, quotas, address=address, log_in=log_in, tenant=tenant)
    assert made is not None
    return made
