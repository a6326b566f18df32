"""Events against the schema of events: every line that a relay of the tests has written is checked when it ends."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

from angarium.mail.event_schema import json_schema

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_event", "check_events"]

OF_A_KIND = 20  # events with the same name and fields that are looked at; a bench of a test may write a million


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json_schema(strict=True))


def check_event(event: dict[str, Any]) -> None:
    """jsonschema.ValidationError for an event that is not as the schema says."""
    _validator().validate(event)


def check_events(events: Iterable[dict[str, Any]]) -> None:
    """The same for many: some of each kind."""
    seen: Counter[tuple[str, ...]] = Counter()
    for event in events:
        kind = (str(event.get("event")), *event)
        seen[kind] += 1
        if seen[kind] <= OF_A_KIND:
            check_event(event)
