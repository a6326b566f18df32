"""The HTTP application: API, health, metrics and the console's files.

Input: Services, which know the workers, the counters and the sandbox's mail. Output: an ASGI application.

What several workers say is merged. A worker that does not answer does not fail the rest: its number stands in the
response header `Angarium-Unreachable-Workers`. When none answers, or when what was asked for may be with one that does
not, the answer is 503. Errors are JSON: `{"status_code", "detail"}`.
"""

import asyncio
import logging
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import Annotated, TypeVar

from litestar import Litestar, MediaType, Request, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.exceptions import ClientException, HTTPException, NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, PathParameter, QueryParameter, SkipValidation
from litestar.types import ASGIApp, ControllerRouterHandler, Scope
from msgspec.json import Decoder
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

import angarium
from angarium._core.counters import Slab, Slot
from angarium._core.record import format_id, parse_id
from angarium.admin.gate import Gate
from angarium.admin.model import (
    Liveness,
    MessageDetail,
    MessageState,
    NodeStatus,
    NodeTotals,
    QueuedMessage,
    QueueFilter,
    QueueSummary,
    Readiness,
    SandboxListing,
    SandboxMessageDetail,
    StateCounts,
    WorkerReport,
    WorkerStatus,
)
from angarium.admin.processes import ProcessCollector
from angarium.admin.sandbox_mail import SandboxMail
from angarium.admin.workers import Answer, Question, Workers
from angarium.outcome.metrics import METRICS, SlabCollector

__all__ = ["LIST_MAX", "UNREACHABLE_HEADER", "Services", "create_app"]

UNREACHABLE_HEADER = "Angarium-Unreachable-Workers"
LIST_MAX = 10_000
_STATIC = {"index.html": "text/html", "console.js": "text/javascript", "console.css": "text/css"}

_STATUS: Decoder[WorkerStatus] = Decoder(WorkerStatus)
_SUMMARY: Decoder[QueueSummary] = Decoder(QueueSummary)
_LIST: Decoder[list[QueuedMessage]] = Decoder(list[QueuedMessage])
_DETAIL: Decoder[MessageDetail | None] = Decoder(MessageDetail | None)

T = TypeVar("T")
log = logging.getLogger("angarium.admin")


@dataclass(frozen=True)
class Services:
    """What the handlers work with. `sandbox_mail` is None outside the sandbox; without a token none is asked for."""

    hostname: str
    slab: Slab
    workers: Workers
    sandbox_mail: SandboxMail | None = None
    token: str | None = None
    supervisor_pid: int | None = None
    started: float = field(default_factory=time.monotonic)


_Services = NamedDependency[SkipValidation[Services]]


class ServiceUnavailable(HTTPException):
    """The workers that would know do not answer."""

    status_code = 503


def _missing(answers: list[Answer[T]]) -> dict[str, str]:
    silent = [str(answer.worker) for answer in answers if not answer.answered]
    return {UNREACHABLE_HEADER: ", ".join(silent)} if silent else {}


def _results(answers: list[Answer[T]]) -> list[T]:
    """What the workers said; 503 when none of them said anything."""
    results = [answer.result for answer in answers if answer.result is not None]
    if not results:
        reasons = "; ".join(f"worker {answer.worker}: {answer.error}" for answer in answers)
        raise ServiceUnavailable(detail=f"no worker answers: {reasons}" if reasons else "there are no workers")
    return results


def _reasons(answers: list[Answer[WorkerStatus]]) -> list[str]:
    """Why mail is not accepted, by worker."""
    reasons = []
    for answer in answers:
        if answer.result is None:
            reasons.append(f"worker {answer.worker} does not answer: {answer.error}")
        elif not answer.result.accepting:
            reasons.append(f"worker {answer.worker}: {answer.result.reason or 'does not accept mail'}")
    return reasons


def _accepting(answers: list[Answer[WorkerStatus]]) -> bool:
    return any(answer.result is not None and answer.result.accepting for answer in answers)


async def _ask_status(services: Services) -> list[Answer[WorkerStatus]]:
    return await services.workers.ask(Question(op="status"), _STATUS)


@get("/healthz", tags=["health"])
async def healthz() -> Liveness:
    """The admin process is alive."""
    return Liveness(status="ok")


@get("/readyz", tags=["health"])
async def readyz(services: _Services) -> Response[Readiness]:
    """The node accepts mail: 200 when at least one worker does, else 503. Reasons name the workers that do not."""
    answers = await _ask_status(services)
    ready = _accepting(answers)
    return Response(Readiness(ready=ready, reasons=_reasons(answers)), status_code=200 if ready else 503)


@get("/metrics", tags=["metrics"], media_type=MediaType.TEXT)
async def metrics(request: Request[None, None, State], services: _Services) -> Response[bytes]:
    """All metrics, as Prometheus text or OpenMetrics according to the Accept header. docs/metrics.md lists them."""
    pids: dict[str, int | None] = {"admin": os.getpid()}
    if services.supervisor_pid is not None:
        pids["supervisor"] = services.supervisor_pid
    for answer in await _ask_status(services):
        pids[f"worker-{answer.worker}"] = None if answer.result is None else answer.result.pid
    registry = CollectorRegistry()
    registry.register(SlabCollector(services.slab))
    registry.register(ProcessCollector(pids))
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"content-type": content_type})


@get("/api/v1/status", tags=["status"])
async def status(services: _Services) -> NodeStatus:
    """The node at a glance: its workers, whether it accepts mail, and its counters."""
    answers = await _ask_status(services)
    uptimes = [answer.result.uptime_s for answer in answers if answer.result is not None]
    return NodeStatus(
        version=angarium.__version__,
        hostname=services.hostname,
        sandbox=services.sandbox_mail is not None,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        uptime_s=round(max(uptimes, default=time.monotonic() - services.started), 3),
        accepting=_accepting(answers),
        reasons=_reasons(answers),
        workers=[
            WorkerReport(worker=answer.worker, answering=answer.answered, error=answer.error, status=answer.result)
            for answer in answers
        ],
        totals=_totals(services.slab),
    )


def _totals(slab: Slab) -> NodeTotals:
    totals = slab.totals()
    rejections = next(spec for spec in METRICS if Slot.INGRESS_REJECTED_RELAY in spec.slots)
    messages = next(spec for spec in METRICS if Slot.INGRESS_MESSAGES_FSYNC in spec.slots)
    return NodeTotals(
        connections=totals[Slot.INGRESS_CONNECTIONS_TOTAL],
        open_connections=totals[Slot.INGRESS_CONNECTIONS],
        commands=totals[Slot.INGRESS_COMMANDS_TOTAL],
        accepted_messages=sum(totals[slot] for slot in messages.slots),
        accepted_octets=totals[Slot.INGRESS_OCTETS],
        rejections=sum(totals[slot] for slot in rejections.slots),
        attempts=totals[Slot.DELIVERY_ATTEMPTS],
        delivered_messages=totals[Slot.DELIVERY_DELIVERED_MESSAGES],
        delivered_recipients=totals[Slot.DELIVERY_DELIVERED_RECIPIENTS],
        deferred_recipients=totals[Slot.DELIVERY_DEFERRED_RECIPIENTS],
        failed_recipients=totals[Slot.DELIVERY_FAILED_RECIPIENTS],
        expired_recipients=totals[Slot.DELIVERY_EXPIRED_RECIPIENTS],
        delivery_open_connections=totals[Slot.DELIVERY_CONNECTIONS],
        possible_duplicates=totals[Slot.DELIVERY_DUPLICATES_POSSIBLE],
    )


@get("/api/v1/queue/summary", tags=["queue"])
async def queue_summary(services: _Services) -> Response[QueueSummary]:
    """The queue in numbers, over all workers."""
    answers = await services.workers.ask(Question(op="summary"), _SUMMARY)
    parts = _results(answers)
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
    return Response(merged, headers=_missing(answers))


@get("/api/v1/queue", tags=["queue"])
async def queue_list(
    *,
    services: _Services,
    to_domain: Annotated[str | None, QueryParameter(description="domain of a recipient", max_length=255)] = None,
    reverse_path: Annotated[
        str | None, QueryParameter(name="from", description="reverse path", max_length=1000)
    ] = None,
    tenant: Annotated[str | None, QueryParameter(description="tenant", max_length=255)] = None,
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
        state=message_state,
        older_than_s=older_than_s,
    )
    answers = await services.workers.ask(Question(op="list", filter=wanted), _LIST)
    messages = [message for part in _results(answers) for message in part]
    messages.sort(key=lambda message: message.id)  # ids are in order of time
    return Response(messages[:limit], headers=_missing(answers))


@get("/api/v1/queue/{message_id:str}", tags=["queue"])
async def queue_show(
    services: _Services, message_id: Annotated[str, PathParameter(description="queue id", max_length=64)]
) -> MessageDetail:
    """One message of the queue, with its header section and the place of its record."""
    try:
        wanted = format_id(parse_id(message_id))
    except ValueError as error:
        raise ClientException(detail=str(error)) from None
    answers = await services.workers.ask(Question(op="show", id=wanted), _DETAIL)
    for answer in answers:
        if answer.result is not None:
            return answer.result
    silent = [f"worker {answer.worker}: {answer.error}" for answer in answers if not answer.answered]
    if silent or not answers:
        raise ServiceUnavailable(detail="; ".join(["not found where it could be looked up", *silent]))
    raise NotFoundException(detail=f"{message_id} is not in the queue")


@get("/api/v1/sandbox/messages", tags=["sandbox"])
async def sandbox_list(
    services: _Services,
    limit: Annotated[int, QueryParameter(description="at most so many", ge=1, le=1000)] = 100,
) -> SandboxListing:
    """What has arrived in the sandbox, newest first."""
    return await asyncio.to_thread(_mail(services).listing, limit)


@get("/api/v1/sandbox/messages/{message_id:str}", tags=["sandbox"])
async def sandbox_show(services: _Services, message_id: FromPath[str]) -> SandboxMessageDetail:
    """One message that has arrived in the sandbox, taken apart."""
    message = await asyncio.to_thread(_mail(services).message, message_id)
    if message is None:
        raise NotFoundException(detail="no such message in the sandbox")
    return message


@get("/api/v1/sandbox/messages/{message_id:str}/raw", tags=["sandbox"], media_type="message/rfc822")
async def sandbox_raw(services: _Services, message_id: FromPath[str]) -> Response[bytes]:
    """One message that has arrived in the sandbox, octet for octet, as a download."""
    octets = await asyncio.to_thread(_mail(services).octets, message_id)
    if octets is None:
        raise NotFoundException(detail="no such message in the sandbox")
    headers = {"content-disposition": 'attachment; filename="message.eml"'}
    return Response(octets, media_type="message/rfc822", headers=headers)


def _mail(services: Services) -> SandboxMail:
    if services.sandbox_mail is None:
        raise NotFoundException(detail="the relay does not run in sandbox mode")
    return services.sandbox_mail


@get("/", include_in_schema=False)
async def console() -> Response[bytes]:
    """The console's page."""
    return _file("index.html")


@get("/static/{name:str}", include_in_schema=False)
async def console_file(name: FromPath[str]) -> Response[bytes]:
    """One of the console's files."""
    if name not in _STATIC:
        raise NotFoundException(detail="no such file")
    return _file(name)


def _file(name: str) -> Response[bytes]:
    content = resources.files(angarium).joinpath("admin", "static", name).read_bytes()
    return Response(content, headers={"content-type": f"{_STATIC[name]}; charset=utf-8", "cache-control": "no-cache"})


def _log_failure(exception: Exception, scope: Scope) -> None:
    if not isinstance(exception, HTTPException):
        log.error("%s %s failed", scope.get("method"), scope["path"], exc_info=exception)


_HANDLERS: list[ControllerRouterHandler] = [
    healthz,
    readyz,
    metrics,
    status,
    queue_summary,
    queue_list,
    queue_show,
    sandbox_list,
    sandbox_show,
    sandbox_raw,
    console,
    console_file,
]


def create_app(services: Services) -> ASGIApp:
    """The application that answers for these services."""
    app = Litestar(
        _HANDLERS,
        dependencies={"services": Provide(lambda: services, sync_to_thread=False, use_cache=True)},
        openapi_config=OpenAPIConfig(
            title="Angarium",
            version=angarium.__version__,
            path="/api",
            render_plugins=[JsonRenderPlugin(path="/openapi.json", media_type=MediaType.JSON)],
            use_handler_docstrings=True,
        ),
        logging_config=None,
        after_exception=[_log_failure],
        request_max_body_size=64 * 1024,
    )
    return Gate(app, services.token, services.hostname)
