"""Real receivers of streams: Redis and NATS of Debian, and Apache Kafka's broker, which .ci/install-peers brings.

Each is started for a block, on loopback, with its files in a folder of the test; whoever lacks it skips with the
reason. `Keys` are the certificates that they and their clients show."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import os
import re
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec

import pytest
import uvloop
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from angarium.config.model import Stream
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.relay import wait_until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterator, Sequence

__all__ = ["Collector", "KafkaBroker", "Keys", "Poster", "nats", "on_uvloop", "program", "redis", "stream_to"]

KAFKA_FOLDER = Path(__file__).parents[2] / ".cache" / "kafka"
HOST = "localhost"  # what certificates are for
P = ParamSpec("P")
JAVA = ("java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The test runs on the loop of the events process: TLS that fails does so in another way there."""

    async def settled(*arguments: P.args, **keys: P.kwargs) -> None:
        before = _sockets()
        try:
            await test(*arguments, **keys)
        finally:
            with contextlib.suppress(TimeoutError):  # TLS has its goodbyes, and a loop must not end before them
                async with asyncio.timeout(10.0):
                    while _sockets() - before:
                        await asyncio.sleep(0.01)

    @functools.wraps(test)
    def run(*arguments: P.args, **keys: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(settled(*arguments, **keys))

    return run


def _sockets() -> set[str]:
    """Those that this process has open."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith("socket:"):
                found.add(target)
    return found


def stream_to(url: str, **keys: Any) -> Stream:
    """A stream that does not wait long."""
    return Stream(**{"name": "crm", "url": url, "timeout_s": 10.0} | keys)


@dataclass(frozen=True)
class Keys:
    """Two authorities that know nothing of each other, a server's certificate by the first, a client's by each."""

    folder: Path

    @cached_property
    def _authorities(self) -> tuple[Authority, Authority]:
        return Authority("Mail CA"), Authority("Other CA")

    @cached_property
    def ca(self) -> str:
        """The authority that everybody here should trust."""
        return str(self._authorities[0].write(self.folder, "ca")[0])

    @cached_property
    def other_ca(self) -> str:
        """One that issued nothing."""
        return str(self._authorities[1].write(self.folder, "other-ca")[0])

    @cached_property
    def server(self) -> tuple[str, str]:
        """Certificate and key of a server named localhost."""
        return self._issued("server", 0, ExtendedKeyUsageOID.SERVER_AUTH)

    @cached_property
    def client(self) -> tuple[str, str]:
        """Those of a client."""
        return self._issued("client", 0, ExtendedKeyUsageOID.CLIENT_AUTH)

    @cached_property
    def stranger(self) -> tuple[str, str]:
        """Those of a client that a server does not know."""
        return self._issued("stranger", 1, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issued(self, name: str, authority: int, usage: Any) -> tuple[str, str]:
        issued = self._authorities[authority].issue(HOST, common_name=name, extended=(usage,))
        chain, key = issued.write(self.folder, name)
        return str(chain), str(key)


class Poster:
    """Who is sent batches by HTTP, in threads of this process. `bodies` are those that were taken. It answers `status`;
    with `hold` it accepts and never answers, until `go_on`; `stop` and `start`: nobody listens, somebody does again."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.status = 200
        self.bodies: list[bytes] = []
        self.port = free_port()
        self.held = 0  # requests that wait
        self._gate = threading.Event()
        self._gate.set()
        poster = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                poster.held += 1
                poster._gate.wait()
                if poster.status == HTTPStatus.OK:
                    poster.bodies.append(body)
                poster.held -= 1
                with contextlib.suppress(ConnectionError):  # who was made to wait may have gone
                    self.send_response(poster.status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._handler = Handler
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self._server.daemon_threads = True
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def hold(self) -> None:
        self._gate.clear()

    def go_on(self) -> None:
        self._gate.set()

    def spans(self) -> list[Any]:
        """What it was sent by OTLP, in the order in which it came."""
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def __enter__(self) -> Poster:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self.stop()


class Collector:
    """A collector of OpenTelemetry's own code: OTLP by HTTP in, a file of JSON out."""

    PROGRAM = Path(__file__).parents[2] / ".cache" / "otelcol" / "otelcol"

    def __init__(self, folder: Path) -> None:
        if not self.PROGRAM.exists():
            pytest.skip("no OpenTelemetry collector in .cache/otelcol (see .ci/otelcol/main.go)")
        self.port = free_port()
        self._folder = folder
        self._file = folder / "traces.json"
        self._settings = folder / "otelcol.yaml"
        self._settings.write_text(
            "receivers:\n  otlp:\n    protocols:\n      http:\n"
            f'        endpoint: "127.0.0.1:{self.port}"\n'
            f'exporters:\n  file:\n    path: "{self._file}"\n    append: true\n    flush_interval: 50ms\n'
            "service:\n  telemetry:\n    metrics:\n      level: none\n"
            "  pipelines:\n    traces:\n      receivers: [otlp]\n      exporters: [file]\n"
        )
        self._ends = contextlib.ExitStack()

    def start(self) -> None:
        """It runs, until `stop`."""
        self._ends.enter_context(
            program(str(self.PROGRAM), "--config", f"file:{self._settings}", port=self.port, gently=True)
        )

    def stop(self) -> None:
        """What it has taken is in its file first."""
        self._ends.close()

    def spans(self) -> list[Any]:
        """What it was sent, in the order in which it came."""
        whole = self._file.read_bytes().splitlines() if self._file.exists() else []
        return [
            span
            for line in whole
            for resource in json_format.Parse(_hex_ids(line), ExportTraceServiceRequest()).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _hex_ids(line: bytes) -> str:
    """OTLP's JSON has ids in hexadecimal, where protobuf's has Base64."""

    def as_base64(found: re.Match[str]) -> str:
        return f'"{found[1]}":"{base64.b64encode(bytes.fromhex(found[2])).decode()}"'

    return re.sub(r'"(traceId|spanId|parentSpanId)":"([0-9a-f]*)"', as_base64, line.decode())


@contextmanager
def program(
    name: str, *arguments: str, port: int, patience_s: float = 60.0, gently: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, until the end of the block. `gently`: it may finish what it has begun."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    process = subprocess.Popen([found, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), f"{name} to listen", patience_s)
        assert process.poll() is None, f"{name} ended with status {process.returncode}"
        yield process
    finally:
        if gently:
            process.terminate()
        else:
            process.kill()  # who was stopped would not hear anything else
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def redis(folder: Path, port: int, *more: str, tls: Keys | None = None) -> Any:
    """A Redis that keeps nothing over its end; with `tls` it speaks nothing else."""
    settings = ["--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    if tls is None:
        settings += ["--port", str(port)]
    else:
        certificate, key = tls.server
        settings += ["--port", "0", "--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key]
        settings += ["--tls-ca-cert-file", tls.ca]
    return program("redis-server", *settings, *more, port=port)


def nats(folder: Path, port: int, settings: str = "", *, tls: Keys | None = None, verify: bool = False) -> Any:
    """A NATS with JetStream, whose messages outlive it; `verify`: it asks clients for a certificate."""
    text = f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}" }}\n{settings}\n'
    if tls is not None:
        certificate, key = tls.server
        asks = "true" if verify else "false"
        text += f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{tls.ca}", verify: {asks} }}'
    file = folder / "nats.conf"
    file.write_text(text)
    return program("nats-server", "-c", str(file), port=port)


class KafkaBroker:
    """One broker, which is its own controller. Its listeners are PLAIN, TLS, MUTUAL (which asks for a client
    certificate), SASL and SASL_TLS; `relay` may log in with PASSWORD by every mechanism."""

    USER = "relay"
    PASSWORD = "open-sesame"
    LISTENERS: ClassVar = {
        "PLAIN": "PLAINTEXT",
        "TLS": "SSL",
        "MUTUAL": "SSL",
        "SASL": "SASL_PLAINTEXT",
        "SASL_TLS": "SASL_SSL",
        "CONTROLLER": "PLAINTEXT",
    }

    MISSING = "Apache Kafka is not in .cache/kafka (.ci/install-peers brings it where there are java and mvn)"

    @staticmethod
    def is_there() -> bool:
        """Whether it can be run."""
        return (KAFKA_FOLDER / "complete").exists() and shutil.which("java") is not None

    def __init__(self, folder: Path, keys: Keys) -> None:
        if not self.is_there():
            pytest.skip(self.MISSING)
        self._folder = folder
        self._keys = keys
        self.ports = {name: free_port() for name in self.LISTENERS}
        self._settings = folder / "server.properties"
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        scram = [f"SCRAM-SHA-{n}=[name={self.USER},password={self.PASSWORD}]" for n in (256, 512)]
        added = [argument for one in scram for argument in ("--add-scram", one)]
        format_ = ("kafka.tools.StorageTool", "format", "-t", "A" * 22, "-c", str(self._settings), *added)
        done = subprocess.run([*self._java(), *format_], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def running(self) -> Any:
        """It runs; what it has outlives the block."""
        arguments = (*self._java()[1:], "kafka.Kafka", str(self._settings))
        return program("java", *arguments, port=self.ports["PLAIN"], patience_s=120.0)

    def url(self, listener: str, topic: str = "mail-events") -> str:
        """As a stream's."""
        scheme = "kafkas" if "SSL" in self.LISTENERS[listener] else "kafka"
        return f"{scheme}://{HOST}:{self.ports[listener]}/{topic}"

    def _java(self) -> Sequence[str]:
        return (*JAVA, "-cp", f"{KAFKA_FOLDER}/*")

    def _properties(self) -> dict[str, object]:
        listeners = {name: f"{name}://{HOST}:{port}" for name, port in self.ports.items()}
        certificate, key = map(Path, self._keys.server)
        store = self._folder / "broker.pem"
        store.write_bytes(key.read_bytes() + certificate.read_bytes())
        found: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{self.ports['CONTROLLER']}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAIN",
            "listeners": ",".join(listeners.values()),
            "advertised.listeners": ",".join(url for name, url in listeners.items() if name != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in self.LISTENERS.items()),
            "log.dirs": self._folder / "kafka-data",
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "offsets.topic.num.partitions": 1,
            "num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": store,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self._keys.ca,
            "listener.name.mutual.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        }
        for listener in ("sasl", "sasl_tls"):
            module = "org.apache.kafka.common.security"
            plain = f'{module}.plain.PlainLoginModule required user_{self.USER}="{self.PASSWORD}";'
            found[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain
            for digits in (256, 512):
                name = f"listener.name.{listener}.scram-sha-{digits}.sasl.jaas.config"
                found[name] = f"{module}.scram.ScramLoginModule required;"
        return found
