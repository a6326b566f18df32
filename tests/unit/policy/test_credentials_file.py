"""The credentials file: what is written is read back, for its owner only, and unknown log-ins look like known ones."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import argon2
import pytest
from scramp import ScramClient, ScramMechanism  # type: ignore[import-untyped]

from angarium.policy import credentials_file
from angarium.policy.credentials_file import (
    CredentialsFile,
    Entry,
    ScramVerifier,
    check_log_in,
    editing,
    make_entry,
    prepared,
    read_credentials,
)

if TYPE_CHECKING:
    from pathlib import Path

QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials_file, "HASHER", QUICK)
    monkeypatch.setattr(credentials_file, "SCRAM_ITERATIONS", 4096)


def test_a_log_in_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with editing(path) as entries:
        entries["alice@example.org"] = make_entry("correct horse")
        entries["bob"] = make_entry("battery staple", scram=False)
    assert path.stat().st_mode & 0o777 == 0o600
    file = read_credentials(path)
    assert sorted(file.entries) == ["alice@example.org", "bob"]
    assert file.verify("alice@example.org", "correct horse") is True
    assert file.verify("alice@example.org", "wrong horse") is False
    assert file.verify("bob", "battery staple") is True
    assert file.verify("carol", "battery staple") is None
    assert file.scram("bob") is None
    assert file.scram("alice@example.org") is not None
    assert os.listdir(tmp_path) == ["users"]


def test_the_file_holds_no_password(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with editing(path) as entries:
        entry = entries["alice"] = make_entry("correct horse")
    assert b"horse" not in path.read_bytes()
    assert "argon2" not in repr(entry)
    assert "key=" not in repr(entry)


def test_the_file_keeps_its_secret_and_its_other_log_ins(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with editing(path) as entries:
        entries["alice"] = make_entry("one")
    before = read_credentials(path)
    with editing(path) as entries:
        entries["bob"] = make_entry("two")
    after = read_credentials(path)
    assert after.secret == before.secret
    assert after.entries["alice"] == before.entries["alice"]
    assert after.nobodys_scram("nobody") == before.nobodys_scram("nobody")


def test_nothing_is_written_when_the_edit_fails(tmp_path: Path) -> None:
    path = tmp_path / "users"

    def edit() -> None:
        with editing(path) as entries:
            entries["alice"] = make_entry("one")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        edit()
    assert os.listdir(tmp_path) == []


def test_edits_of_several_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "users"
    entry = make_entry("one")

    def add(number: int) -> None:
        with editing(path) as entries:
            entries[f"user{number}"] = entry

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_credentials(path).entries) == 12


def test_comments_and_empty_lines_are_nothing(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"# hello\n\n  \nalice {QUICK.hash('one')}\nbob {QUICK.hash('two')} -\n")
    file = read_credentials(path)
    assert file.verify("alice", "one")
    assert file.verify("bob", "two")
    assert read_credentials(path).nobodys_scram("x") == file.nobodys_scram("x")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("alice", "expected a log-in, an argon2id hash"),
        ("alice a b c", "expected a log-in, an argon2id hash"),
        ("alice secret", "not an argon2id hash"),
        ("alice $argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$RdescudvJCsgt3ub+b7dWRWJTmaasQmAF9dA8LcE2p8", "not an argon2id"),
        ("alice {hash} SCRAM-SHA-1$4096:c2FsdA==$a:b", "SCRAM"),
        ("alice {hash} SCRAM-SHA-256$many:c2FsdA==$a:b", "SCRAM"),
        ("al\xffice {hash}".encode("latin-1"), "not UTF-8"),
        ("ok {hash}\nok {hash}", 'users:2: "ok" stands there twice'),
        ("ok {hash}\nOK {hash}", 'users:2: "OK" is the same log-in as "ok", which stands there too'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str | bytes, why: str) -> None:
    path = tmp_path / "users"
    octets = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(octets.replace(b"{hash}", QUICK.hash("one").encode()))
    with pytest.raises(ValueError, match=r"users:\d: ") as failure:
        read_credentials(path)
    assert why in str(failure.value)


@pytest.mark.parametrize("log_in", ["", "a b", "a\tb", "#a", "@a", "a" * 256, "a\0", "a\u202eb"])
def test_no_log_in(log_in: str) -> None:
    with pytest.raises(ValueError, match="a log-in"):
        check_log_in(log_in)


@pytest.mark.parametrize("log_in", ["a", "alice@example.org", "böse", "用户", "a" * 255])
def test_a_log_in(log_in: str) -> None:
    check_log_in(log_in)


@pytest.mark.parametrize("password", ["", "a\nb", "p" * 1025, "a\0b"])
def test_no_password(password: str) -> None:
    with pytest.raises(ValueError, match="a password"):
        make_entry(password)


def test_a_password_is_the_same_however_its_marks_are_composed() -> None:
    file = CredentialsFile({"alice": make_entry("ä\u00a0b")}, b"secret")
    assert prepared("a\u0308\u00a0b") == "ä b"
    assert file.verify("alice", "a\u0308 b") is True


def test_an_unknown_log_in_costs_a_hash_of_the_file_s_own_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    hashers = [argon2.PasswordHasher(time_cost=number, memory_cost=64, parallelism=1) for number in (1, 2)]
    entries = {f"user{number}": Entry(hasher.hash("x")) for number, hasher in enumerate(hashers)}
    file = CredentialsFile(entries, b"secret", tuple(f"m=64,t={number},p=1" for number in (1, 2)))
    verified: list[str] = []

    class Watched:
        def verify(self, stored: str, password: bytes) -> bool:
            verified.append(stored.split("$")[3])
            return QUICK.verify(stored, password)

        def hash(self, password: bytes) -> str:
            return QUICK.hash(password)

    monkeypatch.setattr(credentials_file, "HASHER", Watched())
    for number in range(20):
        assert file.verify(f"nobody{number}", "x") is None
    assert set(verified) == {"m=64,t=1,p=1", "m=64,t=2,p=1"}
    first = verified[0]
    file.verify("nobody0", "x")
    assert verified[-1] == first


def test_the_scram_verifier_is_the_one_of_the_password() -> None:
    entry = make_entry("correct horse")
    scram = entry.scram
    assert scram is not None
    assert ScramVerifier.parse(str(scram)) == scram
    server = ScramMechanism("SCRAM-SHA-256").make_server(
        lambda _: (scram.salt, scram.stored_key, scram.server_key, scram.iterations)
    )
    client = ScramClient(["SCRAM-SHA-256"], "alice", "correct horse")
    server.set_client_first(client.get_client_first())
    client.set_server_first(server.get_server_first())
    server.set_client_final(client.get_client_final())
    client.set_server_final(server.get_server_final())


def test_what_an_unknown_log_in_is_answered_with_looks_like_any_other() -> None:
    file = CredentialsFile({"alice": make_entry("x")}, b"secret")
    nobody, alice = file.nobodys_scram("nobody"), file.scram("alice")
    assert alice is not None
    assert nobody == file.nobodys_scram("nobody")
    assert nobody != file.nobodys_scram("nobody else")
    assert len(nobody.salt) == len(alice.salt)
    old = CredentialsFile({"alice": make_entry("x")}, b"secret", iterations=(10_000,))
    assert old.nobodys_scram("nobody").iterations == 10_000


def test_the_owner_of_the_file_stays(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = tmp_path / "users"
    with editing(path) as entries:
        entries["alice"] = make_entry("one")
    os.chown(path, 12, 34)
    with editing(path) as entries:
        entries["bob"] = make_entry("two")
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (12, 34, 0o600)
    path.chmod(0o664)
    with editing(path) as entries:
        entries["carol"] = make_entry("three")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_is_made_for_the_relay_s_group(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with editing(path, group=os.getgid()) as entries:
        entries["alice"] = make_entry("one")
    assert (path.stat().st_gid, path.stat().st_mode & 0o777) == (os.getgid(), 0o640)


def test_a_file_without_a_secret_gets_one_when_it_is_edited(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.touch()
    before = read_credentials(path)
    with editing(path) as entries:
        entries["alice"] = make_entry("one")
    assert read_credentials(path).secret != before.secret


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), editing(tmp_path / "none" / "users"):
        pass


def test_a_log_in_is_found_however_it_is_written(tmp_path: Path) -> None:
    with editing(tmp_path / "users") as entries:
        entries["José@example.org"] = make_entry("secret")
    file = read_credentials(tmp_path / "users")
    for written in ("José@example.org", "JOSÉ@EXAMPLE.ORG", "jose\u0301@example.org"):
        assert file.own_name(written) == "José@example.org"
        assert file.verify(written, "secret") is True
        assert file.verify(written, "wrong") is False
        assert file.scram(written) == file.entries["José@example.org"].scram
    assert file.own_name("jose@example.org") is None
    assert file.nobodys_scram("nobody") == file.nobodys_scram("NOBODY")
