"""The handlers of `/api/v1/queue` and `/api/v1/operations`: what is queued, and what operators do to it.

An action names the messages that it is for: ids, or conditions, or, so that nobody means all of them by leaving
something out, `all`. With `dry_run` it says what it would meet and does nothing. Else it becomes an operation: an id
under which every worker works through its part of the queue, and under which it can be asked for and cancelled.

Fails: 400 for an action that names no messages, 404, 503 when the workers that would know do not answer. A worker that
did not answer is named in the response header, and in an operation's `errors`.
Bounds: LIST_MAX messages in a list, 100,000 ids or `limit` in an action; operations as the workers keep them.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from litestar import Response, delete, get, post
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import Stream
from msgspec import structs
from msgspec.json import Decoder

from angarium._core.record import format_id, parse_id
from angarium.admin.archive import TarArchive
from angarium.admin.model import (
    ActionName,
    MeantMessages,
    MessageDetail,
    MessageState,
    Operation,
    OperationPart,
    Preview,
    QueueAction,
    QueuedMessage,
    QueueFilter,
    QueueSummary,
    StateCounts,
)
from angarium.admin.services import Services, ServicesDependency, ServiceUnavailable, missing, results
from angarium.admin.workers import WALK_S, Answer, Question, WorkerFailure

__all__ = ["HANDLERS", "LIST_MAX"]

LIST_MAX = 10_000
ERRORS_SHOWN = 10
SAMPLES = 5

_SUMMARY: Decoder[QueueSummary] = Decoder(QueueSummary)
_LIST: Decoder[list[QueuedMessage]] = Decoder(list[QueuedMessage])
_DETAIL: Decoder[MessageDetail | None] = Decoder(MessageDetail | None)
_IDS: Decoder[list[str]] = Decoder(list[str])
_PREVIEW: Decoder[Preview] = Decoder(Preview)
_PART: Decoder[OperationPart | None] = Decoder(OperationPart | None)
_PARTS: Decoder[list[OperationPart]] = Decoder(list[OperationPart])

_OperationId = Annotated[str, PathParameter(description="operation", max_length=32)]


# ---------------------------------------------------------------------- what is queued


@get("/api/v1/queue/summary", tags=["queue"])
async def queue_summary(services: ServicesDependency) -> Response[QueueSummary]:
    """The queue in numbers, over all workers."""
    answers = await services.workers.ask(Question(op="summary"), _SUMMARY)
    parts = results(answers)
    merged = QueueSummary(
        messages=sum(part.messages for part in parts),
        recipients=sum(part.recipients for part in parts),
        octets=sum(part.octets for part in parts),
        oldest_s=max((part.oldest_s for part in parts if part.oldest_s is not None), default=None),
        by_state=StateCounts(
            ready=sum(part.by_state.ready for part in parts),
            scheduled=sum(part.by_state.scheduled for part in parts),
            held=sum(part.by_state.held for part in parts),
            suspended=sum(part.by_state.suspended for part in parts),
            in_doubt=sum(part.by_state.in_doubt for part in parts),
        ),
    )
    return Response(merged, headers=missing(answers))


@get("/api/v1/queue", tags=["queue"])
async def queue_list(
    *,
    services: ServicesDependency,
    to_domain: Annotated[
        str | None, QueryParameter(description="domain of a recipient who is waited for", max_length=255)
    ] = None,
    reverse_path: Annotated[
        str | None, QueryParameter(name="from", description="reverse path, or @domain", max_length=1000)
    ] = None,
    tenant: Annotated[str | None, QueryParameter(description="tenant", max_length=255)] = None,
    log_in: Annotated[str | None, QueryParameter(description="log-in of who sent it", max_length=255)] = None,
    message_state: Annotated[MessageState | None, QueryParameter(name="state", description="state")] = None,
    older_than_s: Annotated[float | None, QueryParameter(description="accepted longer ago than this", ge=0)] = None,
    limit: Annotated[int, QueryParameter(description="at most so many, the oldest first", ge=1, le=LIST_MAX)] = 100,
) -> Response[list[QueuedMessage]]:
    """Messages of the queue, the oldest first."""
    wanted = QueueFilter(
        limit=limit,
        to_domain=to_domain,
        reverse_path=reverse_path,
        tenant=tenant,
        log_in=log_in,
        state=message_state,
        older_than_s=older_than_s,
    )
    answers = await services.workers.ask(Question(op="list", filter=wanted), _LIST, patience_s=WALK_S)
    messages = [message for part in results(answers) for message in part]
    messages.sort(key=lambda message: message.id)  # ids are in order of time
    return Response(messages[:limit], headers=missing(answers))


@get("/api/v1/queue/{message_id:str}", tags=["queue"])
async def queue_show(
    services: ServicesDependency, message_id: Annotated[str, PathParameter(description="queue id", max_length=64)]
) -> MessageDetail:
    """One message of the queue: envelope, header section, attempts, what it waits for, the place of its record."""
    answers = await services.workers.ask(Question(op="show", id=_id(message_id)), _DETAIL)
    for answer in answers:
        if answer.result is not None:
            return answer.result
    silent = [f"worker {answer.worker}: {answer.error}" for answer in answers if not answer.answered]
    if silent or not answers:
        raise ServiceUnavailable(detail="; ".join(["not found where it could be looked up", *silent]))
    raise NotFoundException(detail=f"{message_id} is not in the queue")


# ---------------------------------------------------------------------- what is done to it


@post("/api/v1/queue/export", tags=["queue"], status_code=200, media_type="application/x-tar")
async def queue_export(services: ServicesDependency, data: JSONBody[MeantMessages]) -> Stream:
    """The messages as a tar archive, written while it is read: `ID.eml` and `ID.json` (with the envelope) of each, and
    at the end `export.json`, without which the archive is not whole."""
    ids, wanted, silent = await _resolve(services, data)
    return Stream(_archive(services, Question(op="export", ids=ids, filter=wanted), silent))


@post("/api/v1/queue/{action:str}", tags=["queue"], status_code=200)
async def queue_act(
    services: ServicesDependency,
    action: Annotated[ActionName, PathParameter(description="what to do")],
    data: JSONBody[QueueAction],
) -> Response[Preview | Operation]:
    """Hold, release, retry, delete or bounce messages. 202 and the operation while it runs, 200 when it has ended
    within `wait_s`; with `dry_run` 200 and a preview."""
    if data.dry_run:
        return await _preview(services, data)
    ids, wanted, silent = await _resolve(services, data)
    question = Question(
        op="act",
        action=action.value,
        operation=secrets.token_hex(6),
        ids=ids,
        filter=wanted,
        reason=data.reason or _REASONS[action],
        by=data.by,
        wait_s=data.wait_s,
    )
    answers = await services.workers.ask(question, _PART, patience_s=data.wait_s)
    operation = _merged(answers)
    if silent:
        operation = structs.replace(operation, errors=[*silent, *operation.errors][:ERRORS_SHOWN])
    return Response(operation, status_code=_status(operation), headers=missing(answers))


_REASONS = {
    ActionName.HOLD: "held by an operator",
    ActionName.RELEASE: "released by an operator",
    ActionName.RETRY: "tried again at once",
    ActionName.DELETE: "deleted by an operator",
    ActionName.BOUNCE: "the operator of this relay returned the message",
}


@get("/api/v1/operations", tags=["operations"])
async def operation_list(services: ServicesDependency) -> Response[list[Operation]]:
    """The operations that the workers remember, the newest last."""
    answers = await services.workers.ask(Question(op="operations"), _PARTS)
    by_id: dict[str, list[Answer[OperationPart | None]]] = {}
    for answer in answers:
        for part in answer.result or []:
            by_id.setdefault(part.operation, []).append(Answer(answer.worker, part, None))
    results(answers)
    operations = [_merged(parts) for parts in by_id.values()]
    operations.sort(key=lambda operation: operation.started)
    return Response(operations, headers=missing(answers))


@get("/api/v1/operations/{operation_id:str}", tags=["operations"])
async def operation_show(
    services: ServicesDependency,
    operation_id: _OperationId,
    wait_s: Annotated[float, QueryParameter(description="wait so long for its end", ge=0, le=30)] = 0.0,
) -> Response[Operation]:
    """How far an operation is: 202 while it runs, else 200."""
    question = Question(op="operation", operation=operation_id, wait_s=wait_s)
    answers = await services.workers.ask(question, _PART, patience_s=wait_s)
    operation = _merged(answers)
    return Response(operation, status_code=_status(operation), headers=missing(answers))


@delete("/api/v1/operations/{operation_id:str}", tags=["operations"], status_code=200)
async def operation_cancel(services: ServicesDependency, operation_id: _OperationId) -> Response[Operation]:
    """Have an operation end where it is; what it has done stays done."""
    await services.workers.ask(Question(op="cancel", operation=operation_id), _PART)
    answers = await services.workers.ask(Question(op="operation", operation=operation_id, wait_s=2.0), _PART)
    operation = _merged(answers)
    return Response(operation, status_code=_status(operation), headers=missing(answers))


# ---------------------------------------------------------------------- how


def _id(text: str) -> str:
    try:
        return format_id(parse_id(text))
    except ValueError as error:
        raise ClientException(detail=str(error)) from None


def _filter(data: MeantMessages) -> QueueFilter:
    before = data.before
    if before is not None and before.tzinfo is None:
        raise ClientException(detail="before: a time needs its offset, as in 2026-01-02T03:04:05Z")
    return QueueFilter(
        limit=data.limit,
        to_domain=data.to_domain,
        reverse_path=data.reverse_path,
        tenant=data.tenant,
        log_in=data.log_in,
        state=data.state,
        older_than_s=data.older_than_s,
        before_us=None if before is None else max(1, int(before.timestamp() * 1e6)),
    )


async def _resolve(services: Services, data: MeantMessages) -> tuple[list[str] | None, QueueFilter, list[str]]:
    """The ids (None: whatever matches), the conditions, and what workers said that could not be asked."""
    wanted = _filter(data)
    conditions = structs.replace(wanted, limit=None, before_us=None) != QueueFilter()
    if data.ids is not None:
        if conditions or data.all:
            raise ClientException(detail="either ids or conditions, not both")
        return [_id(text) for text in data.ids], wanted, []
    if not conditions and not data.all:
        raise ClientException(detail="no message is named: give ids, a condition, or all")
    if data.limit is None:
        return None, wanted, []
    # the oldest of the node: every worker names its own, and the rest is left out
    answers = await services.workers.ask(Question(op="select", filter=wanted), _IDS, patience_s=WALK_S)
    ids = sorted(text for part in results(answers) for text in part)[: data.limit]
    silent = [f"worker {answer.worker}: {answer.error}" for answer in answers if not answer.answered]
    return ids, wanted, silent


async def _preview(services: Services, data: QueueAction) -> Response[Preview | Operation]:
    now = datetime.now(UTC)
    ids, wanted, _ = await _resolve(services, data)
    answers = await services.workers.ask(Question(op="preview", ids=ids, filter=wanted), _PREVIEW, patience_s=WALK_S)
    parts = results(answers)
    samples = sorted((sample for part in parts for sample in part.samples), key=lambda sample: sample.id)
    merged = Preview(
        messages=sum(part.messages for part in parts),
        recipients=sum(part.recipients for part in parts),
        octets=sum(part.octets for part in parts),
        oldest=min((part.oldest for part in parts if part.oldest is not None), default=None),
        under_way=sum(part.under_way for part in parts),
        samples=samples[:SAMPLES],
        before=now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    )
    return Response(merged, headers=missing(answers))


def _merged(answers: list[Answer[OperationPart | None]]) -> Operation:
    """One operation over all workers; 404 when no worker knows it, 503 when none answers."""
    parts = [answer.result for answer in answers if answer.result is not None]
    errors = [f"worker {answer.worker}: {answer.error}" for answer in answers if not answer.answered]
    if not parts:
        if errors or not answers:
            raise ServiceUnavailable(detail="; ".join(errors) or "there are no workers")
        raise NotFoundException(detail="no such operation")
    lost = [answer.worker for answer in answers if answer.answered and answer.result is None]
    errors += [f"worker {number} does not know it (any more): it was started again" for number in lost]
    if any(part.state == "running" for part in parts):
        state = "running"
    elif errors or any(part.state == "failed" for part in parts):
        state = "failed"
    else:
        state = "cancelled" if any(part.state == "cancelled" for part in parts) else "done"
    first = parts[0]
    return Operation(
        id=first.operation,
        action=first.action,
        state=state,
        by=first.by,
        reason=first.reason,
        started=min(part.started for part in parts),
        ended=None if state == "running" else max((part.ended for part in parts if part.ended), default=None),
        selected=sum(part.selected for part in parts),
        done=sum(part.done for part in parts),
        under_way=sum(part.under_way for part in parts),
        unchanged=sum(part.unchanged for part in parts),
        others=sum(part.others for part in parts),
        failed=sum(part.failed for part in parts),
        errors=[*errors, *(error for part in parts for error in part.errors)][:ERRORS_SHOWN],
    )


def _status(operation: Operation) -> int:
    return 202 if operation.state == "running" else 200


async def _archive(services: Services, question: Question, silent: list[str]) -> AsyncIterator[bytes]:
    """The octets of the archive. A worker that fails is named in export.json."""
    archive = TarArchive()
    messages = octets = 0
    failures = list(silent)
    for number in range(len(services.workers)):
        try:
            async for message, mail_data in services.workers.export(number, question):
                yield archive.member(f"{message.id}.eml", mail_data)
                yield archive.member(f"{message.id}.json", bytes(message.message) + b"\n")
                messages += 1
                octets += len(mail_data)
                await asyncio.sleep(0)
        except WorkerFailure as failure:
            failures.append(str(failure))
    yield archive.end({"messages": messages, "octets": octets, "failures": failures})


HANDLERS = (
    queue_summary,
    queue_list,
    queue_show,
    queue_export,
    queue_act,
    operation_list,
    operation_show,
    operation_cancel,
)
