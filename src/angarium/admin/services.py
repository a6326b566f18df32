"""What the API's handlers work with, and what all of them do with the workers' answers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from litestar.di import NamedDependency
from litestar.exceptions import HTTPException
from litestar.params import SkipValidation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from angarium._core.counters import Slab
    from angarium.admin.heartbeat import Board, Vital
    from angarium.admin.sandbox_mail import SandboxMail
    from angarium.admin.suspensions import SuspensionBook
    from angarium.admin.workers import Answer, Workers
    from angarium.delivery.lookup_client import LookupClient

__all__ = ["UNREACHABLE_HEADER", "ServiceUnavailable", "Services", "ServicesDependency", "missing", "results"]

UNREACHABLE_HEADER = "Angarium-Unreachable-Workers"

T = TypeVar("T")


@dataclass(frozen=True)
class Services:
    """What the handlers work with. `sandbox_mail` is None outside the sandbox; without a token none is asked for."""

    hostname: str
    slab: Slab
    board: Board
    workers: Workers
    suspensions: SuspensionBook
    sandbox_mail: SandboxMail | None = None
    token: str | None = None
    supervisor_pid: int | None = None
    lookup: LookupClient | None = None
    access: LookupClient | None = None  # where there are log-ins to verify
    events: LookupClient | None = None  # where there is an event log
    node_socket: Path | None = None
    spool: Path | None = None
    event_file: Path | None = None  # None: there is no event log
    dialogues: str = "failures"  # of which attempts it is kept what was said
    started: float = field(default_factory=time.monotonic)
    monotonic_ns: Callable[[], int] = time.monotonic_ns

    def vitals(self) -> list[Vital]:
        """How each process is now."""
        return self.board.vitals(self.monotonic_ns())


ServicesDependency = NamedDependency[SkipValidation[Services]]


class ServiceUnavailable(HTTPException):
    """The workers that would know do not answer."""

    status_code = 503


def missing(answers: list[Answer[T]]) -> dict[str, str]:
    """The response header that names the workers that did not answer."""
    silent = [str(answer.worker) for answer in answers if not answer.answered]
    return {UNREACHABLE_HEADER: ", ".join(silent)} if silent else {}


def results(answers: list[Answer[T]]) -> list[T]:
    """What the workers said; 503 when none of them said anything."""
    said = [answer.result for answer in answers if answer.result is not None]
    if not said:
        reasons = "; ".join(f"worker {answer.worker}: {answer.error}" for answer in answers)
        raise ServiceUnavailable(detail=f"no worker answers: {reasons}" if reasons else "there are no workers")
    return said
