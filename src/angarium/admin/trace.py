"""The handlers of `/api/v1/messages/ID/trace` and `/api/v1/trace/live`.

The story of a message is put together from the event log, from what workers keep of dialogues, and from its worker
while it is queued; files are read in a thread. Live lines come from all workers, each line a JSON object; one with
`beat` once in BEAT_S says that the connection is alive, and how many lines were dropped.

Fails: 400 for what is no queue id or network, 404 for a message of which nothing is known, 503 when it may be with a
worker that does not answer, or too many watch. Bounds: MOST_READING stories put together at a time; LIVE_LINES waiting
for one who watches.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import PathParameter, QueryParameter
from litestar.response import Stream
from msgspec.json import Decoder

from angarium._core.record import format_id, parse_id
from angarium.admin.services import Services, ServicesDependency, ServiceUnavailable
from angarium.admin.workers import Question, WorkerFailure
from angarium.outcome.dialogue_reader import find
from angarium.outcome.event_search import Found, accepted_at, search
from angarium.outcome.story import Story, tell

__all__ = ["HANDLERS"]

LIVE_LINES = 2000
MOST_READING = 2
_DETAIL: Decoder[dict[str, Any] | None] = Decoder(dict[str, Any] | None)


_READING = asyncio.Semaphore(MOST_READING)


class WatchFilter(msgspec.Struct, frozen=True):
    """What a worker is asked to show."""

    client: str = ""
    sender: str = ""
    to_domain: str = ""
    site: str = ""


@get("/api/v1/messages/{message_id:str}/trace", tags=["trace"])
async def trace(
    services: ServicesDependency,
    message_id: Annotated[str, PathParameter(description="queue id", max_length=64)],
    or_null: Annotated[bool, QueryParameter(description="null, not 404, when nothing is known of it")] = False,
) -> Story | None:
    """The whole story of one message: reception, policy, waits by cause, attempts with their SMTP dialogues, result.

    Known as far back as the event log goes, dialogues as far as `[trace]` keeps them.
    """
    try:
        number = parse_id(message_id)
    except ValueError as failure:
        raise ClientException(detail=str(failure)) from None
    name = format_id(number)
    answers = await services.workers.ask(Question(op="show", id=name), _DETAIL)
    detail = next((answer.result for answer in answers if answer.result is not None), None)
    silent = [f"worker {answer.worker} does not answer: {answer.error}" for answer in answers if not answer.answered]
    remarks = list(silent)
    found, dialogues = Found(), []
    try:
        if services.event_file is None:
            remarks.append("there is no event log: set events.file")
        async with _READING:
            if services.event_file is not None:
                found = await asyncio.to_thread(search, services.event_file, name, accepted_at(number))
            if services.spool is not None:
                dialogues = await asyncio.to_thread(find, services.spool / "trace", number)
    except OSError as failure:
        remarks.append(f"what was written down cannot be read: {failure.strerror or failure}")
    if services.dialogues != "all":
        remarks.append(f"trace.dialogues = {services.dialogues}: what was said in other attempts is not kept")
    if detail is None and not found.own and not dialogues:
        if silent:
            raise ServiceUnavailable(detail="; ".join(["nothing is known of it where it could be looked up", *silent]))
        if or_null:
            return None
        raise NotFoundException(detail=f"nothing is known of {name}: it is not queued, nor in the event log")
    if not any(event["event"] == "reception" for event in found.own) and services.event_file is not None:
        remarks.append("its reception is not in the event log, or no longer")
    return tell(
        name,
        found.own,
        found.around,
        dialogues,
        detail,
        now=time.time(),
        complete=found.complete and not silent,
        remarks=remarks,
    )


@get("/api/v1/trace/live", tags=["trace"], media_type="application/x-ndjson")
async def live(
    *,
    services: ServicesDependency,
    client: Annotated[str, QueryParameter(description="sessions from this network", max_length=100)] = "",
    sender: Annotated[str, QueryParameter(name="from", description="reverse path, or @domain", max_length=1000)] = "",
    to_domain: Annotated[str, QueryParameter(description="domain of a recipient", max_length=255)] = "",
    site: Annotated[str, QueryParameter(description="sessions to this site", max_length=255)] = "",
) -> Stream:
    """Sessions as they happen, in and out, as JSON Lines, until the connection is closed. All conditions hold."""
    wanted = WatchFilter(client=client, sender=sender, to_domain=to_domain, site=site)
    lines = _lines(services, Question(op="watch", watch=wanted))
    try:
        first = await anext(lines)  # so that what is wrong with the question is said in the answer's status
    except WorkerFailure as failure:
        if failure.refused:
            raise ClientException(detail=str(failure)) from None
        raise ServiceUnavailable(detail=str(failure)) from None
    return Stream(_behind(first, lines), media_type="application/x-ndjson")


async def _behind(first: bytes, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for line in lines:
        yield line


async def _lines(services: Services, question: Question) -> AsyncIterator[bytes]:
    """Of all workers, as they come; of one that ends, that it did. What finds no room waits with its worker."""
    queue: asyncio.Queue[bytes | WorkerFailure] = asyncio.Queue(LIVE_LINES)

    async def follow(worker: int) -> None:
        try:
            async for line in services.workers.follow(worker, question):
                await queue.put(line)
        except WorkerFailure as failure:
            await queue.put(failure)

    tasks = [asyncio.ensure_future(follow(worker)) for worker in range(len(services.workers))]
    left = len(tasks)
    failed: list[WorkerFailure] = []  # until one of them says something
    begun = False
    try:
        while left:
            said = await queue.get()
            if isinstance(said, WorkerFailure):
                left -= 1
                failed.append(said)
                if not begun:
                    continue
            begun = True
            while failed:
                yield msgspec.json.encode({"error": str(failed.pop(0))}) + b"\n"
            if isinstance(said, bytes):
                yield said
        if not begun:
            raise failed[0] if failed else WorkerFailure("there are no workers")
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


HANDLERS = (trace, live)
