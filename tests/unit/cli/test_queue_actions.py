"""Commands that change something: whom they mean, what they ask first, what they ask of the API, how they end."""

from __future__ import annotations

import io
import json
import socketserver
import tarfile
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from click.testing import CliRunner, Result

from angarium.admin.archive import TarArchive
from angarium.admin.model import MeantMessages, NewSuspension, Operation, Preview, QueueAction, SuspensionReport
from angarium.cli import selection
from angarium.cli.queue import queue
from angarium.cli.suspend import resume, suspend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import click

ID = "0123456789ABC"
OPERATION: dict[str, Any] = {
    "id": "5f",
    "action": "hold",
    "state": "done",
    "by": "ada",
    "reason": "why",
    "started": "2026-01-02T03:04:05.000Z",
    "ended": "2026-01-02T03:04:06.000Z",
    "selected": 1234,
    "done": 1230,
    "under_way": 4,
    "unchanged": 0,
    "others": 0,
    "failed": 0,
    "errors": [],
}
SAMPLE = {
    "id": ID,
    "state": "scheduled",
    "reverse_path": "news@example.org",
    "octets": 2048,
    "received": "2026-01-02T03:04:05.000Z",
    "tenant": None,
    "recipients": [
        {
            "address": "r@\x1bexample.net",
            "state": "queued",
            "attempts": 0,
            "reply": None,
            "next_attempt": None,
        }
    ],
}
PREVIEW: dict[str, Any] = {
    "messages": 1234,
    "recipients": 2000,
    "octets": 3 * 1024**2,
    "oldest": "2026-01-01T00:00:00.000Z",
    "under_way": 4,
    "samples": [SAMPLE],
    "before": "2026-01-02T03:04:05.678901Z",
}
SUSPENSION = {
    "kind": "domain",
    "name": "example.net",
    "reason": "blocked",
    "by": "ada",
    "since": "2026-01-02T03:04:05.000Z",
    "until": "2026-01-02T05:04:05.000Z",
}


class FakeApi:
    """Answers what a test has put under method and path, one after the other; the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, Any]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                target = urlsplit(self.path)
                octets = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                query = {name: value for name, (value,) in parse_qs(target.query).items()}
                if octets:
                    assert self.headers["Content-Type"] == "application/json"
                asked = f"{self.command} {target.path.removeprefix('/api/v1/')}"
                api.asked.append((asked, json.loads(octets) if octets else query))
                given = api.answers.get(asked, [(404, {"status_code": 404, "detail": "not here"})])
                code, value = given.pop(0) if len(given) > 1 else given[0]
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.handler = Handler


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def admin(api: FakeApi) -> Iterator[str]:
    with socketserver.TCPServer(("127.0.0.1", 0), api.handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits there."""
    monkeypatch.setattr(selection, "is_interactive", lambda: True)


def run(command: click.Command, admin: str, *arguments: str, typed: str | None = None) -> Result:
    unset = {"ANGARIUM_ADMIN": admin, "ANGARIUM_CONFIG": None, "ANGARIUM_TOKEN_FILE": None, "SUDO_USER": "ada"}
    return CliRunner().invoke(command, arguments, input=typed, env=unset)


def bodies(api: FakeApi, asked: str) -> list[Any]:
    return [body for where, body in api.asked if where == asked]


def test_the_answers_and_bodies_used_here_are_of_the_apis_shapes() -> None:
    for value, shape in ((OPERATION, Operation), (PREVIEW, Preview), (SUSPENSION, SuspensionReport)):
        decoded = msgspec.json.decode(json.dumps(value), type=shape, strict=True)
        assert json.loads(msgspec.json.encode(decoded)) == value


# ------------------------------------------------------------------ who is meant


def test_conditions_are_handed_on(api: FakeApi, admin: str) -> None:
    api.answers["POST queue/hold"] = [(200, OPERATION)]
    words = "--to-domain example.net --from <a@example.org> --tenant shop --state in-doubt --older-than 1h30m --limit 5"
    result = run(queue, admin, "hold", *words.split(), "--reason", "why", "--yes")
    assert result.exit_code == 0
    ((_, body),) = api.asked
    msgspec.convert(body, QueueAction, strict=True)
    assert body.pop("wait_s") > 0
    assert body == {
        "to_domain": "example.net",
        "from": "a@example.org",
        "tenant": "shop",
        "state": "in_doubt",
        "older_than_s": 5400.0,
        "limit": 5,
        "reason": "why",
        "by": "ada",
    }
    assert result.stdout == "held 1,230 messages\n  4 were being delivered and were left alone\n"


def test_the_null_reverse_path_can_be_meant(api: FakeApi, admin: str) -> None:
    api.answers["POST queue/retry"] = [(200, OPERATION)]
    assert run(queue, admin, "retry", "--from", "<>", "--yes").exit_code == 0
    assert api.asked[0][1]["from"] == ""


@pytest.mark.parametrize("action", ["hold", "release", "retry", "delete", "bounce", "export"])
@pytest.mark.parametrize(
    "words", ["", "--limit 5", f"{ID} --all", f"{ID} --tenant x", f"{ID} --limit 1", "--all --state lost"]
)
def test_naming_no_message_or_naming_them_twice_is_wrong_usage(
    api: FakeApi, admin: str, action: str, words: str, tmp_path: Path
) -> None:
    more = ["--to", str(tmp_path)] if action == "export" else ["--yes"]
    result = run(queue, admin, action, *words.split(), *more)
    assert result.exit_code == 2
    assert api.asked == []


# ------------------------------------------------------------------ what is asked first


@pytest.mark.parametrize(
    ("action", "meant", "asks"),
    [
        ("delete", ID, True),
        ("bounce", ID, True),
        ("hold", ID, False),
        ("release", ID, False),
        ("retry", ID, False),
        ("hold", "--all", True),
        ("release", "--state held", True),
        ("retry", "--tenant shop", True),
    ],
)
def test_without_a_terminal_what_would_ask_is_refused(
    api: FakeApi, admin: str, action: str, meant: str, asks: bool
) -> None:
    api.answers[f"POST queue/{action}"] = [(200, {**OPERATION, "selected": 1, "done": 1})]
    result = run(queue, admin, action, *meant.split())
    if asks:
        assert result.exit_code == 2
        assert "no terminal to ask on" in result.stderr
        assert "--yes" in result.stderr
        assert api.asked == []
        assert run(queue, admin, action, *meant.split(), "--yes").exit_code == 0
    else:
        assert result.exit_code == 0
    assert [body.get("dry_run") for body in bodies(api, f"POST queue/{action}")] == [None]


@pytest.mark.usefixtures("terminal")
def test_yes_to_the_question_acts_on_what_was_shown(api: FakeApi, admin: str) -> None:
    api.answers["POST queue/delete"] = [(200, PREVIEW), (200, {**OPERATION, "action": "delete"})]
    result = run(queue, admin, "delete", "--tenant", "shop", typed="y\n")
    assert result.exit_code == 0
    asked, done = bodies(api, "POST queue/delete")
    assert asked == {"tenant": "shop", "dry_run": True}
    assert (done["tenant"], done["before"], "dry_run" in done) == ("shop", PREVIEW["before"], False)
    for wanted in (
        "delete would meet 1,234 messages for 2,000 recipients, 3.0 MiB, the oldest of 2026-01-01T00:00:00.000Z",
        "4 of them are being delivered at this moment",
        ID,
        "r@\\x1bexample.net",
        "and 1,233 more",
        "Delete these 1,234 messages?",
    ):
        assert wanted in result.stderr
    assert result.stdout == "deleted 1,230 messages\n  4 were being delivered and were left alone\n"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("typed", ["n\n", "\n", ""])
def test_no_to_the_question_does_nothing(api: FakeApi, admin: str, typed: str) -> None:
    api.answers["POST queue/bounce"] = [(200, PREVIEW)]
    result = run(queue, admin, "bounce", "--all", typed=typed)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert [body["dry_run"] for body in bodies(api, "POST queue/bounce")] == [True]


@pytest.mark.usefixtures("terminal")
def test_when_nothing_matches_nothing_is_asked(api: FakeApi, admin: str) -> None:
    api.answers["POST queue/delete"] = [(200, {**PREVIEW, "messages": 0, "samples": [], "oldest": None})]
    result = run(queue, admin, "delete", "--tenant", "nobody")
    assert (result.exit_code, result.stderr) == (0, "no messages match\n")


def test_a_dry_run_only_looks(api: FakeApi, admin: str) -> None:
    api.answers["POST queue/delete"] = [(200, PREVIEW)]
    result = run(queue, admin, "delete", "--all", "--dry-run")
    assert (result.exit_code, result.stdout.splitlines()[0][:32]) == (0, "delete would meet 1,234 messages")
    as_json = run(queue, admin, "delete", ID, "--dry-run", "--json")
    assert json.loads(as_json.stdout) == PREVIEW
    assert bodies(api, "POST queue/delete") == [{"all": True, "dry_run": True}, {"ids": [ID], "dry_run": True}]


# ------------------------------------------------------------------ to the end


def test_a_running_operation_is_followed_to_its_end(api: FakeApi, admin: str) -> None:
    running = {**OPERATION, "state": "running", "ended": None}
    api.answers["POST queue/hold"] = [(202, running)]
    api.answers["GET operations/5f"] = [(202, running), (200, OPERATION)]
    result = run(queue, admin, "hold", "--all", "--yes", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == OPERATION
    assert len(bodies(api, "GET operations/5f")) == 2


def test_an_interrupt_cancels_it(api: FakeApi, admin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    api.answers["POST queue/hold"] = [(202, {**OPERATION, "state": "running"})]
    api.answers["DELETE operations/5f"] = [(200, {**OPERATION, "state": "cancelled", "done": 7})]

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("angarium.cli.client.RelayClient.get", interrupted)
    result = run(queue, admin, "hold", "--all", "--yes")
    assert result.exit_code == 1
    assert "held 7 messages" in result.stdout
    assert "cancelled" in result.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"failed": 2, "errors": [f"{ID}: Input/output error \x1b"]}, "Input/output error \\x1b"),
        ({"state": "failed", "errors": ["worker 1: gone"]}, "worker 1: gone"),
        ({"selected": 0, "done": 0, "under_way": 0}, "1 of the messages named are not in the queue"),
    ],
)
def test_what_failed_is_said_with_exit_status_1(api: FakeApi, admin: str, change: dict[str, Any], said: str) -> None:
    api.answers["POST queue/retry"] = [(200, {**OPERATION, **change})]
    result = run(queue, admin, "retry", ID)
    assert result.exit_code == 1
    assert said in result.stderr


def test_what_the_api_objects_is_one_line(api: FakeApi, admin: str) -> None:
    api.answers["POST queue/retry"] = [(400, {"status_code": 400, "detail": "not a queue id: '0A'"})]
    result = run(queue, admin, "retry", "0A")
    assert (result.exit_code, result.stderr) == (1, "not a queue id: '0A'\n")
    invalid = {"status_code": 400, "detail": "Validation failed", "extra": [{"message": "Expected `str`", "key": "by"}]}
    api.answers["POST queue/retry"] = [(400, invalid)]
    assert run(queue, admin, "retry", "0A").stderr == "Validation failed: Expected `str`\n"


# ------------------------------------------------------------------ export


def archive(*entries: tuple[str, bytes], report: dict[str, Any] | None) -> bytes:
    made = TarArchive()
    octets = b"".join(made.member(name, content) for name, content in entries)
    return octets + (made.end(report) if report is not None else b"")


REPORT = {"messages": 1, "octets": 9, "failures": []}
ENTRIES = ((f"{ID}.eml", b"mail\r\n\0\xff\n"), (f"{ID}.json", b'{"id": 1}\n'))


def test_export_writes_files(api: FakeApi, admin: str, tmp_path: Path) -> None:
    api.answers["POST queue/export"] = [(200, archive(*ENTRIES, report=REPORT))]
    folder = tmp_path / "a" / "b"
    result = run(queue, admin, "export", "--state", "held", "--to", str(folder))
    assert (result.exit_code, result.stdout) == (0, f"1 messages, 9 B, written into {folder}\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == dict(ENTRIES)
    ((_, body),) = api.asked
    assert msgspec.convert(body, MeantMessages, strict=False).state is not None
    assert (folder / f"{ID}.eml").stat().st_mode & 0o777 == 0o600
    again = run(queue, admin, "export", ID, "--to", str(folder), "--json")
    assert json.loads(again.stdout) == REPORT


def test_export_writes_a_maildir(api: FakeApi, admin: str, tmp_path: Path) -> None:
    import mailbox

    api.answers["POST queue/export"] = [
        (200, archive((f"{ID}.eml", b"Subject: x\n\nbody\n"), ENTRIES[1], report=REPORT))
    ]
    assert run(queue, admin, "export", "--all", "--to", str(tmp_path / "box"), "--format", "maildir").exit_code == 0
    (message,) = mailbox.Maildir(tmp_path / "box")
    assert message["subject"] == "x"
    assert (tmp_path / "box" / "envelopes" / f"{ID}.json").read_bytes() == ENTRIES[1][1]


def test_an_export_that_is_not_whole_is_a_failure(api: FakeApi, admin: str, tmp_path: Path) -> None:
    whole = archive(*ENTRIES, report=REPORT)
    cases = (whole[:700], whole[:1536], archive(*ENTRIES, report=None), b"", b"x" * 5000)
    for number, octets in enumerate(cases):
        api.answers["POST queue/export"] = [(200, octets)]
        result = run(queue, admin, "export", "--all", "--to", str(tmp_path / str(number)))
        assert result.exit_code == 1, number
        assert "the export ended before its end" in result.stderr
    api.answers["POST queue/export"] = [(200, archive(*ENTRIES, report={**REPORT, "failures": ["worker 1: gone"]}))]
    result = run(queue, admin, "export", "--all", "--to", str(tmp_path / "part"))
    assert (result.exit_code, result.stderr) == (1, "worker 1: gone\n")


@pytest.mark.parametrize("name", ["../evil.eml", "/etc/evil", "evil", f"{ID}.sh", f"x/{ID}.eml"])
def test_an_export_writes_no_file_of_another_name(api: FakeApi, admin: str, tmp_path: Path, name: str) -> None:
    api.answers["POST queue/export"] = [(200, archive((name, b"evil"), report=REPORT))]
    result = run(queue, admin, "export", "--all", "--to", str(tmp_path / "x"))
    assert result.exit_code == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_export_writes_no_link(api: FakeApi, admin: str, tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        link = tarfile.TarInfo(f"{ID}.eml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    api.answers["POST queue/export"] = [(200, made.getvalue())]
    assert run(queue, admin, "export", "--all", "--to", str(tmp_path)).exit_code == 1
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ suspend, resume


def test_suspend_each_that_is_named(api: FakeApi, admin: str) -> None:
    api.answers["POST suspensions"] = [(200, SUSPENSION)]
    words = "--domain example.net --domain b.test --tenant shop --reason blocked --for 2h"
    result = run(suspend, admin, *words.split())
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "domain example.net is suspended until 2026-01-02T05:04:05.000Z"
    posted = bodies(api, "POST suspensions")
    assert [(body["kind"], body["name"]) for body in posted] == [
        ("domain", "example.net"),
        ("domain", "b.test"),
        ("tenant", "shop"),
    ]
    for body in posted:
        wanted = msgspec.convert(body, NewSuspension, strict=True)
        assert (wanted.for_s, wanted.reason, wanted.by) == (7200.0, "blocked", "ada")


def test_a_suspension_lasts_a_day_unless_told(api: FakeApi, admin: str) -> None:
    api.answers["POST suspensions"] = [(200, SUSPENSION)]
    result = run(suspend, admin, "--site", "mx.test", "--reason", "x", "--json")
    assert json.loads(result.stdout) == [SUSPENSION]
    assert api.asked[0][1]["for_s"] == 86400.0


@pytest.mark.parametrize(
    "words", ["", "--reason x", "--domain a.test", "--domain a.test --reason x --for 0s", "--source a --for soon"]
)
def test_suspend_wants_a_target_a_reason_and_a_time(api: FakeApi, admin: str, words: str) -> None:
    assert run(suspend, admin, *words.split()).exit_code == 2
    assert api.asked == []


def test_suspensions_are_listed(api: FakeApi, admin: str) -> None:
    api.answers["GET suspensions"] = [(200, [SUSPENSION])]
    result = run(suspend, admin, "list")
    assert result.exit_code == 0
    for wanted in ("domain", "example.net", "ada", "blocked", "2026-01-02T05:04:05.000Z"):
        assert wanted in result.stdout
    assert json.loads(run(suspend, admin, "list", "--json").stdout) == [SUSPENSION]
    api.answers["GET suspensions"] = [(200, [])]
    assert run(suspend, admin, "list").stdout == "nothing is suspended\n"


def test_resume_one_or_all(api: FakeApi, admin: str) -> None:
    api.answers["DELETE suspensions"] = [(200, SUSPENSION)]
    api.answers["GET suspensions"] = [(200, [SUSPENSION, {**SUSPENSION, "kind": "source", "name": "192.0.2.1"}])]
    assert run(resume, admin, "--domain", "example.net").stdout == "domain example.net is resumed\n"
    assert len(json.loads(run(resume, admin, "--all", "--json").stdout)) == 2
    assert bodies(api, "DELETE suspensions") == [
        {"kind": "domain", "name": "example.net"},
        {"kind": "domain", "name": "example.net"},
        {"kind": "source", "name": "192.0.2.1"},
    ]
    for words in ("", "--all --domain x"):
        assert run(resume, admin, *words.split()).exit_code == 2
    api.answers["DELETE suspensions"] = [(404, {"status_code": 404, "detail": "domain x is not suspended"})]
    missing = run(resume, admin, "--domain", "x")
    assert (missing.exit_code, missing.stderr) == (1, "domain x is not suspended\n")
