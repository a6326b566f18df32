"""OpenTelemetry: one trace a message, made of its events, by OTLP over HTTP (protobuf).

    reception ─────────── the root span: from the end of the mail data until the 250
      ├─ attempt 1        deferred by its reply
      └─ attempt 2        delivered

A notification that the relay itself writes has a trace of its own, whose root links to the message that it is about.

The ids of traces and spans are digests of the node, the queue id and the event's key: what is sent again after a
failure is the same span once more. Nothing has to be kept until a message is over, for each span is sent when its event
is read; an attempt may end long after its root.

**Sampling** is by the trace's id, so that all spans of a message are sent or none: the share `stream.sample` of all
messages, and, with `stream.sample_failures`, every one that fails (bounce, expiry, in_doubt). For that the last
MOST_REMEMBERED messages that were not chosen are remembered, over a restart those in the last LOOK_BACK_OCTETS of the
log; of one that fails later than that, what happened from then on is sent, and its root is missing.

Addresses are not sent, but the domains of recipients. The secret, where there is one, is sent as a bearer token.

Fails: SinkFailure; 429, 502, 503, 504 and a connection that fails are tried again, 413 asks for less, all else refuses
what was sent. Bounds: one request at a time, MOST_REMEMBERED messages with EVENTS_REMEMBERED events each.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from angarium import __version__
from angarium.app.stream.http_receiver import TOO_LARGE, HttpReceiver
from angarium.app.stream.log_in import has_secret
from angarium.app.stream.sink import SinkFailure
from angarium.config.secret import read_secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from angarium.app.stream.sink import Batch, Item
    from angarium.config.model import Stream

__all__ = ["Otlp", "Traces"]

MOST_REMEMBERED = 20_000
LOOK_BACK_OCTETS = 32 << 20  # what about so many messages make of events
EVENTS_REMEMBERED = 20
TEXT_OCTETS = 200
LATER = (429, 502, 503, 504)  # OTLP 1.x, "Failures": all others are not to be tried again
ATTEMPTS = ("delivery", "deferral", "bounce", "in_doubt")
FAILURES = ("bounce", "expiry", "in_doubt")
MOMENTS = ("expiry", "in_doubt", "hold", "release", "deletion")
_LOCAL_PART = re.compile(r"(?:\"[^\"]*\"|[^\s<>()\[\],;:\"@]+)@(?=[\w\[])")
_SCOPE = InstrumentationScope("angarium", __version__)
# field of an event -> name of the attribute
_ATTRIBUTES = {
    "id": "angarium.id",
    "tenant": "angarium.tenant",
    "listener": "angarium.listener",
    "protocol": "angarium.protocol",
    "durability": "angarium.durability",
    "octets": "angarium.octets",
    "traffic": "angarium.traffic",
    "priority": "angarium.priority",
    "held": "angarium.held",
    "client": "client.address",
    "next_hop": "angarium.next_hop",
    "site": "angarium.site",
    "source": "angarium.source",
    "pool": "angarium.pool",
    "permission": "angarium.permission",
    "class": "angarium.class",
    "attempts": "angarium.attempt",
    "age_s": "angarium.age_s",
    "by": "angarium.by",
}


class Traces:
    """Turns events into spans of the messages that are chosen."""

    def __init__(self, node: str, sample: float, sample_failures: bool) -> None:
        self._node = node
        self._bound = TraceIdRatioBased.get_bound_for_rate(sample)
        self._sample_failures = sample_failures
        self._resource = Resource(
            {
                "service.name": "angarium",
                "service.version": __version__,
                "service.instance.id": node,
                "host.name": node,
            }
        )
        # id -> key -> line, of messages that were not chosen so far
        self._remembered: OrderedDict[str, OrderedDict[str, bytes]] = OrderedDict()
        self._failed: OrderedDict[str, None] = OrderedDict()  # that were chosen because they failed
        self._sent: list[str] = []

    def spans(self, items: tuple[Item, ...]) -> list[ReadableSpan]:
        """Those that these events make. What is remembered is forgotten with `settled` only."""
        made: list[ReadableSpan] = []
        self._sent = []
        for item in items:
            event = _decoded(item.line)
            if event is None:
                continue
            name = str(event["id"])
            if self._chosen(name) or name in self._failed:
                made += self._span(event, item.key)
            elif self._sample_failures and event["event"] in FAILURES:
                earlier = self._remembered.get(name, OrderedDict[str, bytes]())
                for key, line in earlier.items():
                    before = _decoded(line)
                    if key != item.key and before is not None:
                        made += self._span(before, key)
                made += self._span(event, item.key)
                self._sent.append(name)
                self._failed[name] = None
            elif self._sample_failures:
                self._remember(name, item)
        return made

    def recall(self, items: Sequence[Item]) -> None:
        """Remember again what was remembered before a restart. Nothing is made of these events."""
        for item in items:
            event = _decoded(item.line)
            if event is None or self._chosen(name := str(event["id"])):
                continue
            if event["event"] in FAILURES:
                self._remembered.pop(name, None)
                self._failed[name] = None
            elif name not in self._failed:
                self._remember(name, item)
        self._forget_failed()

    def settled(self) -> None:
        """What `spans` gave last was taken."""
        for name in self._sent:
            self._remembered.pop(name, None)
        self._forget_failed()

    def given_up(self) -> None:
        """It was not taken: the same events come again."""
        for name in self._sent:
            self._failed.pop(name, None)

    def _remember(self, name: str, item: Item) -> None:
        kept = self._remembered.setdefault(name, OrderedDict())
        if item.key in kept or len(kept) < EVENTS_REMEMBERED:
            kept[item.key] = item.line
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    def _forget_failed(self) -> None:
        while len(self._failed) > MOST_REMEMBERED:
            self._failed.popitem(last=False)

    def _chosen(self, name: str) -> bool:
        return self._trace_id(name) & (2**64 - 1) < self._bound

    def _trace_id(self, name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self._node}\0{name}".encode()).digest()[:16], "big") or 1

    def _context(self, name: str, key: str) -> SpanContext:
        span = int.from_bytes(hashlib.sha256(f"{self._node}\0{name}\0{key}".encode()).digest()[:8], "big") or 1
        return SpanContext(self._trace_id(name), span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def _span(self, event: dict[str, Any], key: str) -> list[ReadableSpan]:
        kind = event["event"]
        name = str(event["id"])
        ended = _nanoseconds(event["time"])
        if kind == "reception":
            began = ended - int(float(event.get("commit_s", 0)) * 1e9)
            return [self._made("message", self._context(name, ""), None, SpanKind.SERVER, began, ended, event)]
        if kind == "notification":
            about = [Link(self._context(str(event.get("about")), ""))]
            return [self._made("message", self._context(name, ""), None, SpanKind.INTERNAL, ended, ended, event, about)]
        root = self._context(name, "")
        if kind in ATTEMPTS and "attempts" in event:
            began = ended - int(float(event.get("attempt_s", 0)) * 1e9)
            return [self._made("attempt", self._context(name, key), root, SpanKind.CLIENT, began, ended, event)]
        if kind in MOMENTS:
            return [self._made(kind, self._context(name, key), root, SpanKind.INTERNAL, ended, ended, event)]
        return []

    def _made(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        began: int,
        ended: int,
        event: dict[str, Any],
        links: Sequence[Link] = (),
    ) -> ReadableSpan:
        reply = event.get("reply")
        said = reply if isinstance(reply, dict) else {}
        well = event["event"] not in (*FAILURES, "deferral")
        text = _LOCAL_PART.sub("***@", str(said.get("text") or event.get("why") or event["event"]))[:TEXT_OCTETS]
        attributes = _attributes(event, said)
        if not well:  # of a closed set, as the semantic conventions want it
            attributes["error.type"] = str(said.get("enhanced") or said.get("code") or event["event"])
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            links=links,
            kind=kind,
            status=Status(StatusCode.OK if well else StatusCode.ERROR, None if well else text),
            start_time=began,
            end_time=ended,
            instrumentation_scope=_SCOPE,
        )


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(event, dict) and isinstance(event.get("time"), str) and "id" in event and "event" in event
    return event if whole else None


def _attributes(event: dict[str, Any], reply: dict[str, Any]) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        attribute: event[field]
        for field, attribute in _ATTRIBUTES.items()
        if isinstance(event.get(field), str | int | float) and event[field] != ""
    }
    recipients = event.get("recipients")
    if isinstance(recipients, list):
        found["angarium.recipients"] = len(recipients)
    if isinstance(event.get("recipient"), str):
        found["angarium.recipient_domain"] = event["recipient"].rpartition("@")[2].lower()
    if reply.get("code"):
        found["angarium.reply.code"] = reply["code"]
    if reply.get("enhanced"):
        found["angarium.reply.enhanced"] = reply["enhanced"]
    waited = event.get("waited")
    if isinstance(waited, dict):
        found |= {f"angarium.waited.{cause}": float(seconds) for cause, seconds in waited.items()}
    tls = event.get("tls")
    if isinstance(tls, dict):
        found["tls.protocol.name"] = "tls"
        found["tls.protocol.version"] = str(tls.get("version")).removeprefix("TLSv")
        found["angarium.tls.authentication"] = str(tls.get("authentication"))
    return found


def _nanoseconds(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1e6) * 1000
    except ValueError:
        return 0


class Otlp:
    """One collector."""

    def __init__(self, stream: Stream, node: str) -> None:
        self._stream = stream
        self._url = stream.url.removeprefix("otlp+")
        self._traces = Traces(node, stream.sample, stream.sample_failures)
        self._receiver = HttpReceiver(stream)

    @property
    def look_back_octets(self) -> int:
        """Of the log; 0 where nothing is to be remembered."""
        return LOOK_BACK_OCTETS if self._stream.sample_failures and self._stream.sample < 1 else 0

    def recall(self, items: Sequence[Item]) -> None:
        """What was sent or left out before this process began."""
        self._traces.recall(items)

    async def send(self, batch: Batch) -> None:
        """The spans of these events; SinkFailure unless they are taken."""
        spans = self._traces.spans(batch.items)
        try:
            if spans:
                await self._post(encode_spans(spans).SerializeToString())
        except BaseException:
            self._traces.given_up()
            raise
        self._traces.settled()

    async def _post(self, body: bytes) -> None:
        stream = self._stream
        headers = {"Content-Type": "application/x-protobuf"}
        try:
            if has_secret(stream):
                secret = read_secret(stream.secret, stream.secret_file, stream.secret_env)
                headers["Authorization"] = f"Bearer {secret}"
        except (OSError, ValueError) as failure:
            raise SinkFailure(f"the secret cannot be read: {failure}") from failure
        answer = await self._receiver.post(self._url, body, headers)
        if answer.taken:
            return  # what it says of a part that it rejects is not for us to mend
        raise SinkFailure(
            f"HTTP status {answer.status}",
            refused=answer.status not in (*LATER, TOO_LARGE),
            too_large=answer.status == TOO_LARGE,
            retry_after_s=answer.retry_after_s,
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._receiver.close()
