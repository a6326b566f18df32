"""Whatever the log says of a message: its waits and its attempts make up the whole of its time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from angarium.mail.event_schema import CAUSES
from angarium.outcome.story import SHORTEST_WAIT_S, tell

BEGAN = 1795694400.0
ID = "0SBG20T5W0000"

seconds = st.floats(0, 1000)
waited = st.none() | st.dictionaries(st.sampled_from(CAUSES), seconds, max_size=len(CAUSES))
rounds = st.lists(st.tuples(seconds, st.floats(0, 30), waited), min_size=1, max_size=6)
spans = st.lists(st.tuples(st.sampled_from(["hold", "unreachable", "suspension"]), seconds, seconds), max_size=5)


def at(moment: float) -> str:
    return datetime.fromtimestamp(BEGAN + moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event(moment: float, name: str, **fields: Any) -> dict[str, Any]:
    return {"time": at(moment), "event": name, "id": ID, **fields}


def meanwhile(spans: list[tuple[str, float, float]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    own: list[dict[str, Any]] = []
    around: list[dict[str, Any]] = []
    for kind, begin, length in spans:
        if kind == "hold":
            own += [event(begin, "hold", by="ops", why=""), event(begin + length, "release", by="ops")]
        elif kind == "unreachable":
            around.append({"time": at(begin), "event": kind, "next_hop": "mx", "site": "s", "retry_s": length})
        else:
            around.append({"time": at(begin), "event": kind, "kind": "site", "name": "s", "until": at(begin + length)})
    return own, around


@given(rounds, spans)
def test_waits_and_attempts_make_up_the_whole(
    rounds: list[tuple[float, float, dict[str, float] | None]], spans: list[tuple[str, float, float]]
) -> None:
    own, around = meanwhile(spans)
    own.append(event(0, "reception", recipients=["a@b.test"], reverse_path="", tenant=""))
    now = 0.0
    for number, (wait, took, said) in enumerate(rounds, 1):
        now += wait + took
        last = number == len(rounds)
        fields: dict[str, Any] = {"recipient": "a@b.test", "next_hop": "mx", "site": "s", "attempts": number}
        fields |= {"class": "delivered" if last else "deferred", "attempt_s": took}
        if said is not None:
            fields["waited"] = said
        own.append(event(now, "delivery" if last else "deferral", **fields))
    own.sort(key=lambda found: str(found["time"]))
    story = tell(ID, own, around, [], None, now=BEGAN + 10_000)
    attempts = sum(step.seconds or 0.0 for step in story.steps if step.kind == "attempt")
    left_out = SHORTEST_WAIT_S * (len(rounds) * len(CAUSES) + 4 * len(spans) + 2)
    whole = story.seconds or 0.0
    assert whole - left_out <= sum(story.waited_s.values()) + attempts <= whole + 0.001
    assert abs(sum(story.waited_s.values()) - sum(step.seconds or 0.0 for step in story.steps if step.cause)) < 0.001
