"""What the doctor finds: each with a severity, a reason, and a remedy."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["Finding", "Severity", "error", "note", "ok", "warning"]

Severity = Literal["error", "warning", "note", "ok"]


class Finding(Struct, frozen=True):
    """One thing that was looked at. `subject` is a closed set of names: scripts rely on it.

    `ok`: it is as it should be. `note`: worth knowing. `warning`: some mail may suffer. `error`: mail suffers.
    """

    subject: str
    severity: Severity
    reason: str
    remedy: str = ""


def ok(subject: str, reason: str) -> Finding:
    """It is as it should be."""
    return Finding(subject, "ok", reason)


def note(subject: str, reason: str, remedy: str) -> Finding:
    """Worth knowing; nothing has to be done."""
    return Finding(subject, "note", reason, remedy)


def warning(subject: str, reason: str, remedy: str) -> Finding:
    """Some mail may suffer."""
    return Finding(subject, "warning", reason, remedy)


def error(subject: str, reason: str, remedy: str) -> Finding:
    """Mail suffers."""
    return Finding(subject, "error", reason, remedy)
