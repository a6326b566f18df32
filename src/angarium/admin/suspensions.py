"""What is suspended: the list that operators change, its file, and the handlers of `/api/v1/suspensions`.

The admin process alone writes SPOOL/suspensions.json (angarium.queue.suspension); then it tells every worker to read
it. A worker that cannot be told reads it when it starts, or within a second.

Fails: 400 for a name that makes no sense, 404 for a suspension that is none, 507 when the file cannot be written.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from litestar import Response, delete, get, post
from litestar.exceptions import ClientException, HTTPException, NotFoundException
from litestar.params import JSONBody, QueryParameter
from msgspec.json import Decoder

from angarium.admin.model import NewSuspension, SuspensionReport
from angarium.admin.services import Services, ServicesDependency, missing
from angarium.admin.workers import Question
from angarium.queue.suspension import MOST, Kind, Suspension, SuspensionError, in_force, load, normal_name, store

__all__ = ["HANDLERS", "SuspensionBook"]

_COUNT: Decoder[int] = Decoder(int)


class StorageFailure(HTTPException):
    """The file cannot be read or written."""

    status_code = 507


class SuspensionBook:
    """The list of one node."""

    def __init__(self, spool: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._spool = spool
        self._now = now
        self._lock = asyncio.Lock()

    async def list(self) -> list[Suspension]:
        """Those in force, in the order in which they were made."""
        return in_force(await asyncio.to_thread(load, self._spool), self._now())

    async def add(self, wanted: NewSuspension) -> Suspension:
        """Suspend, or change what is suspended already; on disk when this returns. SuspensionError, OSError."""
        kind = wanted.kind
        now = self._now()
        made = Suspension(
            kind=kind,
            name=normal_name(kind, wanted.name),
            reason=wanted.reason,
            by=wanted.by,
            since=now,
            until=now + timedelta(seconds=wanted.for_s),
        )
        async with self._lock:
            others = [other for other in await self.list() if other.key != made.key]
            if len(others) >= MOST:
                raise SuspensionError(f"there are {MOST} suspensions already")
            await asyncio.to_thread(store, self._spool, [*others, made])
        return made

    async def remove(self, kind: Kind, name: str) -> Suspension | None:
        """End one; on disk when this returns. None when there is none."""
        key = (kind, normal_name(kind, name))
        async with self._lock:
            found = await self.list()
            ended = next((suspension for suspension in found if suspension.key == key), None)
            if ended is not None:
                await asyncio.to_thread(store, self._spool, [other for other in found if other is not ended])
        return ended


@get("/api/v1/suspensions", tags=["suspensions"])
async def suspension_list(services: ServicesDependency) -> list[SuspensionReport]:
    """What is suspended now."""
    try:
        return [_report(suspension) for suspension in await services.suspensions.list()]
    except (OSError, SuspensionError) as error:
        raise StorageFailure(detail=f"the suspensions cannot be read: {error}") from None


@post("/api/v1/suspensions", tags=["suspensions"], status_code=200)
async def suspend(services: ServicesDependency, data: JSONBody[NewSuspension]) -> Response[SuspensionReport]:
    """Stop delivery for one domain, site, source or tenant, for some time. What waits for it stays queued."""
    try:
        made = await services.suspensions.add(data)
    except SuspensionError as error:
        raise ClientException(detail=str(error)) from None
    except OSError as error:
        raise StorageFailure(detail=f"the suspension cannot be stored: {error}") from None
    return Response(_report(made), headers=await _tell(services))


@delete("/api/v1/suspensions", tags=["suspensions"], status_code=200)
async def resume(
    services: ServicesDependency,
    kind: Annotated[Kind, QueryParameter(description="what is suspended")],
    name: Annotated[str, QueryParameter(description="its name", min_length=1, max_length=255)],
) -> Response[SuspensionReport]:
    """Start delivery again; the answer is the suspension that has ended."""
    try:
        ended = await services.suspensions.remove(kind, name)
    except SuspensionError as error:
        raise ClientException(detail=str(error)) from None
    except OSError as error:
        raise StorageFailure(detail=f"the suspension cannot be ended: {error}") from None
    if ended is None:
        raise NotFoundException(detail=f"{kind} {name} is not suspended")
    return Response(_report(ended), headers=await _tell(services))


async def _tell(services: Services) -> dict[str, str]:
    """Have every worker read the file now."""
    return missing(await services.workers.ask(Question(op="suspensions"), _COUNT))


def _report(suspension: Suspension) -> SuspensionReport:
    return SuspensionReport(
        kind=suspension.kind,
        name=suspension.name,
        reason=suspension.reason,
        by=suspension.by,
        since=_time(suspension.since),
        until=_time(suspension.until),
    )


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


HANDLERS = (suspension_list, suspend, resume)
