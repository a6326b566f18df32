"""Every event of the event log: its name, its fields and their types, in this one place.

Job: EVENTS and FIELDS are what the code that writes events keeps to (a test compares); `json_schema` makes a JSON
Schema (draft 2020-12) of them, `render_page` the page docs/events.md. SCHEMA_VERSION rises when a field changes its
meaning or its type, or goes; fields and events that are added leave it as it is, so readers ignore what they do not
know.

    python -m angarium.mail.event_schema > docs/events.md

A new event needs an entry in _EVENTS, a new field one in FIELDS. It never fails.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

from msgspec import Struct

__all__ = ["CAUSES", "EVENTS", "FIELDS", "SCHEMA_VERSION", "Event", "Field", "json_schema", "render_page"]

SCHEMA_VERSION = 1
# of waits between the moment in which a message could go and its attempt: those of the metric, and what was before this
# process began
CAUSES = ("suspended", "dns", "connection", "concurrency", "room", "disk", "restart")

Type = Literal["string", "integer", "number", "object", "array of strings"]


class Field(Struct, frozen=True):
    """A field, whatever the event."""

    type: Type
    text: str


class Event(Struct, frozen=True):
    """An event. Names of fields stand with spaces between them: `fields` are always there, `optional` may be missing.

    `classes`: the values of `class`; `numbers`: fields that are integers here; `nullable`: fields that may be null.
    """

    name: str
    fields: str
    text: str
    optional: str = ""
    classes: str = ""
    numbers: str = ""
    nullable: str = ""


FIELDS: dict[str, Field] = {
    "time": Field("string", "RFC 3339, UTC, microseconds"),
    "event": Field("string", "its name"),
    "id": Field("string", "queue id, 13 characters"),
    "reverse_path": Field("string", ""),
    "recipients": Field("array of strings", "in `double_bounce`, `deletion` and `unusual`: a number"),
    "recipient": Field("string", ""),
    "octets": Field("integer", "of the mail data, trace field included"),
    "client": Field("string", 'address; `""` on a Unix socket, `unknown` when a host in front does not know it'),
    "greeting": Field("string", "what it called itself"),
    "process": Field("string", "of the node: `worker 0` …, `lookup`, `access`, `events`, `admin`, `sink`"),
    "silent_s": Field("number", "since its last heartbeat"),
    "listener": Field("string", "its name"),
    "login": Field("string", "who authenticated; in `log_in_failed` who did not, or null"),
    "mechanism": Field("string", "of AUTH: `PLAIN`, `SCRAM-SHA-256`, …"),
    "delay_s": Field("number", ""),
    "of": Field("string", "`address`, `log_in`"),
    "subject": Field(
        "string",
        "an address, of IPv6 its /64, or a log-in; `#` and a number for a log-in that nobody knows",
    ),
    "ban_s": Field("number", ""),
    "left_s": Field("number", ""),
    "tenant": Field("string", ""),
    "protocol": Field("string", "`ESMTP`, `ESMTPS`, `ESMTPSA`, `UTF8SMTP`, …: RFC 3848"),
    "durability": Field("string", "`fsync`, `async`, `memory`"),
    "traffic": Field("string", "`bulk`"),
    "priority": Field("integer", "-9 to 9, as granted; not there when it is 0"),
    "hold_until": Field("string", "the release that the client asked for, or that its sender's limit allows, RFC 3339"),
    "held": Field(
        "string",
        "`quota`: it goes when its sender's limit allows; `unusual`: when an operator releases its log-in",
    ),
    "permission": Field("string", "name of the [[permission]], or its place among them: `#2`"),
    "limits": Field(
        "object",
        "of the permission, as it has them: `octets`, `recipients` of a message, recipients `per_hour` and `per_day`",
    ),
    "used": Field("object", "of these limits: recipients of the `hour` and the `day`, this message's included"),
    "original_reverse_path": Field("string", "the client's, where the permission's stands in its place"),
    "commit_s": Field("number", "from the end of the mail data until the 250"),
    "next_hop": Field("string", "as in the route: `mx`, `smtp://host:port`, …"),
    "site": Field("string", "who is behind it: [routing.md](routing.md#sites)"),
    "reply": Field(
        "object",
        "`code` (integer), `enhanced` (string or null), `text` (string); the next hop's, or the relay's own "
        "where none was seen",
    ),
    "class": Field("string", "what it came to: the values stand with each event"),
    "attempts": Field("integer", "this one included"),
    "age_s": Field("number", "since the message was accepted"),
    "attempt_s": Field("number", "since a connection took it"),
    "waited": Field(
        "object",
        "seconds by cause that it has waited before that, since it could go; not there below 5 ms: "
        "[trace.md](trace.md#waits)",
    ),
    "tls": Field(
        "object",
        "of the connection: `version`, `cipher`, and `authentication` (`none`, `webpki`, `dane`, "
        "`fingerprint`); not there in plaintext, and where there was no connection",
    ),
    "failures": Field("integer", "in a row; of a ban: those that led to it; of a stream: attempts for this batch"),
    "retry_s": Field("number", "until the next probe"),
    "host": Field("string", "its name"),
    "address": Field("string", "of the host, or of the source"),
    "port": Field("integer", ""),
    "policy": Field("string", "level of the TLS policy: [routing.md](routing.md#tls)"),
    "source": Field(
        "string",
        "where the mail leaves: a source address, by name, or `default`. In `tls_failed`: "
        'where the policy comes from: `delivery.tls`, `route "NAME"`, `tls_policy[0]`, `the TLSA records of HOST`, …',
    ),
    "reason": Field(
        "string",
        "result type of RFC 8460 §4.3: `starttls-not-supported`, `certificate-expired`, `tlsa-invalid`, …",
    ),
    "text": Field("string", "what is wrong, in words"),
    "then": Field("string", ""),
    "rest_s": Field("number", "seconds for which the next hop's other hosts are tried before it"),
    "file": Field("string", "a path, or a name in the drop folder"),
    "token_host": Field("string", "who gives access tokens"),
    "lifetime_s": Field("number", "seconds until the token expires; 0 when there is none"),
    "about": Field("string", "a queue id; `earlier` for one that had to wait for the disk"),
    "why": Field("string", ""),
    "kept": Field("string", "path of a file on the node; empty when nothing was kept"),
    "names": Field("array of strings", "of a certificate: e-mail addresses, DNS names, URIs, the common name"),
    "fingerprint": Field("string", "SHA-256, 64 hexadecimal digits"),
    "grants": Field("string", "`relaying`, or `nothing`"),
    "files": Field("array of strings", "paths"),
    "expires_s": Field("number", "seconds until the first of the certificates ends"),
    "pool": Field("string", "a source pool, by name"),
    "messages": Field("integer", "how many"),
    "by": Field("string", "the operator, as the client named him; in `source_replaced` the other source"),
    "operation": Field("string", "its id: [api.md](api.md#actions)"),
    "action": Field("string", "`hold`, `release`, `retry`, `delete`, `bounce`"),
    "selected": Field("integer", "messages that were meant"),
    "done": Field("integer", "messages it was done to"),
    "kind": Field("string", "`domain`, `site`, `source`, `tenant`"),
    "name": Field("string", "of what is suspended"),
    "until": Field("string", "RFC 3339"),
    "sha256": Field("string", "of the configuration file that was read"),
    "changed": Field(
        "array of strings",
        "keys of the configuration that have changed: `limits.recipients`, `listener.relay.tls`, `route`",
    ),
    "waiting": Field("array of strings", "keys that wait for a restart"),
    "problems": Field("array of strings", "what is wrong with the file"),
    "schema": Field("integer", "version of this page"),
    "release": Field("string", "of the relay"),
    "node": Field("string", "`node.hostname`"),
    "previous": Field("string", "path of the file that was written before; empty when there is none"),
    "events": Field("integer", "how many"),
    "stream": Field("string", "name of the [[stream]]; `syslog` or `journald` where events.to says so"),
}

_EVENTS: tuple[Event, ...] = (
    Event(
        "reception",
        "id reverse_path recipients octets client greeting listener tenant protocol durability commit_s",
        "a message was answered 250. `login`, `priority`, `hold_until`, `held`, `permission` and `pool` only when "
        "there is one, `traffic` for bulk mail only",
        optional="login traffic priority hold_until held permission limits used pool original_reverse_path",
    ),
    Event(
        "rejection",
        "client greeting listener tenant reverse_path recipient reply",
        'mail was refused: see the replies marked * in [smtp.md](smtp.md#every-reply). `recipient` is `""` '
        "unless a RCPT was refused; `recipients` are those of a message that was refused as a whole, the first 100",
        optional="login permission recipients",
    ),
    Event(
        "client_certificate",
        "listener client names fingerprint grants",
        "a client has shown a certificate that leads to `client_ca`",
    ),
    Event(
        "proxy_refused",
        "listener client why",
        "a proxy did not say who its client is, and the connection was closed; `client` is the proxy",
    ),
    Event(
        "certificate_loaded",
        "files expires_s",
        "the relay's certificates were read again, since a file had changed; every worker says so",
    ),
    Event(
        "certificate_refused",
        "files why",
        "they cannot be used as they are now; the old ones stay",
    ),
    Event(
        "delivery",
        "id reverse_path recipient next_hop site source tenant reply class durability attempts age_s attempt_s",
        "the next hop took the message for this recipient",
        optional="pool tls waited",
        classes="delivered",
    ),
    Event(
        "deferral",
        "id reverse_path recipient next_hop site source tenant reply class durability attempts age_s attempt_s",
        "this recipient is tried again later",
        optional="pool tls waited",
        classes="deferred",
    ),
    Event(
        "bounce",
        "id reverse_path recipient next_hop site source tenant reply class durability attempts age_s attempt_s",
        "this recipient has failed",
        optional="pool tls waited",
        classes="failed",
    ),
    Event(
        "in_doubt",
        "id",
        "the connection died between the last octet and the reply, or the host went on behind a 421; or, at a start, "
        "the node died: then with `why` alone",
        optional="reverse_path recipient next_hop site source tenant reply class durability attempts age_s attempt_s "
        "pool tls waited why",
        classes="in_doubt",
    ),
    Event(
        "expiry",
        "id reverse_path recipient class attempts age_s reply",
        "this recipient is given up: its time is over",
        optional="waited",
        classes="expired",
    ),
    Event(
        "tls_failed",
        "host address port policy source reason text then",
        "a host's TLS is not what the policy asks for; `reason` as in RFC 8460 §4.3; `then` is `plaintext` "
        "(opportunistic TLS alone), `as without the policy` (MTA-STS in testing) or `next host`",
    ),
    Event(
        "unreachable",
        "next_hop site source failures retry_s reply",
        "no connection to a next hop could be opened, `failures` times in a row; what waits for it is left "
        "untouched for `retry_s`",
    ),
    Event(
        "next_host",
        "next_hop site source host address port rest_s reply",
        "a host failed in a session (`code` 0: no reply) before it had a message; another host of the next hop "
        "is tried at once, and this one after the others for `rest_s`",
    ),
    Event(
        "source_down",
        "source address why",
        "the address of a source cannot be bound; each worker says so, once, and tries again each second",
    ),
    Event("source_up", "source address", "it can again"),
    Event(
        "source_replaced",
        "source pool by why",
        "mail that was assigned to a source leaves by another one of its pool, `by`; said once for each two while "
        "that is so",
    ),
    Event(
        "source_pool_unusable",
        "pool next_hop site why retry_s",
        "no source of a pool can be used for a next hop: its mail waits, untouched, until one can, and looks again "
        "after `retry_s`",
    ),
    Event(
        "source_pool_missing",
        "pool messages",
        "so many messages name a pool that the configuration does not have: they go as mail without a pool of its own",
    ),
    Event(
        "log_in_failed",
        "client listener mechanism login delay_s",
        "a log-in failed, and is told so after `delay_s`. `login` is null when no back end knows the name: it "
        "may be a password in the wrong field",
        nullable="login",
    ),
    Event(
        "ban",
        "of subject failures ban_s",
        "too many failed: AUTH of a client or of a log-in is not looked at for `ban_s` "
        "([smart-host.md](smart-host.md#guessing))",
    ),
    Event(
        "unban",
        "of subject left_s",
        "an operator lifted a ban that would have held for `left_s`",
    ),
    Event(
        "bans_lost",
        "file why",
        "the file of failures and bans is damaged, or from the future: the access process begins without any",
    ),
    Event(
        "token",
        "token_host class lifetime_s",
        "an access token was asked for: `granted`, `refused`, `failed`; it holds for `lifetime_s`",
        classes="granted refused failed",
    ),
    Event(
        "recipient_list",
        "file class text",
        "a worker has `read` a file of recipients, or has `failed` to and goes on with what it had",
        classes="read failed",
    ),
    Event(
        "mailbox_host",
        "next_hop class text",
        "a mailbox host can no longer be asked about recipients (`unreachable`, and why), or can again (`reachable`)",
        classes="unreachable reachable",
    ),
    Event(
        "notification",
        "id about class",
        "a notification was queued as `id`, about the message `about`; `class` is the gravest that it tells",
        classes="failed expired delayed delivered relayed expanded",
    ),
    Event(
        "drop_refused",
        "file login why kept",
        "a file of the drop folder is no message, or was refused for good; it is kept for whoever looks",
    ),
    Event(
        "double_bounce",
        "id recipients",
        "mail with the null reverse-path failed: nobody is told",
        numbers="recipients",
    ),
    Event(
        "hold",
        "id by why",
        "an operator (or `queue.in_doubt`, by `policy`) keeps this message from delivery",
    ),
    Event(
        "release",
        "id by",
        "and lets it go on",
    ),
    Event(
        "unusual",
        "login client permission recipients why",
        "a log-in has sent unusually much: from this message on its mail is held "
        "([smart-host.md](smart-host.md#unusual-volume))",
        numbers="recipients",
    ),
    Event(
        "trusted",
        "login by",
        "and is not any more: an operator has released it",
    ),
    Event(
        "deletion",
        "id recipients by why",
        "an operator has deleted this message; nobody was told",
        numbers="recipients",
    ),
    Event(
        "operation",
        "operation action class by why selected done",
        "an operator's action has ended on this worker: `done`, `cancelled` or `failed`",
        classes="done cancelled failed",
    ),
    Event(
        "reload",
        "class sha256",
        "the configuration was read again: `applied`, with `changed` and `waiting`, or `refused` as a whole, "
        "with `problems`. One worker says so",
        optional="changed waiting problems",
        classes="applied refused",
    ),
    Event(
        "process_hung",
        "process silent_s text",
        "a process of the node has not answered for `silent_s`; `text` is what the kernel says that it does. It is "
        "killed and started again, unless a debugger holds it. One worker says so, when one can",
    ),
    Event(
        "process_ended",
        "process why retry_s",
        "a process of the node has ended by itself or was killed (`hung`), and is started again after `retry_s`. One "
        "worker says so, when one can",
    ),
    Event(
        "suspension",
        "kind name by why until",
        "delivery is suspended; every worker says so, and again when it starts",
    ),
    Event(
        "resumption",
        "kind name",
        "it was resumed, or its entry has left the list",
    ),
    Event(
        "unreadable",
        "id why",
        "the disk does not give a record; it is read again after ten minutes, three times in all",
    ),
    Event(
        "damaged",
        "id why kept",
        "a record is damaged, or could not be read three times: its message is given up, and what is left of "
        "it is in the file `kept`. `id` is SEGMENT-OFFSET where it cannot be read",
    ),
    Event(
        "log_opened",
        "schema release node previous",
        "the event log begins, or goes on in a new file: with the start of the process that keeps it, and "
        "after each rotation",
    ),
    Event(
        "events_lost",
        "events",
        "events of one process could not be written, since the disk was full or failed; they are gone, and "
        "there is room again",
    ),
    Event(
        "log_deleted",
        "file why",
        "a file of the event log was deleted, by `events.keep`, `events.keep_size` or `events.keep_unsent`",
    ),
    Event(
        "stream",
        "stream class failures text",
        "a [[stream]] cannot be sent on (`failing`, and why), or goes on again (`working`)",
        classes="failing working",
    ),
    Event(
        "dead_letter",
        "stream events file text",
        "a batch was given up after `stream.give_up`, or is what the other side can never take; it stands in `file`",
    ),
    Event(
        "stream_lost",
        "stream why",
        "events will not be sent: their file was deleted before, or a dead letter found no room. `events` says "
        "how many, where that is known",
        optional="events",
    ),
)

EVENTS: dict[str, Event] = {event.name: event for event in _EVENTS}

_OBJECTS: dict[str, dict[str, Any]] = {
    "reply": {
        "type": "object",
        "properties": {
            "code": {"type": "integer", "minimum": 0, "maximum": 599},
            "enhanced": {"type": ["string", "null"], "pattern": r"^[245]\.\d{1,3}\.\d{1,3}$"},
            "text": {"type": "string"},
        },
        "required": ["code", "enhanced", "text"],
    },
    "limits": {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in ("octets", "recipients", "per_hour", "per_day")},
        "additionalProperties": False,
    },
    "used": {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in ("hour", "day")},
        "additionalProperties": False,
    },
    "waited": {
        "type": "object",
        "properties": {cause: {"type": "number", "minimum": 0} for cause in CAUSES},
        "additionalProperties": False,
    },
    "tls": {
        "type": "object",
        "properties": {
            "version": {"type": "string"},
            "cipher": {"type": "string"},
            "authentication": {"enum": ["none", "webpki", "dane", "fingerprint"]},
        },
        "required": ["version", "cipher", "authentication"],
    },
}
_PATTERNS = {
    "time": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
}


def json_schema(*, strict: bool = False) -> dict[str, Any]:
    """One line of the log. `strict`: without anything that this version does not know."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"An event of Angarium, version {SCHEMA_VERSION}",
        "type": "object",
        "required": ["time", "event"],
        "properties": {"time": _type_of("time"), "event": {"type": "string"} if not strict else {"enum": [*EVENTS]}},
        "allOf": [
            {"if": {"properties": {"event": {"const": event.name}}}, "then": _schema_of(event, strict)}
            for event in _EVENTS
        ],
    }


def _schema_of(event: Event, strict: bool) -> dict[str, Any]:
    names = ["time", "event", *event.fields.split(), *event.optional.split()]
    properties = {name: _type_of(name, event) for name in names}
    made: dict[str, Any] = {"properties": properties, "required": ["time", "event", *event.fields.split()]}
    return made | {"additionalProperties": False} if strict else made


def _type_of(name: str, event: Event | None = None) -> dict[str, Any]:
    if event is not None and name == "class" and event.classes:
        return {"enum": event.classes.split()}
    if event is not None and name in event.numbers.split():
        return {"type": "integer"}
    if event is not None and name in event.nullable.split():
        return {"type": ["string", "null"]}
    if name in _OBJECTS:
        return _OBJECTS[name]
    kind = FIELDS[name].type
    if kind == "array of strings":
        return {"type": "array", "items": {"type": "string"}}
    made: dict[str, Any] = {"type": kind}
    if name in _PATTERNS:
        made["pattern"] = _PATTERNS[name]
    return made


_HEAD = f"""\
# Events

One line of JSON for each thing that happens to mail: in the event log (`events.file`), in what `[[stream]]` sends on,
in syslog and in the journal. [operations.md](operations.md#logs) says where the log goes and how long it is kept,
[streams.md](streams.md) how it is sent on. `angarium log` reads it.

**Version {SCHEMA_VERSION}.** The number is in the event `log_opened` at the beginning of each file, and with each
batch of a stream. It rises when a field goes, or changes its type or meaning. Events and fields may be added under the
same number: ignore what you do not know. `angarium log --schema` prints this page as a JSON Schema (draft 2020-12).

Every line has `time` (RFC 3339, UTC, microseconds) and `event`, in this order, before all else. Durations end in `_s`
and are seconds. Strings are cut at 1,000 octets; octets that are no UTF-8 show as U+FFFD. The null reverse-path is
`""`, and so is the `tenant` of mail that has none. Lines are in the order in which each process wrote them; those of
several processes may stand up to `events.flush_interval` out of order.

This page is generated: `python -m angarium.mail.event_schema > docs/events.md`.
"""


def render_page() -> str:
    """docs/events.md."""
    lines = [_HEAD, "## Every event", "", "| event | fields | when |", "| --- | --- | --- |"]
    for event in _EVENTS:
        named = ", ".join(f"`{name}`" for name in event.fields.split())
        if event.optional:
            named += "; sometimes " + ", ".join(f"`{name}`" for name in event.optional.split())
        text = event.text
        if event.classes:
            text += ". `class`: " + ", ".join(f"`{value}`" for value in event.classes.split())
        lines.append(f"| `{event.name}` | {named} | {text} |")
    lines += ["", "## Every field", "", "| field | type | |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {field.type} | {field.text} |" for name, field in FIELDS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_page())
