"""A board of heartbeats on which all is well."""

from __future__ import annotations

from angarium.admin.heartbeat import Board, State


def board_of(workers: int, *others: str) -> Board:
    """All is well: the supervisor, the workers, and processes of these kinds."""
    board = Board.create(workers)
    for kind, number in [("supervisor", 0), *(("worker", i) for i in range(workers)), *((kind, 0) for kind in others)]:
        board.starting(kind, number, 0)
        board.started(kind, number, 4000 + number)
        board.heart(kind, number).say(State.SERVING)
    return board
