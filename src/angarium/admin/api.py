"""The HTTP application: API, health, metrics and the console's files.

Input: Services, which know the workers, the counters and the sandbox's mail. Output: an ASGI application.

What several workers say is merged. A worker that does not answer does not fail the rest: its number stands in the
response header `Angarium-Unreachable-Workers`. When none answers, or when what was asked for may be with one that does
not, the answer is 503. Errors are JSON: `{"status_code", "detail"}`.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime
from importlib import resources
from typing import Annotated

from litestar import Litestar, MediaType, Request, Response, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, QueryParameter
from litestar.types import ASGIApp, ControllerRouterHandler, Scope
from msgspec.json import Decoder
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

import angarium
from angarium._core.counters import Slab, Slot
from angarium.admin.bans import HANDLERS as BAN_HANDLERS
from angarium.admin.bans import ask_access
from angarium.admin.explain import HANDLERS as EXPLAIN_HANDLERS
from angarium.admin.gate import Gate
from angarium.admin.health import HANDLERS as HEALTH_HANDLERS
from angarium.admin.health import checks_of, is_ready, reasons_of
from angarium.admin.model import (
    LookupReport,
    LookupStatus,
    NodeStatus,
    NodeTotals,
    SandboxListing,
    SandboxMessageDetail,
    WorkerReport,
    WorkerStatus,
)
from angarium.admin.node import NodeReport, ask_node
from angarium.admin.processes import ProcessCollector
from angarium.admin.queue import HANDLERS as QUEUE_HANDLERS
from angarium.admin.queue import LIST_MAX
from angarium.admin.sandbox_mail import SandboxMail
from angarium.admin.services import UNREACHABLE_HEADER, Services, ServicesDependency
from angarium.admin.streams import HANDLERS as STREAM_HANDLERS
from angarium.admin.streams import StreamCollector, ask_events
from angarium.admin.suspensions import HANDLERS as SUSPENSION_HANDLERS
from angarium.admin.tls_report import HANDLERS as TLS_REPORT_HANDLERS
from angarium.admin.trace import HANDLERS as TRACE_HANDLERS
from angarium.admin.workers import TIMEOUT_S, Answer, Question
from angarium.delivery.lookup_protocol import STATUS
from angarium.delivery.mail_host import ResolutionFailure
from angarium.outcome.exposition import SlabCollector
from angarium.outcome.metrics import METRICS

__all__ = ["LIST_MAX", "UNREACHABLE_HEADER", "Services", "create_app"]

BODY_MAX_OCTETS = 4 << 20  # 100,000 queue ids and some
_STATIC = {"index.html": "text/html", "console.js": "text/javascript", "console.css": "text/css"}

_STATUS: Decoder[WorkerStatus] = Decoder(WorkerStatus)
log = logging.getLogger("angarium.admin")


async def _ask_status(services: Services) -> list[Answer[WorkerStatus]]:
    return await services.workers.ask(Question(op="status"), _STATUS)


async def _ask_lookup(services: Services) -> LookupReport | None:
    if services.lookup is None:
        return None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            said = await services.lookup.ask(STATUS, None)
    except ResolutionFailure as failure:
        return LookupReport(answering=False, error=failure.text, status=None)
    except TimeoutError:
        return LookupReport(answering=False, error=f"no answer within {TIMEOUT_S:g} s", status=None)
    status = LookupStatus(pid=said.pid, entries=said.entries, under_way=said.under_way, uptime_s=said.uptime_s)
    return LookupReport(answering=True, error=None, status=status)


@get("/metrics", tags=["metrics"], media_type=MediaType.TEXT)
async def metrics(request: Request[None, None, State], services: ServicesDependency) -> Response[bytes]:
    """All metrics, as Prometheus text or OpenMetrics according to the Accept header. docs/metrics.md lists them."""
    vitals = services.vitals()
    # one that hangs would hold up the scrape, and has no streams to tell of
    events = await ask_events(services) if any(one.kind == "events" and one.answers for one in vitals) else None
    processes = {one.name.replace(" ", "-"): one.pid if one.answers else None for one in vitals if one.kind != "sink"}
    registry = CollectorRegistry()
    registry.register(SlabCollector(services.slab))
    registry.register(StreamCollector(events))
    registry.register(ProcessCollector(processes))
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"content-type": content_type})


@get("/api/v1/status", tags=["status"])
async def status(services: ServicesDependency) -> NodeStatus:
    """The node at a glance: its processes, whether it accepts mail, and its counters."""
    answers, lookup, access, events, node = await asyncio.gather(
        _ask_status(services),
        _ask_lookup(services),
        ask_access(services),
        ask_events(services),
        _ask_supervisor(services),
    )
    vitals = services.vitals()
    uptimes = [answer.result.uptime_s for answer in answers if answer.result is not None]
    return NodeStatus(
        version=angarium.__version__,
        hostname=services.hostname,
        sandbox=services.sandbox_mail is not None,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        uptime_s=round(max(uptimes, default=time.monotonic() - services.started), 3),
        accepting=is_ready(vitals),
        reasons=reasons_of(checks_of(vitals)),
        lookup=lookup,
        access=access,
        events=events,
        workers=[
            WorkerReport(worker=answer.worker, answering=answer.answered, error=answer.error, status=answer.result)
            for answer in answers
        ],
        draining=node is not None and node.draining,
        configuration=None if node is None else node.configuration,
        totals=_totals(services.slab),
    )


async def _ask_supervisor(services: Services) -> NodeReport | None:
    return None if services.node_socket is None else await ask_node(services.node_socket)


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


@get("/api/v1/sandbox/messages", tags=["sandbox"])
async def sandbox_list(
    services: ServicesDependency,
    limit: Annotated[int, QueryParameter(description="at most so many", ge=1, le=1000)] = 100,
) -> SandboxListing:
    """What has arrived in the sandbox, newest first."""
    return await asyncio.to_thread(_mail(services).listing, limit)


@get("/api/v1/sandbox/messages/{message_id:str}", tags=["sandbox"])
async def sandbox_show(services: ServicesDependency, message_id: FromPath[str]) -> SandboxMessageDetail:
    """One message that has arrived in the sandbox, taken apart."""
    message = await asyncio.to_thread(_mail(services).message, message_id)
    if message is None:
        raise NotFoundException(detail="no such message in the sandbox")
    return message


@get("/api/v1/sandbox/messages/{message_id:str}/raw", tags=["sandbox"], media_type="message/rfc822")
async def sandbox_raw(services: ServicesDependency, message_id: FromPath[str]) -> Response[bytes]:
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
    *HEALTH_HANDLERS,
    metrics,
    status,
    *QUEUE_HANDLERS,
    *SUSPENSION_HANDLERS,
    *TLS_REPORT_HANDLERS,
    *BAN_HANDLERS,
    *STREAM_HANDLERS,
    *EXPLAIN_HANDLERS,
    *TRACE_HANDLERS,
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
        request_max_body_size=BODY_MAX_OCTETS,
    )
    return Gate(app, services.token, services.hostname)
