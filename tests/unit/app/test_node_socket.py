"""How commands reach a running node: one line, one answer, and nobody can hold it up."""

from __future__ import annotations

import json
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from angarium.app.node_socket import LONGEST_REQUEST, MOST_CLIENTS, Client, NodeSocket, Request, ask, node_socket_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Desk:
    """A NodeSocket that a thread serves, as the supervisor does."""

    def __init__(self, spool: Path) -> None:
        path = node_socket_path(spool)
        path.parent.mkdir(parents=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen()
        self.asked: list[Request] = []
        self.held: list[Client] = []
        self.node = NodeSocket(listening, self._on_request)
        self._wake, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _on_request(self, request: Request, client: Client) -> None:
        self.asked.append(request)
        if request.op == "stop":
            self.held.append(client)
            client.close()
        else:
            client.answer({"ok": True, "op": request.op, "on": request.on})

    def _serve(self) -> None:
        while True:
            readable, _, _ = select.select([self._end, *self.node.files], [], [])
            if self._end in readable:
                return
            for fd in readable:
                self.node.on_readable(fd)

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join()
        self.node.close()
        for client in self.node.clients.values():
            client.close()
        self._wake.close()
        self._end.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def test_a_request_is_answered(desk: Desk, tmp_path: Path) -> None:
    assert ask(tmp_path, Request("drain", on=False), 30) == {"ok": True, "op": "drain", "on": False}
    assert ask(tmp_path, Request("reload"), 30) == {"ok": True, "op": "reload", "on": True}
    assert [request.op for request in desk.asked] == ["drain", "reload"]


def test_an_end_without_an_answer_is_none(desk: Desk, tmp_path: Path) -> None:
    assert ask(tmp_path, Request("stop"), 30) is None
    assert desk.held


def raw(tmp_path: Path, octets: bytes) -> Any:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(node_socket_path(tmp_path)))
        client.sendall(octets)
        answer = client.recv(10_000)
    return json.loads(answer) if answer else None


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b'{"op": "explode"}\n', b'{"op": "stop", "now": 1}\n', b"\xff\n"])
def test_what_is_no_request_is_answered_with_an_error(desk: Desk, tmp_path: Path, line: bytes) -> None:
    answer = raw(tmp_path, line)
    assert answer["ok"] is False
    assert answer["error"]
    assert desk.asked == []


def test_a_request_without_an_end_is_not_gathered_for_ever(desk: Desk, tmp_path: Path) -> None:
    assert raw(tmp_path, b"x" * (LONGEST_REQUEST + 1)) is None
    assert desk.asked == []


def test_clients_that_say_nothing_shut_nobody_out_for_long(desk: Desk, tmp_path: Path) -> None:
    silent = []
    for _ in range(MOST_CLIENTS):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(node_socket_path(tmp_path)))
        silent.append(client)
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(ask(tmp_path, Request("status"), 30)))
    waiting.start()
    for client in silent:
        client.close()
    waiting.join()
    assert answers == [{"ok": True, "op": "status", "on": True}]


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask(tmp_path, Request("status"), 1)
