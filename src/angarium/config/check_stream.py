"""What must hold of [events] and [[stream]]: where events are sent, under which log-in, and by which libraries.

`parse_target` reads `stream.url`, `parse_syslog` reads `events.syslog`; both raise ValueError with a sentence."""

from __future__ import annotations

import importlib.util
import os
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from angarium.config.check_tls import check_authorities, check_pair, read_file
from angarium.config.problem import nearest, nearest_file
from angarium.config.secret import read_secret_file
from angarium.mail.event_schema import EVENTS

if TYPE_CHECKING:
    from angarium.config.locate import KeyPath
    from angarium.config.model import Config, Stream
    from angarium.config.problem import Findings

__all__ = ["SyslogTarget", "Target", "check_events", "parse_syslog", "parse_target"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRETS = ("secret", "secret_file", "secret_env")
_OTHERS_READ = 0o004

TargetKind = Literal["webhook", "kafka", "nats", "redis", "otlp"]
# scheme -> kind, TLS, port
_SCHEMES: dict[str, tuple[TargetKind, bool, int]] = {
    "https": ("webhook", True, 443),
    "http": ("webhook", False, 80),
    "kafka": ("kafka", False, 9092),
    "kafkas": ("kafka", True, 9093),
    "nats": ("nats", False, 4222),
    "natss": ("nats", True, 4222),
    "redis": ("redis", False, 6379),
    "rediss": ("redis", True, 6379),
    "otlp+http": ("otlp", False, 4318),
    "otlp+https": ("otlp", True, 443),
}
# what must be installed -> how
_LIBRARIES = {"kafka": "aiokafka", "nats": "nats", "redis": "redis", "otlp": "opentelemetry.sdk"}
_EXTRAS = {"otlp": "otel"}  # where it has another name than the kind
_BY_HTTP = ("webhook", "otlp")
_WITH_TLS = {kind: f"{scheme}://" for scheme, (kind, tls, _) in _SCHEMES.items() if tls}
_TOPICS = {"kafka": "a topic", "nats": "a subject", "redis": "the key of a stream"}


class Target(Struct, frozen=True):
    """Where a stream leads. `topic`: of Kafka; the subject of NATS, the key of Redis; a webhook has its URL whole."""

    kind: TargetKind
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    topic: str
    url: str

    @property
    def shown(self) -> str:
        """For people: without what may be a secret in the query of a URL."""
        return self.url.partition("?")[0]


class SyslogTarget(Struct, frozen=True):
    """Where syslog is spoken: a Unix socket, or a host by `udp`, `tcp` or `tls`. `local`: as syslog(3) writes it."""

    transport: Literal["unix", "udp", "tcp", "tls"]
    path: str = ""
    host: str = ""
    port: int = 0
    local: bool = False


def parse_target(url: str) -> Target:
    """`https://host/path`, `kafka://host:9092,other:9092/topic`, `nats://host/subject`, `redis://host/key`."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise ValueError(f'"{parts.scheme}:" is none of {known}')  # the rest may be a secret
    kind, tls, port = _SCHEMES[parts.scheme]
    if "@" in parts.netloc:
        raise ValueError("has a log-in in it: write user, and secret_file")
    hosts = tuple(_host_of(part, port) for part in parts.netloc.split(","))
    if kind != "kafka" and len(hosts) > 1:
        raise ValueError("names several hosts")
    topic = "" if kind in _BY_HTTP else unquote(parts.path).strip("/")
    if kind not in _BY_HTTP and (not topic or any(mark.isspace() for mark in topic) or parts.query or parts.fragment):
        raise ValueError(f'wants {_TOPICS[kind]} behind the host, such as "{parts.scheme}://127.0.0.1/mail-events"')
    return Target(kind, tls, hosts, topic, url)


def parse_syslog(text: str) -> SyslogTarget:
    """`unix:/dev/log`, `unix-rfc5424:/path`, `udp://host:514`, `tcp://host:601`, `tls://host:6514`."""
    for scheme in ("unix", "unix-rfc5424"):
        if text.startswith(f"{scheme}:/"):
            return SyslogTarget("unix", path=text.partition(":")[2], local=scheme == "unix")
    parts = urlsplit(text)
    ports = {"udp": 514, "tcp": 601, "tls": 6514}  # RFC 5426, 6587 (IANA's syslog-conn), 5425
    if parts.scheme not in ports or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise ValueError(f'"{text}" is not like "unix:/dev/log", "udp://192.0.2.1:514", "tcp://…" or "tls://…"')
    host, port = _host_of(parts.netloc, ports[parts.scheme])
    return SyslogTarget(cast("Literal['udp', 'tcp', 'tls']", parts.scheme), host=host, port=port)


def _host_of(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("names no host")
    return parts.hostname, parts.port or port


def check_events(config: Config, findings: Findings) -> None:
    """Every check of [events] and [[stream]]."""
    path: KeyPath = ("events", "syslog")
    if findings.sound(path):
        try:
            syslog = parse_syslog(config.events.syslog)
        except ValueError as error:
            findings.error(path, str(error))
        else:
            if config.sandbox and config.events.to == "syslog" and syslog.host and not _is_loopback(syslog.host):
                findings.error(path, f"{syslog.host} is not a loopback address, and this is a sandbox")
    names: dict[str, int] = {}
    for index, stream in enumerate(config.stream):
        path = findings.element(("stream",), index)
        if not _NAME.fullmatch(stream.name):
            message = f'"{stream.name}" is not a name: letters, digits, ".", "_" and "-", at most 64'
            findings.error((*path, "name"), message)
        if names.setdefault(stream.name, index) != index:
            findings.error((*path, "name"), f'another stream is named "{stream.name}" too')
        if config.event_file is None and findings.sound(("events", "file")):
            findings.error(path, "reads the event log, and there is none: set events.file")
        _check_target(config, stream, path, findings)
        _check_choice(config, stream, path, findings)


def _check_target(config: Config, stream: Stream, path: KeyPath, findings: Findings) -> None:
    given = _given(stream, path, findings)
    if stream.ca is not None and findings.sound((*path, "ca")):
        octets = read_file(stream.ca, (*path, "ca"), findings)
        if octets is not None:
            check_authorities(stream.ca, octets, (*path, "ca"), findings)
    if not findings.sound((*path, "url")):
        return
    where = (*path, "url")
    try:
        target = parse_target(stream.url)
    except ValueError as error:
        findings.error(where, str(error))
        return
    loopback = all(_is_loopback(host) for host, _ in target.hosts)
    if config.sandbox and not loopback:
        findings.error(where, "does not lead to a loopback address, and this is a sandbox")
    if not target.tls and not loopback:
        message = "sends who wrote to whom over the network in plaintext"
        if given and target.kind != "webhook":
            findings.error(where, f"{message}, and the log-in")
        else:
            findings.warn(where, message)
    library = _LIBRARIES.get(target.kind)
    if library is not None and not _is_installed(library):
        extra = _EXTRAS.get(target.kind, target.kind)
        findings.error(where, f'needs the extra "{extra}": pip install "angarium[{extra}]"')
    _check_client_certificate(stream, target, path, findings)
    if target.kind == "kafka" and (stream.user or "").startswith("scram:") and findings.sound((*path, "user")):
        findings.error((*path, "user"), 'is the name alone: write mechanism = "SCRAM-SHA-512" beside it')
    if stream.mechanism != "PLAIN" and findings.sound((*path, "mechanism")):
        if target.kind != "kafka":
            findings.error((*path, "mechanism"), "is for Kafka alone")
        elif stream.user is None and findings.sound((*path, "user")):
            findings.error((*path, "mechanism"), "has no effect without user")
    if stream.sample != 1.0 and target.kind != "otlp" and findings.sound((*path, "sample")):
        findings.error((*path, "sample"), "is for OpenTelemetry (otlp+http://) alone: a stream of events is whole")
    if stream.user is not None and target.kind == "otlp" and findings.sound((*path, "user")):
        findings.error((*path, "user"), "OTLP has no log-in: the secret is sent as a bearer token")
    if stream.user is not None and target.kind == "webhook" and findings.sound((*path, "user")):
        findings.error((*path, "user"), "a webhook has no log-in: its requests are signed with the secret")
    if stream.user is not None and not given and findings.sound(*((*path, key) for key in _SECRETS)):
        findings.error((*path, "user"), f"wants one of {', '.join(_SECRETS)}")
    if target.kind == "webhook" and not given and findings.sound(*((*path, key) for key in _SECRETS)):
        findings.warn(path, "has no secret, so nobody can tell its requests from those of others")


def _check_client_certificate(stream: Stream, target: Target, path: KeyPath, findings: Findings) -> None:
    """What the relay shows: both files, a pair, and TLS to show it in."""
    at, key_at = (*path, "certificate"), (*path, "key")
    certificate, key = stream.certificate, stream.key
    if not findings.sound(at, key_at) or (certificate is None and key is None):
        return
    if certificate is None or key is None:
        findings.error(at if key is None else key_at, f"needs {'key' if key is None else 'certificate'} beside it")
    elif not target.tls:
        findings.error(at, f"has no effect without TLS: {_WITH_TLS[target.kind]}")
    else:
        check_pair(certificate, at, key, key_at, findings)


def _check_choice(config: Config, stream: Stream, path: KeyPath, findings: Findings) -> None:
    tenants = [tenant.name for tenant in config.tenant]
    for number, tenant in enumerate(stream.tenants):
        if tenant not in tenants and findings.whole(("tenant",)) and findings.sound((*path, "tenants")):
            where = findings.element((*path, "tenants"), number)
            findings.error(where, f'there is no tenant "{tenant}"', nearest(tenant, tenants))
    for number, event in enumerate(stream.events):
        if event not in EVENTS and findings.sound((*path, "events")):
            where = findings.element((*path, "events"), number)
            findings.error(where, f'there is no event "{event}"', nearest(event, list(EVENTS)))
    if stream.retry_first_s > stream.retry_longest_s and findings.sound((*path, "retry_first")):
        findings.error((*path, "retry_first"), "is longer than the longest interval, stream.retry_longest")


def _given(stream: Stream, path: KeyPath, findings: Findings) -> list[str]:
    given = [key for key in _SECRETS if getattr(stream, key) is not None]
    if len(given) > 1:
        findings.error((*path, given[-1]), f"stands beside {given[0]}: one of the two is enough")
    file = stream.secret_file
    if file is not None and findings.sound((*path, "secret_file")):
        where = (*path, "secret_file")
        try:
            read_secret_file(file)
            if os.stat(file).st_mode & _OTHERS_READ:
                findings.warn(where, f"{file} can be read by every user of this machine")
        except OSError as error:
            findings.error(where, f"{file} cannot be read: {error.strerror}", nearest_file(file))
        except ValueError as error:
            findings.error(where, str(error))
    return given


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
