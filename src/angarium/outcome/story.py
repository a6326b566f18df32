"""The whole story of one message, put together from what was written down about it.

Input: its events, what happened on the node meanwhile (event_search), what was said in its attempts (dialogue_reader),
and what its worker says while it is queued. Output: a Story: how it came in, what policy made of it, and steps in the
order of time: waits by cause, attempts with what was said, what operators did, what it came to.

**Waits** are the times in which no attempt was under way. What the attempt that ends one says of it (`waited` of its
event: seconds by cause, from the moment it could go until a connection took it) is the end of that wait, and stands as
it says. A moment before that is charged to the first of these that holds in it: `held` (by an operator, or
`queue.in_doubt`), `release` (the time that the client or a limit asked for), `unusual` (held for its log-in),
`suspended`, `connection` (its next hop could not be reached), `backoff` (behind a deferral), `queue` (what no event
says: it was short, or the event is not there). So the shares of a wait always make up the whole of it. What it waits
for now, and has waited for since it could go, is the worker's word.

It never fails for what a log can hold. Nothing here reads a file or a clock.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from angarium.mail.event_text import describe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from angarium.outcome.dialogue_reader import Dialogue

__all__ = ["DialogueLine", "Result", "SessionDialogue", "Step", "Story", "tell"]

ATTEMPTS = ("delivery", "deferral", "bounce", "in_doubt")
DEFAULT = "default"  # source of what leaves by none of the configuration
LAST = {"delivery": "delivered", "bounce": "failed", "expiry": "expired", "deletion": "deleted"}
SHORTEST_WAIT_S = 0.001
TOGETHER_S = 2.0  # events of one attempt stand no further apart than that
SLACK_S = 1.0


class DialogueLine(Struct, frozen=True):
    """`who`: C this relay, S the next host, * neither. `at_s`: since the transaction began."""

    who: str
    text: str
    at_s: float | None


class SessionDialogue(Struct, frozen=True):
    """What was said with one host. `transaction`: of its connection, from 1."""

    host: str
    began: str
    seconds: float
    transaction: int
    tls: dict[str, Any] | None
    delivered: bool
    pipelined: bool
    lines: list[DialogueLine]


class Result(Struct, frozen=True):
    """What an attempt came to for one recipient."""

    recipient: str
    result: str
    reply: str | None


class Step(Struct, frozen=True):
    """`kind`: reception, policy, wait, attempt, or event. `cause`: of a wait. `event`: as it stands in the log.

    `source`, `pool`: by what an attempt left, where that was a source of the configuration. `waited_s`: of an attempt,
    what it says of the wait before it. Waits of several causes that it tells of have the same `time`, the beginning of
    them all: how long each was is known, not in which order.
    """

    time: str
    kind: str
    text: str
    seconds: float | None = None
    cause: str | None = None
    attempt: int | None = None
    next_hop: str | None = None
    results: list[Result] = []
    dialogues: list[SessionDialogue] = []
    waited_s: dict[str, float] = {}
    source: str | None = None
    pool: str | None = None
    event: dict[str, Any] | None = None


class Story(Struct, frozen=True):
    """`complete`: every source could be read to its end; `remarks` say what is missing, and why."""

    id: str
    state: str
    reverse_path: str | None
    accepted: str | None
    seconds: float | None
    recipients: list[Result]
    waited_s: dict[str, float]
    steps: list[Step]
    waits_for: dict[str, Any] | None
    complete: bool
    remarks: list[str]


def tell(
    id: str,
    own: Sequence[dict[str, Any]],
    around: Sequence[dict[str, Any]],
    dialogues: Sequence[Dialogue],
    detail: dict[str, Any] | None,
    *,
    now: float,
    complete: bool = True,
    remarks: Sequence[str] = (),
) -> Story:
    """detail: what the worker says of it while it is queued, as the API gives it; None: it is not queued."""
    reception = next((event for event in own if event["event"] == "reception" and event.get("id") == id), None)
    attempts = _attempts(id, own if _has_attempts(own) else [*own, *_journalled(id, detail)], dialogues)
    accepted = _accepted(reception, detail, own)
    over = None if detail is not None else _end(id, own)
    waiting = _waited(detail) if detail is not None else _waited_in_vain(id, own)
    until = now if detail is not None else over
    waits = list(_waits(id, own, around, attempts, reception, accepted, until, waiting))
    steps = [*_reception(reception, detail), *attempts, *waits, *_others(id, own)]
    steps.sort(key=lambda step: step.time)
    waited: dict[str, float] = {}
    for wait in waits:
        waited[wait.cause or ""] = round(waited.get(wait.cause or "", 0.0) + (wait.seconds or 0.0), 6)
    last = now if detail is not None else over
    return Story(
        id=id,
        state=_state(own, detail, id),
        reverse_path=(reception or detail or {}).get("reverse_path"),
        accepted=None if accepted is None else _rfc3339(accepted),
        seconds=None if accepted is None or last is None else round(last - accepted, 6),
        recipients=_recipients(own, reception, detail, id),
        waited_s=waited,
        steps=steps,
        waits_for=None if detail is None else detail.get("waits_for"),
        complete=complete,
        remarks=list(remarks),
    )


# ---------------------------------------------------------------------- how it came in, and what policy made of it


def _accepted(
    reception: dict[str, Any] | None, detail: dict[str, Any] | None, own: Sequence[dict[str, Any]]
) -> float | None:
    if reception is not None:
        return _seconds(reception["time"])
    if detail is not None and detail.get("received"):
        return _seconds(detail["received"])
    for event in own:
        if isinstance(event.get("age_s"), int | float):
            return _seconds(event["time"]) - float(event["age_s"])
    return None


def _reception(reception: dict[str, Any] | None, detail: dict[str, Any] | None) -> Iterator[Step]:
    if reception is None:
        return
    login = f", logged in as {reception['login']}" if reception.get("login") else ""
    greeting = f" ({reception['greeting']})" if reception.get("greeting") else ""
    client = reception.get("client") or "this machine, by a Unix socket"
    protocol = reception.get("protocol", "")
    tls = "TLS" if protocol.removesuffix("A").endswith("S") else "plaintext"
    text = (
        f"from {client}{greeting} by listener {reception.get('listener') or '-'}, {protocol}, {tls}{login}: "
        f"<{reception.get('reverse_path')}> to {_list(reception.get('recipients'))}, {reception.get('octets')} octets"
    )
    yield Step(reception["time"], "reception", text, seconds=reception.get("commit_s"), event=reception)
    decided = [f"durability {reception.get('durability')}", f"tenant {reception.get('tenant') or 'none'}"]
    decided += [f"{name} {reception[name]}" for name in ("traffic", "priority") if reception.get(name)]
    if reception.get("permission"):
        limits = ", ".join(_limits(reception.get("limits"), reception.get("used")))
        decided.append(f"permission {reception['permission']}" + (f" ({limits})" if limits else ""))
    if reception.get("original_reverse_path") is not None:
        decided.append(f"its reverse path in place of <{reception['original_reverse_path']}>")
    if reception.get("pool"):
        decided.append(f"source pool {reception['pool']}")
    if reception.get("hold_until"):
        decided.append(f"not before {reception['hold_until']}")
    if reception.get("held") == "quota":
        decided.append("its sender's limit is reached")
    if reception.get("held") == "unusual":
        decided.append("held, because its log-in sends unusually much")
    yield Step(reception["time"], "policy", ", ".join(decided))


def _limits(limits: Any, used: Any) -> Iterator[str]:
    """What a permission allows, and how much of it was used by this message and those before it."""
    limits, used = (found if isinstance(found, dict) else {} for found in (limits, used))
    for name, text in (("octets", "at most {} octets"), ("recipients", "at most {} recipients a message")):
        if name in limits:
            yield text.format(limits[name])
    for name, text in (("hour", "{} of {} recipients an hour"), ("day", "{} of {} recipients a day")):
        if f"per_{name}" in limits:
            yield text.format(used.get(name, "?"), limits[f"per_{name}"])


def _list(recipients: Any) -> str:
    if not isinstance(recipients, list):
        return "-"
    shown = ", ".join(f"<{recipient}>" for recipient in recipients[:5])
    return shown + (f" and {len(recipients) - 5} more" if len(recipients) > 5 else "")


# ---------------------------------------------------------------------- attempts


def _attempts(id: str, own: Sequence[dict[str, Any]], dialogues: Sequence[Dialogue]) -> list[Step]:
    """Each with the events that say what it came to, and what was said with one host after the other."""
    groups: list[list[dict[str, Any]]] = []
    for event in own:
        if event["event"] not in ATTEMPTS or event.get("id") != id or "attempts" not in event:
            continue
        for group in reversed(groups):
            same = all(group[0].get(name) == event.get(name) for name in ("attempts", "next_hop", "site"))
            if same and _seconds(event["time"]) - _seconds(group[-1]["time"]) < TOGETHER_S:
                group.append(event)
                break
        else:
            groups.append([event])
    left = list(dialogues)
    steps = []
    for group in groups:
        ended = max(_seconds(event["time"]) for event in group)
        began = min(_seconds(event["time"]) - float(event.get("attempt_s", 0.0)) for event in group)
        mine = [
            dialogue
            for dialogue in left
            if dialogue.attempt == group[0]["attempts"]
            and dialogue.next_hop == group[0].get("next_hop")
            and dialogue.began < ended + SLACK_S
        ]
        left = [dialogue for dialogue in left if dialogue not in mine]
        began = min([began, *(dialogue.began for dialogue in mine)])
        results = [Result(event.get("recipient", ""), event.get("class", ""), _reply(event)) for event in group]
        kinds = ", ".join(dict.fromkeys(result.result for result in results))
        hosts = ", ".join(dict.fromkeys(dialogue.host for dialogue in mine if dialogue.host))
        where = (group[0].get("next_hop") or "-") + (f" at {hosts}" if hosts else "")
        source = next((event["source"] for event in group if event.get("source", DEFAULT) != DEFAULT), None)
        pool = next((event["pool"] for event in group if event.get("pool")), None)
        by = f" from {source}" + (f" of {pool}" if pool else "") if source else ""
        text = f"attempt {group[0]['attempts']} by {where}{by}: {kinds}"
        steps.append(
            Step(
                _rfc3339(began),
                "attempt",
                text,
                seconds=round(ended - began, 6),
                attempt=group[0]["attempts"],
                next_hop=group[0].get("next_hop"),
                results=results,
                dialogues=[_dialogue(dialogue) for dialogue in mine],
                waited_s=_waited(min(group, key=_began)),
                source=source,
                pool=pool,
            )
        )
    for dialogue in left:  # an attempt that went on with another host, or whose events are gone
        text = f"attempt {dialogue.attempt} by {dialogue.next_hop} at {dialogue.host or 'no host'}"
        steps.append(
            Step(
                _rfc3339(dialogue.began),
                "attempt",
                text,
                seconds=round(dialogue.took_s, 6),
                attempt=dialogue.attempt,
                next_hop=dialogue.next_hop,
                dialogues=[_dialogue(dialogue)],
            )
        )
    return steps


def _began(event: dict[str, Any]) -> float:
    return _seconds(event["time"]) - float(event.get("attempt_s", 0.0))


def _waited(said: dict[str, Any]) -> dict[str, float]:
    """What an event, or the worker, says of a wait."""
    waited = said.get("waited")
    if not isinstance(waited, dict):
        return {}
    return {cause: float(seconds) for cause, seconds in waited.items() if isinstance(seconds, int | float)}


def _waited_in_vain(id: str, own: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What a message whose time was over had waited for at the end."""
    return next((_waited(event) for event in own if event["event"] == "expiry" and event.get("id") == id), {})


def _has_attempts(own: Sequence[dict[str, Any]]) -> bool:
    return any(event["event"] in ATTEMPTS for event in own)


def _journalled(id: str, detail: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """What the journal has of the attempts of a message that is queued, as events, where there is no log of them."""
    for attempt in (detail or {}).get("attempts", []):
        for recipient in attempt["recipients"] if attempt["time"] else []:
            code, _, text = (recipient["reply"] or "").partition(" ")
            yield {
                "time": attempt["time"],
                "event": "deferral",
                "id": id,
                "recipient": recipient["address"],
                "next_hop": attempt["next_hop"],
                "source": attempt.get("source") or DEFAULT,
                "pool": attempt.get("pool"),
                "attempts": attempt["number"],
                "class": recipient["state"],
                "reply": {"code": int(code) if code.isdigit() else 0, "enhanced": None, "text": text},
            }


def _dialogue(dialogue: Dialogue) -> SessionDialogue:
    return SessionDialogue(
        host=dialogue.host,
        began=_rfc3339(dialogue.began),
        seconds=round(dialogue.took_s, 6),
        transaction=dialogue.number + 1,
        tls=json.loads(dialogue.tls) if dialogue.tls else None,
        delivered=dialogue.delivered,
        pipelined=dialogue.pipelined,
        lines=[DialogueLine(line.who, line.text, line.at_s) for line in dialogue.lines],
    )


def _reply(event: dict[str, Any]) -> str | None:
    reply = event.get("reply")
    if not isinstance(reply, dict):
        return None
    return " ".join(str(part) for part in (reply.get("code"), reply.get("enhanced"), reply.get("text")) if part) or None


# ---------------------------------------------------------------------- waits


def _waits(
    id: str,
    own: Sequence[dict[str, Any]],
    around: Sequence[dict[str, Any]],
    attempts: Sequence[Step],
    reception: dict[str, Any] | None,
    accepted: float | None,
    until: float | None,
    waiting: dict[str, float],
) -> Iterator[Step]:
    """The times between attempts, cut where their cause changes. `waiting`: what is known of the last of them."""
    if accepted is None or until is None:
        return
    spans = [*_causes(id, own, around, attempts, reception, until)]
    at, behind = accepted, False
    for step in sorted(attempts, key=lambda step: step.time):
        began = _seconds(step.time)
        yield from _wait(at, began, spans, "backoff" if behind else "queue", step.waited_s)
        at = max(at, began + (step.seconds or 0.0))
        behind = behind or any(result.result != "delivered" for result in step.results)
    yield from _wait(at, until, spans, "backoff" if behind else "queue", waiting)


def _causes(
    id: str,
    own: Sequence[dict[str, Any]],
    around: Sequence[dict[str, Any]],
    attempts: Sequence[Step],
    reception: dict[str, Any] | None,
    until: float,
) -> Iterator[tuple[float, float, str, str]]:
    """Begin, end, cause, why: the strongest first."""
    first_release = next((_seconds(event["time"]) for event in own if event["event"] == "release"), until)
    held = None
    for event in own:
        if event.get("id") != id:
            continue
        if event["event"] == "hold" and held is None:
            held = event
        elif event["event"] == "release" and held is not None:
            yield _seconds(held["time"]), _seconds(event["time"]), "held", _by(held)
            held = None
    if held is not None:
        yield _seconds(held["time"]), until, "held", _by(held)
    if reception is not None and reception.get("hold_until"):
        why = "its sender's limit" if reception.get("held") == "quota" else "the client asked for it"
        yield _seconds(reception["time"]), _seconds(reception["hold_until"]), "release", why
    if reception is not None and reception.get("held") == "unusual":
        yield _seconds(reception["time"]), first_release, "unusual", "its log-in sends unusually much"
    yield from _suspensions(own, around, reception, until)
    hops = {step.next_hop for step in attempts if step.next_hop}
    sites = {event.get("site") for event in own if event.get("site")}
    for event in around:
        if event["event"] == "unreachable" and (event.get("next_hop") in hops or event.get("site") in sites):
            begins = _seconds(event["time"])
            yield begins, begins + float(event.get("retry_s", 0.0)), "connection", _reply(event) or "unreachable"


def _suspensions(
    own: Sequence[dict[str, Any]],
    around: Sequence[dict[str, Any]],
    reception: dict[str, Any] | None,
    until: float,
) -> Iterator[tuple[float, float, str, str]]:
    names: set[tuple[str, str]] = set()
    for event in own:
        names.add(("site", str(event.get("site"))))
        names.add(("tenant", str(event.get("tenant"))))
        for recipient in [event.get("recipient"), *((reception or {}).get("recipients") or [])]:
            names.add(("domain", str(recipient).rpartition("@")[2].lower()))
    begun: dict[tuple[str, str], dict[str, Any]] = {}
    for event in around:
        key = (str(event.get("kind")), str(event.get("name")).lower())
        if key not in names:
            continue
        if event["event"] == "suspension":
            begun.setdefault(key, event)
        elif event["event"] == "resumption" and key in begun:
            first = begun.pop(key)
            yield _seconds(first["time"]), _seconds(event["time"]), "suspended", _by(first)
    for first in begun.values():
        ends = min(until, _seconds(first["until"])) if first.get("until") else until
        yield _seconds(first["time"]), ends, "suspended", _by(first)


def _by(event: dict[str, Any]) -> str:
    by = f"by {event['by']}" if event.get("by") else ""
    return ": ".join(part for part in (by, event.get("why")) if part)


def _wait(
    begin: float,
    end: float,
    spans: Sequence[tuple[float, float, str, str]],
    otherwise: str,
    waited: dict[str, float],
) -> Iterator[Step]:
    """One time between two attempts. `waited`: what is known of its end, by cause."""
    if end <= begin:  # an attempt that began while another was under way
        return
    total = sum(waited.values())
    told = min(total, end - begin)  # clocks are set, and a dialogue may begin before its attempt
    yield from _cut(begin, end - told, spans, otherwise)
    for cause, share in waited.items():
        seconds = share * told / total if total > 0 else 0.0
        if seconds < SHORTEST_WAIT_S:
            continue
        why = next((why for at, then, name, why in spans if name == cause and at < end and then > end - told), "")
        text = f"waits: {cause}" + (f" ({why})" if why else "")
        if len(waited) > 1:
            text += f", of {told:.3f} s in all"
        yield Step(_rfc3339(end - told), "wait", text, seconds=round(seconds, 6), cause=cause)


def _cut(begin: float, end: float, spans: Sequence[tuple[float, float, str, str]], otherwise: str) -> Iterator[Step]:
    """The time from begin to end, in pieces of one cause each."""
    marks = sorted({begin, end, *(mark for span in spans for mark in span[:2] if begin < mark < end)})
    pieces: list[tuple[float, float, str, str]] = []
    for at, then in pairwise(marks):
        _, _, cause, why = next((span for span in spans if span[0] <= at and then <= span[1]), (0, 0, otherwise, ""))
        if pieces and pieces[-1][2:] == (cause, why):
            pieces[-1] = (pieces[-1][0], then, cause, why)
        else:
            pieces.append((at, then, cause, why))
    for at, then, cause, why in pieces:
        if then - at >= SHORTEST_WAIT_S:
            text = f"waits: {cause}" + (f" ({why})" if why else "")
            yield Step(_rfc3339(at), "wait", text, seconds=round(then - at, 6), cause=cause)


# ---------------------------------------------------------------------- what it came to


def _others(id: str, own: Sequence[dict[str, Any]]) -> Iterator[Step]:
    """What operators did, notifications, and the end of its time."""
    for event in own:
        attempt = event["event"] in ATTEMPTS and "attempts" in event
        if not attempt and not (event["event"] == "reception" and event.get("id") == id):
            yield Step(event["time"], "event", describe(event), event=event)


def _end(id: str, own: Sequence[dict[str, Any]]) -> float | None:
    ends = [_seconds(event["time"]) for event in own if event["event"] in LAST and event.get("id") == id]
    return max(ends, default=None)


def _recipients(
    own: Sequence[dict[str, Any]], reception: dict[str, Any] | None, detail: dict[str, Any] | None, id: str
) -> list[Result]:
    known: dict[str, Result] = {}
    for recipient in (reception or {}).get("recipients") or []:
        known[recipient] = Result(recipient, "unknown" if detail is None else "queued", None)
    for event in own:
        recipient = event.get("recipient")
        if recipient and event.get("id") == id:
            known[recipient] = Result(recipient, event.get("class", ""), _reply(event))
    for entry in (detail or {}).get("recipients", []):
        known[entry["address"]] = Result(entry["address"], entry["state"], entry["reply"])
    if any(event["event"] == "deletion" and event.get("id") == id for event in own):
        known = {
            name: result if result.result in LAST.values() else Result(name, "deleted", result.reply)
            for name, result in known.items()
        }
    return list(known.values())


def _state(own: Sequence[dict[str, Any]], detail: dict[str, Any] | None, id: str) -> str:
    """The queue's word while it is queued; afterwards the gravest thing that became of a recipient."""
    if detail is not None:
        return str(detail["state"])
    came = {LAST[event["event"]] for event in own if event["event"] in LAST and event.get("id") == id}
    return next((state for state in ("failed", "expired", "deleted", "delivered") if state in came), "unknown")


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
