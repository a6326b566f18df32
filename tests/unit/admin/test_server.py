"""The admin process as the supervisor sees it: it says when it listens, serves, and ends when told."""

import contextlib
import http.client
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from angarium._core.counters import Slab, Slot
from angarium.admin.server import bind, read_token, run
from angarium.config.address import ListenAddress
from angarium.config.model import Admin, Config, Node
from tests.support.clients import PATIENCE_S
from tests.support.heartbeats import board_of

SCRIPT = """
import sys
from angarium.admin.heartbeat import Board
from angarium.admin.server import run
from angarium.config.address import ListenAddress
from angarium.config.model import Admin, Config, Node

spool, listen, token_file, slab_fd, sock_fd, ready_fd, *sockets = sys.argv[1:]
config = Config(
    node=Node(hostname="relay.example.org", spool=spool),
    listener=(),
    admin=Admin(listen=ListenAddress.parse(listen), token_file=token_file or None),
    sandbox=True,
)
run(config, int(slab_fd), sockets, Board.create(1), sock_fd=int(sock_fd) if sock_fd else None, ready_fd=int(ready_fd))
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def slab() -> Iterator[Slab]:
    slab = Slab.create(2)
    yield slab
    slab.close()


@pytest.fixture
def start(slab: Slab, tmp_path: Path) -> Iterator[Start]:
    """Start an admin process and wait until it says that it is ready."""
    with contextlib.ExitStack() as stack:

        def begin(listen: str, sock: socket.socket | None = None, token_file: str = "") -> subprocess.Popen[str]:
            ready, ready_there = os.pipe()
            fds = [slab.fd, ready_there] + ([sock.fileno()] if sock else [])
            process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path), listen, token_file, str(slab.fd)),
                    *(str(sock.fileno()) if sock else "", str(ready_there), str(tmp_path / "no-worker")),
                ],
                pass_fds=fds,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(end, process)
            os.close(ready_there)
            with open(ready, "rb") as pipe:
                assert select.select([pipe], [], [], PATIENCE_S)[0]
                assert pipe.read() == b"1", process.stderr.read() if process.stderr else ""
            return process

        yield begin


def end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate(timeout=PATIENCE_S)


def get(connection: http.client.HTTPConnection, path: str, token: str = "") -> tuple[int, str]:
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_on_a_socket_of_the_supervisor_and_ends_in_order(start: Start, slab: Slab, number: int) -> None:
    slab.region(0).add(Slot.OUTCOME_EVENTS, 42)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        process = start("127.0.0.1:1", sock)
        connection = http.client.HTTPConnection("127.0.0.1", sock.getsockname()[1], timeout=PATIENCE_S)
    status, text = get(connection, "/metrics")
    assert status == 200
    assert "angarium_outcome_events_total 42.0" in text
    assert get(connection, "/readyz")[0] == 503
    assert '"sandbox":true' in get(connection, "/api/v1/status")[1]
    connection.close()
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")


def test_it_binds_a_unix_socket_and_asks_for_its_token(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    (tmp_path / "token").write_text("0123456789abcdef\n")
    start(f"unix:{path}", token_file=str(tmp_path / "token"))
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert get(connection, "/api/v1/sandbox/messages")[0] == 401
    assert get(connection, "/api/v1/sandbox/messages", "0123456789abcdef") == (200, '{"total":0,"messages":[]}')
    connection.close()


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    address = ListenAddress(path=str(tmp_path / "admin.sock"))
    bind(address).close()
    with bind(address), pytest.raises(OSError, match="in use"):
        bind(address)


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "admin.sock").write_text("precious")
    with pytest.raises(OSError, match="in use"):
        bind(ListenAddress(path=str(tmp_path / "admin.sock")))
    assert (tmp_path / "admin.sock").read_text() == "precious"


def test_a_port_in_use_is_an_error() -> None:
    with bind(ListenAddress(host="127.0.0.1")) as first, pytest.raises(OSError, match="in use"):
        bind(ListenAddress(host="127.0.0.1", port=first.getsockname()[1]))


def test_the_token_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  0123456789abcdef  \nsecond line\n")
    assert read_token(path) == "0123456789abcdef"


@pytest.mark.parametrize("text", ["", "\n0123456789abcdef", "short", "0123456789 abcdef", "0123456789abcdé0"])
def test_a_token_that_is_no_secret_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(ValueError, match="token must be"):
        read_token(path)


def test_a_token_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_token(tmp_path / "none")


def test_the_world_is_not_served_without_a_token(slab: Slab) -> None:
    config = Config(
        node=Node(hostname="relay.example.org", spool="/nowhere"),
        listener=(),
        admin=Admin(listen=ListenAddress.parse("0.0.0.0:0")),
    )
    with pytest.raises(ValueError, match="token_file is needed"):
        run(config, slab.fd, [], board_of(0))
