"""An event in words: one line for people, as `angarium log` and the systemd journal show it.

    delivery 0SAQS2V780G00 from <me@example.org> to <you@example.net> by smtp://mx.example.net:25 said 250 2.0.0 ok
    (attempt 1, after 0.12 s)

It never fails for what a log can hold: a value of an unexpected type is shown as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["describe"]

RECIPIENTS_SHOWN = 3
_IN_FRONT = (
    *("time", "event", "id", "reverse_path", "recipient", "recipients", "reply", "attempts", "age_s", "waited"),
    "next_hop",
)
_LEFT_OUT = (*_IN_FRONT, "durability", "class", "site", "greeting", "commit_s", "attempt_s", "tls", "protocol")


def describe(event: Mapping[str, Any]) -> str:
    """The event without its time."""
    parts = [str(event.get("event", "?"))]
    if "id" in event:
        parts.append(str(event["id"]))
    if "reverse_path" in event:
        parts.append(f"from <{event['reverse_path']}>")
    recipients = event.get("recipients")
    if isinstance(recipients, list):
        shown = ", ".join(f"<{recipient}>" for recipient in recipients[:RECIPIENTS_SHOWN])
        more = len(recipients) - RECIPIENTS_SHOWN
        parts.append(f"to {shown} and {more} more" if more > 0 else f"to {shown}")
    elif recipients is not None:
        parts.append(f"recipients={recipients}")
    if event.get("recipient"):
        parts.append(f"to <{event['recipient']}>")
    if event.get("next_hop"):
        parts.append(f"by {event['next_hop']}")
    reply = event.get("reply")
    if isinstance(reply, dict):
        said = (reply.get("code"), reply.get("enhanced"), reply.get("text"))
        parts.append("said " + " ".join(str(part) for part in said if part))
    if "attempts" in event and "age_s" in event:
        parts.append(f"(attempt {event['attempts']}, after {event['age_s']:.2f} s{_waited(event.get('waited'))})")
    rest = [
        f"{name}={_shown(value)}"
        for name, value in event.items()
        if name not in _LEFT_OUT and value not in ("", None, [])
    ]
    if "class" in event and event["event"] not in ("delivery", "deferral", "bounce", "expiry"):
        rest.insert(0, str(event["class"]))
    return " ".join(parts + rest)


def _waited(waited: object) -> str:
    """The causes of a wait, the longest first."""
    if not isinstance(waited, dict):
        return ""
    shares = sorted(((s, cause) for cause, s in waited.items() if isinstance(s, int | float)), reverse=True)
    return ", waited " + " + ".join(f"{cause} {seconds:.2f} s" for seconds, cause in shares) if shares else ""


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{name}:{one}" for name, one in value.items())
    text = str(value)
    return f'"{text}"' if " " in text else text
