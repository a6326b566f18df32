"""Bans after failed log-ins: the handlers of `/api/v1/bans`, and what the access process says of itself.

The access process has the table and is asked. Fails: 404 for a ban that is not there, 503 when nobody answers, or
nobody logs in at this node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from litestar import delete, get
from litestar.exceptions import NotFoundException
from litestar.params import QueryParameter
from msgspec import Struct

from angarium.admin.model import AccessReport, AccessStatus
from angarium.admin.services import Services, ServicesDependency, ServiceUnavailable
from angarium.admin.workers import TIMEOUT_S
from angarium.delivery.mail_host import ResolutionFailure
from angarium.policy.access_protocol import ACCESS_STATUS, BANS, UNBAN

if TYPE_CHECKING:
    from angarium.delivery.lookup_protocol import Kind, Perishable

__all__ = ["HANDLERS", "ask_access"]

R = TypeVar("R", bound="Perishable")


class BanReport(Struct, frozen=True):
    """A client or a log-in whose AUTH is not looked at. `of` is address or log_in.

    `subject` is the address (of IPv6 its /64) or the log-in; a log-in that no back end knows is shown as # and a
    number, because it may be a password in the wrong field.
    """

    of: str
    subject: str
    failures: int
    left_s: float


class LiftedBans(Struct, frozen=True):
    """How many bans were lifted."""

    lifted: int


@get("/api/v1/bans", tags=["bans"])
async def bans(services: ServicesDependency) -> list[BanReport]:
    """Who is banned from AUTH now, those first whose ban ends last."""
    found = await _ask(services, BANS, None)
    return [
        BanReport(of=ban.kind, subject=ban.of, failures=ban.failures, left_s=round(ban.left_s, 3)) for ban in found.bans
    ]


@delete("/api/v1/bans", tags=["bans"], status_code=200)
async def lift(
    services: ServicesDependency,
    subject: Annotated[
        str, QueryParameter(description="an address, a log-in, or * for all", min_length=1, max_length=255)
    ],
) -> LiftedBans:
    """Lift a ban, and forget the failures that led to it."""
    lifted = (await _ask(services, UNBAN, subject)).bans
    if not lifted and subject != "*":
        raise NotFoundException(detail=f"{subject} is not banned")
    return LiftedBans(lifted)


async def ask_access(services: Services) -> AccessReport | None:
    """What the access process says of itself; None where there is none."""
    if services.access is None:
        return None
    try:
        said = await _ask(services, ACCESS_STATUS, None)
    except ServiceUnavailable as failure:
        return AccessReport(answering=False, error=failure.detail, status=None)
    status = AccessStatus(pid=said.pid, under_way=said.under_way, bans=said.bans, uptime_s=said.uptime_s)
    return AccessReport(answering=True, error=None, status=status)


async def _ask(services: Services, kind: Kind[Any, R], argument: object) -> R:
    if services.access is None:
        raise ServiceUnavailable(detail="nobody logs in at this node: it has no [[credentials]]")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await services.access.ask_once(kind, argument)
    except ResolutionFailure as failure:
        raise ServiceUnavailable(detail=failure.text) from None
    except TimeoutError:
        raise ServiceUnavailable(detail=f"the access process has no answer within {TIMEOUT_S:g} s") from None


HANDLERS = (bans, lift)
