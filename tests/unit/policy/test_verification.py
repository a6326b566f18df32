"""Log-ins of a node: which back end decides, what is remembered, what a failure costs, and what a ban spares."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import argon2
import pytest
from scramp import ScramClient  # type: ignore[import-untyped]

from angarium._core.counters import Slot
from angarium.config.address import Network
from angarium.config.credentials import Access
from angarium.policy import credentials_file, verification
from angarium.policy.access_protocol import PasswordAttempt, ScramFinal, ScramFirst, TokenAttempt, Verdict
from angarium.policy.back_end import BackEnd, Finding, Found, VerifierBusy, VerifierPool
from angarium.policy.credentials_file import editing, make_entry
from angarium.policy.failure_table import FailureTable
from angarium.policy.file_back_end import FileBackEnd
from angarium.policy.verification import Verification
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = "192.0.2.1"


class Scripted(BackEnd):
    """A back end that says what it is told to, and counts what it is asked. `gate`: it waits for that first."""

    def __init__(self, *findings: Found | Exception) -> None:
        self.findings = list(findings)
        self.asked: list[PasswordAttempt | TokenAttempt] = []
        self.gate: asyncio.Event | None = None

    async def password(self, attempt: PasswordAttempt) -> Found:
        return await self._say(attempt)

    async def token(self, attempt: TokenAttempt) -> Found:
        return await self._say(attempt)

    async def _say(self, attempt: PasswordAttempt | TokenAttempt) -> Found:
        self.asked.append(attempt)
        if self.gate is not None:
            await self.gate.wait()
        said = self.findings.pop(0) if len(self.findings) > 1 else self.findings[0]
        if isinstance(said, Exception):
            raise said
        return said


class Node:
    """A Verification with a clock of its own: waiting turns it."""

    def __init__(self, *back_ends: BackEnd, **access: Any) -> None:
        self.clock = FakeClock()
        self.counted: list[Slot] = []
        self.told: list[tuple[str, dict[str, object]]] = []
        self.waited: list[float] = []
        settings = Access(**access)
        self.table = FailureTable(settings, self.clock.monotonic)
        self.verification = Verification(
            settings,
            back_ends,
            self.table,
            monotonic=self.clock.monotonic,
            sleep=self._sleep,
            count=self.counted.append,
            events=self,
        )

    def event(self, event: str, fields: dict[str, object], /) -> None:
        self.told.append((event, fields))

    async def _sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.clock.advance(seconds)

    async def password(self, log_in: str = "user", password: str = "secret", address: str = ADDRESS) -> Verdict:
        return await self.verification.password(PasswordAttempt(log_in, password, address, "submission", "PLAIN"))


ACCEPTED, REFUSED = Found(Finding.ACCEPTED, "user"), Found(Finding.REFUSED, "user")
UNKNOWN, UNAVAILABLE = Found(Finding.UNKNOWN), Found(Finding.UNAVAILABLE)


# ------------------------------------------------------------------ who decides


@pytest.mark.parametrize(
    ("findings", "outcome", "asked"),
    [
        ([ACCEPTED, REFUSED], "accepted", 1),
        ([REFUSED, ACCEPTED], "refused", 1),
        ([UNKNOWN, ACCEPTED], "accepted", 2),
        ([UNKNOWN, UNKNOWN], "refused", 2),
        ([UNAVAILABLE, ACCEPTED], "accepted", 2),
        ([UNAVAILABLE, REFUSED], "refused", 2),
        ([UNAVAILABLE, UNKNOWN], "unavailable", 2),
        ([UNKNOWN, UNAVAILABLE], "unavailable", 2),
    ],
)
async def test_the_first_back_end_that_knows_decides(findings: list[Found], outcome: str, asked: int) -> None:
    back_ends = [Scripted(finding) for finding in findings]
    node = Node(*back_ends)
    assert (await node.password()).outcome == outcome
    assert sum(len(back_end.asked) for back_end in back_ends) == asked


async def test_a_log_in_may_have_another_name_from_here_on() -> None:
    node = Node(Scripted(Found(Finding.ACCEPTED, "alice@example.org")))
    assert await node.password("alice") == Verdict("accepted", "alice@example.org")


@pytest.mark.parametrize("name", ["", "a\nb", "a" * 256])
async def test_a_name_that_is_none_is_refused(name: str) -> None:
    assert (await Node(Scripted(Found(Finding.ACCEPTED, name))).password()).outcome == "refused"


async def test_tokens_are_asked_for_each_time() -> None:
    back_end = Scripted(ACCEPTED)
    node = Node(back_end)
    for _ in range(2):
        assert (await node.verification.token(TokenAttempt("user", "t", ADDRESS, "s", "XOAUTH2"))).outcome == "accepted"
    assert len(back_end.asked) == 2


async def test_why_a_token_is_refused_reaches_the_client() -> None:
    node = Node(Scripted(Found(Finding.REFUSED, message='{"status":"invalid_token"}')))
    verdict = await node.verification.token(TokenAttempt("", "t", ADDRESS, "s", "OAUTHBEARER"))
    assert verdict == Verdict("refused", message='{"status":"invalid_token"}')


# ------------------------------------------------------------------ what is remembered


async def test_a_password_that_was_right_is_right_again_without_a_look() -> None:
    back_end = Scripted(ACCEPTED)
    node = Node(back_end, remember_s=300.0)
    for _ in range(3):
        assert (await node.password()).outcome == "accepted"
    assert len(back_end.asked) == 1
    assert node.counted.count(Slot.INGRESS_VERIFIED_REMEMBERED) == 2
    node.clock.advance(300)
    await node.password()
    assert len(back_end.asked) == 2


async def test_nothing_is_remembered_when_the_time_is_0() -> None:
    back_end = Scripted(ACCEPTED)
    node = Node(back_end, remember_s=0.0)
    await node.password()
    await node.password()
    assert len(back_end.asked) == 2


async def test_another_password_or_log_in_is_another_question() -> None:
    back_end = Scripted(ACCEPTED)
    node = Node(back_end)
    await node.password("user", "secret")
    await node.password("user", "Secret")
    await node.password("users", "ecret")
    assert len(back_end.asked) == 3


async def test_the_same_wrong_password_is_no_news() -> None:
    """A device with an old password repeats it for ever: it is slow, and not banned for it."""
    back_end = Scripted(REFUSED)
    node = Node(back_end, address_failures=3, log_in_failures=3, delay_s=0.1, longest_delay_s=0.1)
    for _ in range(20):
        assert (await node.password()).outcome == "refused"
    assert len(back_end.asked) == 1
    assert len(node.waited) == 20
    assert not node.table.bans()


async def test_a_password_that_is_set_after_it_was_tried_is_right_soon() -> None:
    node = Node(Scripted(REFUSED, ACCEPTED))
    await node.password()
    node.clock.advance(verification.WRONG_S)
    assert (await node.password()).outcome == "accepted"


async def test_no_password_is_kept() -> None:
    node = Node(Scripted(ACCEPTED, REFUSED))
    await node.password("user", "hunter2")
    await node.password("user", "hunter3")
    assert "hunter" not in repr(vars(node.verification))
    assert "hunter" not in json.dumps(node.told)
    assert "hunter" not in repr(PasswordAttempt("user", "hunter2", "", "", ""))


async def test_memory_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "MOST_REMEMBERED", 2)
    back_end = Scripted(ACCEPTED)
    node = Node(back_end)
    for password in ("a", "b", "c", "a"):
        await node.password(password=password)
    assert len(back_end.asked) == 4


# ------------------------------------------------------------------ what a failure costs


async def test_a_failure_is_answered_after_its_delay_however_long_the_look_took() -> None:
    node = Node(Scripted(REFUSED), delay_s=2.0)
    slow = node.verification._back_ends[0]
    assert isinstance(slow, Scripted)

    async def look(attempt: PasswordAttempt) -> Found:
        node.clock.advance(0.5)
        return REFUSED

    slow.password = look  # type: ignore[method-assign]
    begun = node.clock.monotonic()
    await node.password()
    assert node.clock.monotonic() - begun == 2.0
    assert node.waited == [1.5]


async def test_known_and_unknown_log_ins_are_answered_at_the_same_time() -> None:
    times = []
    for finding in (REFUSED, UNKNOWN):
        node = Node(Scripted(finding), delay_s=1.0)
        begun = node.clock.monotonic()
        await node.password()
        times.append(node.clock.monotonic() - begun)
    assert times[0] == times[1] == 1.0


async def test_a_right_password_and_a_back_end_that_is_away_are_answered_at_once() -> None:
    node = Node(Scripted(ACCEPTED, UNAVAILABLE))
    await node.password(password="a")
    await node.password(password="b")
    assert node.waited == []


async def test_a_ban_spares_the_back_ends() -> None:
    back_end = Scripted(REFUSED)
    node = Node(back_end, address_failures=3)
    for number in range(3):
        assert (await node.password("user", f"guess{number}")).outcome == "refused"
    assert (await node.password("user", "guess4")).outcome == "banned"
    assert (await node.password("other", "secret")).outcome == "banned"
    assert (await node.verification.token(TokenAttempt("", "t", ADDRESS, "s", "XOAUTH2"))).outcome == "banned"
    assert len(back_end.asked) == 3
    assert (await node.password("user", "guess5", "192.0.2.2")).outcome == "refused"
    assert node.counted.count(Slot.INGRESS_BANS_ADDRESS) == 1
    bans = [fields for event, fields in node.told if event == "ban"]
    assert bans == [{"of": "address", "subject": ADDRESS, "failures": 3, "ban_s": 900.0}]


async def test_even_a_right_password_does_not_get_through_a_ban() -> None:
    node = Node(Scripted(ACCEPTED, REFUSED), address_failures=1)
    assert (await node.password("user", "right")).outcome == "accepted"
    await node.password("user", "wrong")
    assert (await node.password("user", "right")).outcome == "banned"


async def test_a_burst_of_one_client_is_hashed_no_more_often_than_the_ban_allows() -> None:
    back_end = Scripted(REFUSED)
    node = Node(back_end, address_failures=5, log_in_failures=1000)
    verdicts = await asyncio.gather(*(node.password(f"user{number}", "guess") for number in range(60)))
    assert [verdict.outcome for verdict in verdicts].count("banned") == 60 - len(back_end.asked)
    assert 5 <= len(back_end.asked) < 5 + verification.PER_CLIENT


async def test_one_client_cannot_take_the_whole_line() -> None:
    back_end = Scripted(ACCEPTED)
    back_end.gate = asyncio.Event()
    node = Node(back_end)
    most = verification.PER_CLIENT + verification.IN_LINE_PER_CLIENT
    under_way = [asyncio.ensure_future(node.password(f"user{number}")) for number in range(most)]
    await asyncio.sleep(0)
    assert (await node.password("one more")).outcome == "unavailable"
    other = asyncio.ensure_future(node.password("another", address="192.0.2.2"))
    back_end.gate.set()
    assert {verdict.outcome for verdict in await asyncio.gather(*under_way, other)} == {"accepted"}


async def test_there_is_room_for_so_many_in_line() -> None:
    back_end = Scripted(ACCEPTED)
    back_end.gate = asyncio.Event()
    node = Node(back_end, verifiers=1, waiting=2)
    under_way = [asyncio.ensure_future(node.password("user", f"{n}", f"192.0.2.{n}")) for n in range(3)]
    await asyncio.sleep(0)
    assert (await node.password("user", "x", "192.0.2.9")).outcome == "unavailable"
    back_end.gate.set()
    await asyncio.gather(*under_way)
    assert (await node.password("user", "x", "192.0.2.9")).outcome == "accepted"


async def test_those_who_have_failed_do_not_take_the_others_places_in_line() -> None:
    back_end = Scripted(REFUSED)
    node = Node(back_end, verifiers=1, waiting=1, address_failures=100)
    for number in range(3):
        for _ in range(2):
            await node.password(f"user{number}", f"guess {number}", f"192.0.2.{number}")
    back_end.findings, back_end.gate = [ACCEPTED], asyncio.Event()
    storm = [asyncio.ensure_future(node.password("user", f"{n}", f"192.0.2.{n}")) for n in range(2)]
    await asyncio.sleep(0)
    assert (await node.password("user", "x", "192.0.2.2")).outcome == "unavailable"
    other = asyncio.ensure_future(node.password("user", "y", "192.0.2.9"))
    await asyncio.sleep(0)
    assert node.verification.under_way == 3
    back_end.gate.set()
    assert {verdict.outcome for verdict in await asyncio.gather(*storm, other)} == {"accepted"}


async def test_a_pool_that_is_busy_is_nobody_s_fault() -> None:
    node = Node(Scripted(VerifierBusy()))
    assert (await node.password()).outcome == "unavailable"
    assert node.told == []


async def test_trusted_networks_wait_for_nothing() -> None:
    back_end = Scripted(REFUSED)
    node = Node(back_end, trusted_networks=(Network.parse("192.0.2.0/24"),), address_failures=1)
    for number in range(10):
        assert (await node.password("user", f"guess{number}")).outcome == "refused"
    assert node.waited == []


async def test_what_is_told_of_a_failure() -> None:
    node = Node(Scripted(REFUSED, UNKNOWN))
    await node.password("user", "a")
    await node.password("hunter2", "b")
    (event, known), (_, unknown) = node.told
    assert event == "log_in_failed"
    assert known == {
        "client": ADDRESS,
        "listener": "submission",
        "mechanism": "PLAIN",
        "login": "user",
        "delay_s": 1.0,
    }
    assert unknown["login"] is None  # it may be a password in the wrong field


# ------------------------------------------------------------------ files and SCRAM


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    quick = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr(credentials_file, "HASHER", quick)
    monkeypatch.setattr(credentials_file, "SCRAM_ITERATIONS", 4096)
    path = tmp_path / "users"
    with editing(path) as entries:
        entries["alice"] = make_entry("correct horse")
        entries["bob"] = make_entry("battery staple", scram=False)
    return path


def file_of(path: Path, node: Node, pool: VerifierPool) -> FileBackEnd:
    back_end = FileBackEnd(str(path), pool, node.clock.monotonic, node.verification.forget)
    node.verification._back_ends = [back_end]
    node.verification._files = [back_end]
    return back_end


async def scram(node: Node, log_in: str, password: str, binding: bytes = b"", shown: bytes | None = None) -> Verdict:
    mechanism = "SCRAM-SHA-256-PLUS" if shown is not None else "SCRAM-SHA-256"
    bound = None if shown is None else ("tls-server-end-point", shown)
    client = ScramClient([mechanism], log_in, password, channel_binding=bound)
    first = client.get_client_first()
    asked = ScramFirst(first, "servernonce", binding, ADDRESS, "submission", mechanism)
    challenge = await node.verification.scram_first(asked)
    if challenge.outcome != "challenge":
        return challenge
    client.set_server_first(challenge.message)
    final = ScramFinal(first, client.get_client_final(), "servernonce", binding, ADDRESS, "submission", mechanism)
    verdict = await node.verification.scram_final(final)
    if verdict.outcome == "accepted":
        client.set_server_final(verdict.message)
    return verdict


async def test_a_file_of_log_ins(users: Path) -> None:
    pool = VerifierPool(1, 10)
    node = Node()
    file_of(users, node, pool)
    assert await node.password("alice", "correct horse") == Verdict("accepted", "alice")
    assert (await node.password("alice", "wrong")).outcome == "refused"
    assert (await node.password("nobody", "wrong")).outcome == "refused"
    pool.close()


async def test_a_file_that_changes_is_read_again_and_what_was_remembered_forgotten(users: Path) -> None:
    pool = VerifierPool(1, 10)
    node = Node()
    file_of(users, node, pool)
    await node.password("alice", "correct horse")
    with editing(users) as entries:
        del entries["alice"]
        entries["carol"] = make_entry("new here")
    assert (await node.password("alice", "correct horse")).outcome == "accepted"  # it looks once a second
    node.clock.advance(1)
    assert (await node.password("alice", "correct horse")).outcome == "refused"
    assert (await node.password("carol", "new here")).outcome == "accepted"
    pool.close()


async def test_a_file_that_goes_bad_stays_as_it_was(users: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool = VerifierPool(1, 10)
    node = Node()
    file_of(users, node, pool)
    await node.password("alice", "correct horse")
    users.write_text("alice nonsense\n")
    for _ in range(3):
        node.clock.advance(1)
        assert (await node.password("bob", "battery staple")).outcome == "accepted"
    said = [record.message for record in caplog.records if "log-ins cannot be read" in record.message]
    assert len(said) == 1
    assert "users:1: the second part is not an argon2id hash; what it said before stays in use" in said[0]
    pool.close()


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    pool = VerifierPool(1, 10)
    node = Node()
    file_of(tmp_path / "none", node, pool)
    assert (await node.password("alice", "x")).outcome == "unavailable"
    assert (await scram(node, "alice", "x")).outcome == "unavailable"
    pool.close()


async def test_scram_against_scramp_s_client(users: Path) -> None:
    pool = VerifierPool(1, 10)
    node = Node()
    file_of(users, node, pool)
    assert (await scram(node, "alice", "correct horse")).log_in == "alice"
    assert (await scram(node, "alice", "wrong horse")).outcome == "refused"
    assert (await scram(node, "bob", "battery staple")).outcome == "refused"  # he has no verifier
    assert (await scram(node, "nobody", "battery staple")).outcome == "refused"
    assert [fields["login"] for event, fields in node.told if event == "log_in_failed"] == ["alice", "bob", None]
    assert node.waited == pytest.approx([1.0, 2.0, 4.0], rel=0.05)  # the level sinks meanwhile
    pool.close()


async def test_scram_with_channel_binding(users: Path) -> None:
    pool = VerifierPool(1, 10)
    node = Node()
    file_of(users, node, pool)
    right, other = b"a" * 32, b"b" * 32
    assert (await scram(node, "alice", "correct horse", right, right)).log_in == "alice"
    assert (await scram(node, "alice", "correct horse", right, other)).outcome == "refused"
    pool.close()


async def test_scram_of_a_client_who_is_banned(users: Path) -> None:
    pool = VerifierPool(1, 10)
    node = Node(address_failures=1)
    file_of(users, node, pool)
    assert (await scram(node, "alice", "wrong horse")).outcome == "refused"
    assert (await scram(node, "alice", "correct horse")).outcome == "banned"
    pool.close()


async def test_a_second_file_knows_its_own(users: Path, tmp_path: Path) -> None:
    pool = VerifierPool(1, 10)
    node = Node()
    first = file_of(users, node, pool)
    with editing(tmp_path / "more") as entries:
        entries["carol"] = make_entry("new here")
    second = FileBackEnd(str(tmp_path / "more"), pool, node.clock.monotonic, node.verification.forget)
    node.verification._back_ends = node.verification._files = [first, second]
    assert (await scram(node, "carol", "new here")).log_in == "carol"
    assert (await scram(node, "alice", "correct horse")).log_in == "alice"
    assert (await node.password("carol", "new here")).log_in == "carol"
    pool.close()


class PassesOn(BackEnd):
    """A back end that SCRAM is passed on to."""

    passes_scram_on = True

    def __init__(self, found: Found) -> None:
        self.found = found
        self.asked: list[str] = []

    async def scram_first(self, question: ScramFirst, log_in: str) -> str | None:
        self.asked.append(log_in)
        return "r=abcdef,s=c2FsdA==,i=4096"

    async def scram_final(self, question: ScramFinal, log_in: str) -> Found:
        return self.found


async def test_scram_of_a_log_in_that_is_in_no_file_is_passed_on_and_counted() -> None:
    back_end = PassesOn(Found(Finding.REFUSED, "bob"))
    node = Node(back_end, address_failures=2)
    where = (b"", ADDRESS, "submission", "SCRAM-SHA-256")
    first = "n,,n=bob,r=abc"
    challenge = await node.verification.scram_first(ScramFirst(first, "1", *where))
    assert (challenge.outcome, challenge.log_in) == ("challenge", "bob")
    assert (await node.verification.scram_final(ScramFinal(first, "x", "1", *where))).outcome == "refused"
    assert node.waited == [1.0]
    assert node.told[0][1]["login"] == "bob"
    assert (await node.verification.scram_first(ScramFirst("n,,n=bob", "2", *where))).outcome == "refused"
    back_end.found = Found(Finding.ACCEPTED, "Bob@mail.test", "v=server")
    accepted = await node.verification.scram_final(ScramFinal(first, "x", "3", *where))
    assert accepted == Verdict("accepted", "Bob@mail.test", "v=server")
    back_end.found = Found(Finding.UNAVAILABLE)
    assert (await node.verification.scram_final(ScramFinal(first, "x", "4", *where))).outcome == "unavailable"
    back_end.found = Found(Finding.REFUSED, "bob")
    await node.verification.scram_final(ScramFinal(first, "x", "5", *where))
    assert (await node.verification.scram_first(ScramFirst(first, "6", *where))).outcome == "banned"
    assert (await node.verification.scram_final(ScramFinal(first, "x", "6", *where))).outcome == "banned"
    assert back_end.asked == ["bob"]
