"""/healthz and /readyz: whether the node is alive, and whether it takes mail, for whoever asks every second.

Input: the board of heartbeats (angarium.admin.heartbeat). Output: JSON, or lines of text for `?format=text` and for an
Accept header that wants text; 200 or 503. No process is asked and none is waited for: a node whose workers hang says so
as fast as one that is well.

Fails: 404 for a check that is not there. Bounds: a check for each process, and one for the event log.
"""

# No `from __future__ import annotations`: Litestar reads the handlers' annotations.

import time
from typing import Annotated, TypeVar, cast

from litestar import MediaType, Request, Response, get
from litestar.datastructures import State as AppState
from litestar.exceptions import NotFoundException
from litestar.params import QueryParameter

import angarium
from angarium.admin.heartbeat import Vital
from angarium.admin.model import Check, Liveness, Readiness
from angarium.admin.services import ServicesDependency

__all__ = ["HANDLERS", "checks_of", "is_ready", "reasons_of"]

T = TypeVar("T", Liveness, Readiness)

EVENT_LOG = "event log"
DEAD_S = 30.0  # a supervisor that has been silent for so long is not busy: it hangs

# What stops while a process is away, for those that mail goes on without.
_MEANWHILE = {
    "supervisor": "mail goes on, and no process that ends is started again",
    "lookup": "mail to domains that are not remembered waits",
    "access": "AUTH is answered 454",
    "events": "the event log is neither rotated nor sent on",
    "sink": "deliveries to the sandbox's sink wait",
}


def checks_of(vitals: list[Vital]) -> list[Check]:
    """What is looked at, in order: each process but the one that answers, and the event log."""
    found = []
    for vital in vitals:
        if vital.kind == "admin":
            continue
        why = vital.why_not
        if why is not None and vital.kind in _MEANWHILE:
            why = f"{why}; {_MEANWHILE[vital.kind]}"
        found.append(Check(name=vital.name, ok=why is None, why=why))
    failing = [vital.name for vital in vitals if vital.events_failing]
    why = f"{', '.join(failing)}: it cannot be written; events are kept for later, then lost" if failing else None
    return [*found, Check(name=EVENT_LOG, ok=not failing, why=why)]


def is_ready(vitals: list[Vital]) -> bool:
    """Whether mail is taken: one worker at least is well."""
    return any(vital.kind == "worker" and vital.why_not is None for vital in vitals)


def reasons_of(checks: list[Check]) -> list[str]:
    """The checks that failed, each in a sentence."""
    return [f"{check.name}: {check.why}" for check in checks if not check.ok]


def _wants_text(request: Request[None, None, AppState], asked: str | None) -> bool:
    accept = request.headers.get("accept", "")
    return asked == "text" or (asked is None and accept.startswith("text/plain"))


def _answer(value: T, lines: list[str], *, ok: bool, text: bool) -> Response[T]:
    status = 200 if ok else 503
    if text:
        shown = "".join(f"{line}\n" for line in lines)
        return cast("Response[T]", Response(shown, status_code=status, media_type=MediaType.TEXT))
    return Response(value, status_code=status, media_type=MediaType.JSON)


FormatParameter = Annotated[
    str | None, QueryParameter(name="format", description="`text` or `json`; without it as Accept says")
]


@get("/healthz", tags=["health"])
async def healthz(
    request: Request[None, None, AppState], services: ServicesDependency, written: FormatParameter = None
) -> Response[Liveness]:
    """The relay is alive: 200 while this process answers and the supervisor is well, which sees to all others; 503 when
    the supervisor has not answered for 30 s, so that nothing but a restart of the whole relay helps. It asks nobody."""
    silent_s = services.board.vital("supervisor", 0, services.monotonic_ns()).silent_s
    why = f"the supervisor has not answered for {silent_s:.0f} s" if silent_s > DEAD_S else None
    uptime_s = round(time.monotonic() - services.started, 3)
    status = "ok" if why is None else "failing"
    value = Liveness(status=status, release=angarium.__version__, uptime_s=uptime_s, why=why)
    lines = [status if why is None else f"{status}: {why}"]
    return _answer(value, lines, ok=why is None, text=_wants_text(request, written))


@get("/readyz", tags=["health"])
async def readyz(
    request: Request[None, None, AppState],
    services: ServicesDependency,
    check: Annotated[list[str] | None, QueryParameter(description="only these, by name: 200 when all are well")] = None,
    written: FormatParameter = None,
) -> Response[Readiness]:
    """The node accepts mail: 200 when at least one worker does, else 503. Each check says whether it is well, or why
    not; the reasons are those of the checks that failed. It asks nobody."""
    vitals = services.vitals()
    checks = checks_of(vitals)
    ready = is_ready(vitals)
    if check:
        checks = [_named(checks, name) for name in check]
        ready = all(one.ok for one in checks)
    well = all(one.ok for one in checks)
    state = "ready" if ready and well else "degraded" if ready else "not ready"
    lines = [state, *(f"[+] {one.name}" if one.ok else f"[-] {one.name}: {one.why}" for one in checks)]
    value = Readiness(ready=ready, state=state, reasons=reasons_of(checks), checks=checks)
    return _answer(value, lines, ok=ready, text=_wants_text(request, written))


def _named(checks: list[Check], name: str) -> Check:
    """One check; `worker-0` is as good as `worker 0`."""
    found = next((check for check in checks if name in (check.name, check.name.replace(" ", "-"))), None)
    if found is None:
        known = ", ".join(check.name for check in checks)
        raise NotFoundException(detail=f'there is no check "{name}" (there are: {known})')
    return found


HANDLERS = [healthz, readyz]
