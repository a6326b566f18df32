"""Asking workers: whatever one of them does, the others' answers arrive."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from angarium.admin.model import MessageState, QueueFilter
from angarium.admin.workers import Question, Workers

NUMBER: msgspec.json.Decoder[int] = msgspec.json.Decoder(int)


async def test_answers_come_in_order_of_the_workers(start_workers: Callable[[int], Any]) -> None:
    fakes = await start_workers(3)
    for i, fake in enumerate(fakes):
        fake.results["count"] = 10 * i
    answers = await Workers([fake.path for fake in fakes]).ask(Question(op="count"), NUMBER)
    assert [(answer.worker, answer.result, answer.error) for answer in answers] == [
        (0, 0, None),
        (1, 10, None),
        (2, 20, None),
    ]
    assert fakes[2].questions == [{"op": "count"}]


async def test_a_question_carries_only_what_restricts(start_workers: Callable[[int], Any]) -> None:
    (fake,) = await start_workers(1)
    wanted = QueueFilter(limit=5, reverse_path="a@example.org", state=MessageState.HELD, older_than_s=60)
    await Workers([fake.path]).ask(Question(op="list", filter=wanted), NUMBER)
    assert fake.questions == [
        {"op": "list", "filter": {"limit": 5, "from": "a@example.org", "state": "held", "older_than_s": 60.0}}
    ]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (KeyError("x"), "'x'"),
        (b'{"ok": false}\n', "refused without a reason"),
        (b"", "closed the connection"),
        (b'{"ok": true, "result": 1}', "closed the connection"),
        (b"nonsense\n", "unreadable answer"),
        (b'{"ok": true, "result": "one"}\n', "unreadable answer"),
        (b'{"ok": true}\n', "unreadable answer"),
        (b"\xff\xfe\n", "unreadable answer"),
    ],
)
async def test_a_bad_answer_is_an_error_of_that_worker_only(
    start_workers: Callable[[int], Any], reply: object, error: str
) -> None:
    bad, good = await start_workers(2)
    bad.results["count"] = reply
    good.results["count"] = 7
    answers = await Workers([bad.path, good.path]).ask(Question(op="count"), NUMBER)
    assert not answers[0].answered
    assert error in str(answers[0].error)
    assert answers[1].result == 7


async def test_a_worker_that_is_not_there_is_named(tmp_path: Path) -> None:
    (answer,) = await Workers([tmp_path / "gone"]).ask(Question(op="count"), NUMBER)
    assert answer.error == "No such file or directory"


async def test_a_silent_worker_is_given_up(start_workers: Callable[[int], Any]) -> None:
    (fake,) = await start_workers(1)
    fake.results["count"] = fake.silent
    (answer,) = await Workers([fake.path], timeout_s=0.05).ask(Question(op="count"), NUMBER)
    assert answer.error == "no answer within 0.05 s"


async def test_an_endless_answer_is_given_up(
    start_workers: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("angarium.admin.workers.REPLY_MAX_OCTETS", 1000)
    (fake,) = await start_workers(1)
    fake.results["count"] = b"1" * 5000
    (answer,) = await Workers([fake.path]).ask(Question(op="count"), NUMBER)
    assert answer.error == "answer longer than 1000 octets"


async def test_one_worker_after_the_other_until_one_answers(start_workers: Callable[[int], Any]) -> None:
    bad, good, spared = await start_workers(3)
    bad.results["submit"] = KeyError("no journal takes it")
    good.results["submit"] = 7
    workers = Workers([bad.path.with_name("gone"), bad.path, good.path, spared.path])
    question = Question(op="submit", reverse_path="a@example.org", recipient="b@example.org", mail_data="x")
    answer = await workers.ask_any(question, NUMBER)
    assert (answer.worker, answer.result) == (2, 7)
    assert good.questions == [
        {"op": "submit", "reverse_path": "a@example.org", "recipient": "b@example.org", "mail_data": "x"}
    ]
    assert spared.questions == []
    answer = await Workers([bad.path.with_name("gone"), bad.path]).ask_any(question, NUMBER)
    assert (answer.result, answer.error) == (None, "'no journal takes it'")
    assert (await Workers([]).ask_any(question, NUMBER)).error == "there are no workers"
