"""The credentials file: log-ins, an argon2id hash and a SCRAM-SHA-256 verifier of each password (RFC 9106, RFC 5802).

Job: read it, look a log-in up, check a password, and write it anew for `angarium user`. One log-in a line, in three
parts with spaces between them: the name, the hash in the PHC string format, and the verifier as
`SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` or "-". A line that begins with "#" is a comment. The first line
that begins with "@secret" carries the file's own secret: from it come the salts that unknown log-ins are answered with,
the same today and after a restart. Names compare by mail.log_in; whoever writes a log-in otherwise is known as the
file has it.

Timing: the password of an unknown log-in is verified as well, against a hash of nobody's password whose cost is that of
one of the file's own, chosen by the name.

Input: a path. Output: a CredentialsFile; a new file is written beside the old one, synced, and put in its place, with
the owner of the old one. Only its owner can read it (mode 0600), and its group where that could read the old one.

Fails: OSError; ValueError with the file and the line. Bounds: LARGEST_OCTETS, LONGEST_LOG_IN octets of a name,
LONGEST_PASSWORD octets of a password."""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import functools
import hashlib
import hmac
import os
import secrets
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import argon2
from argon2.exceptions import InvalidHashError, VerificationError
from scramp import ScramException, ScramMechanism  # type: ignore[import-untyped]

from angarium.mail.log_in import fold_log_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "LONGEST_LOG_IN",
    "LONGEST_PASSWORD",
    "CredentialsFile",
    "Entry",
    "ScramVerifier",
    "check_log_in",
    "editing",
    "make_entry",
    "prepared",
    "read_credentials",
]

LARGEST_OCTETS = 64 << 20
LONGEST_LOG_IN = 255
LONGEST_PASSWORD = 1024
SCRAM_ITERATIONS = 65536  # RFC 7677 §4 asks for 4096 at least; a client pays for each log-in
SCRAM_PREFIX = "SCRAM-SHA-256$"
SECRET_OCTETS = 32
COST_PARTS = ("m", "t", "p")
HASHER = argon2.PasswordHasher(time_cost=3, memory_cost=32768, parallelism=1)  # about 50 ms and 32 MiB
HEADING = "# Log-ins of Angarium; written by `angarium user`. Whoever can read this can guess passwords at leisure.\n"


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What a server keeps of a password for SCRAM-SHA-256; it is not enough to log in with."""

    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
    iterations: int

    @classmethod
    def parse(cls, text: str) -> ScramVerifier:
        """ValueError when it is none."""
        try:
            iterations, salt, keys = text.removeprefix(SCRAM_PREFIX).replace(":", "$", 1).split("$")
            stored, server = keys.split(":")
            made = cls(_octets(salt), _octets(stored), _octets(server), int(iterations))
        except ValueError:
            raise ValueError("the SCRAM verifier cannot be read") from None
        if not text.startswith(SCRAM_PREFIX) or len(made.stored_key) != 32 or len(made.server_key) != 32:
            raise ValueError("the SCRAM verifier is not one of SCRAM-SHA-256")
        return made

    def __str__(self) -> str:
        parts = (self.salt, self.stored_key, self.server_key)
        salt, stored, server = (base64.b64encode(part).decode() for part in parts)
        return f"{SCRAM_PREFIX}{self.iterations}:{salt}${stored}:{server}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One log-in. `scram` is None when SCRAM is not for it."""

    hash: str = field(repr=False)
    scram: ScramVerifier | None = None


@dataclass(frozen=True, slots=True)
class CredentialsFile:
    """What a file says."""

    entries: Mapping[str, Entry]
    secret: bytes = field(repr=False)
    costs: tuple[str, ...] = ()  # the cost part of every hash, as often as it is there
    iterations: tuple[int, ...] = ()  # of every SCRAM verifier, likewise
    own_secret: bool = True  # it stands in the file, and is not made of it
    names: Mapping[str, str] = field(default_factory=dict)  # folded -> as it stands there

    def __post_init__(self) -> None:
        if len(self.names) != len(self.entries):
            object.__setattr__(self, "names", {fold_log_in(name): name for name in self.entries})

    def own_name(self, log_in: str) -> str | None:
        """How the file writes a log-in; None when it is not there. Case and the like do not matter (mail.log_in)."""
        return self.names.get(fold_log_in(log_in))

    def _entry(self, log_in: str) -> Entry | None:
        name = self.own_name(log_in)
        return None if name is None else self.entries[name]

    def verify(self, log_in: str, password: str) -> bool | None:
        """Whether the password is right; None when there is no such log-in. It takes the same time all the same.

        It blocks for as long as a hash takes.
        """
        entry = self._entry(log_in)
        stored = self._nobodys_hash(log_in) if entry is None else entry.hash
        right = False
        with contextlib.suppress(VerificationError):
            right = HASHER.verify(stored, prepared(password).encode("utf-8"))
        return right if entry is not None else None

    def scram(self, log_in: str) -> ScramVerifier | None:
        """The verifier of a log-in, if there is one."""
        entry = self._entry(log_in)
        return None if entry is None else entry.scram

    def nobodys_scram(self, log_in: str) -> ScramVerifier:
        """What a log-in without a verifier is answered with: always the same, and right for no password."""
        log_in = fold_log_in(log_in)
        keys = [
            hmac.digest(self.secret, f"{part}:{log_in}".encode(), "sha256") for part in ("salt", "stored", "server")
        ]
        iterations = (
            self.iterations[self._chosen(log_in, len(self.iterations))] if self.iterations else SCRAM_ITERATIONS
        )
        return ScramVerifier(keys[0], keys[1], keys[2], iterations)

    def _nobodys_hash(self, log_in: str) -> str:
        return _hash_of_nobody(self.costs[self._chosen(log_in, len(self.costs))] if self.costs else "")

    def _chosen(self, log_in: str, of: int) -> int:
        """One of so many, always the same for a name."""
        return (
            int.from_bytes(hmac.digest(self.secret, f"cost:{fold_log_in(log_in)}".encode(), "sha256")[:4], "big") % of
        )

    def text(self) -> str:
        """The file."""
        lines = [f"{log_in} {entry.hash} {entry.scram or '-'}\n" for log_in, entry in sorted(self.entries.items())]
        return "".join([HEADING, f"@secret {base64.b64encode(self.secret).decode()}\n", *lines])


def _cost_of(hash_: str) -> str:
    return next((part for part in hash_.split("$") if part.startswith("m=")), "")


@functools.lru_cache(maxsize=32)
def _hash_of_nobody(cost: str) -> str:
    """A hash of that cost over a password that nobody knows."""
    hasher = HASHER
    with contextlib.suppress(ValueError):
        named = dict(part.split("=") for part in cost.split(","))
        memory, time, lanes = (int(named[name]) for name in COST_PARTS if name in named)
        hasher = argon2.PasswordHasher(time_cost=time, memory_cost=memory, parallelism=lanes)
    return hasher.hash(secrets.token_bytes(SECRET_OCTETS))


def prepared(password: str) -> str:
    """A password as it is hashed (RFC 8265 §4.2.2): composed, with one kind of space."""
    composed = unicodedata.normalize("NFC", password)
    return "".join(" " if unicodedata.category(mark) == "Zs" else mark for mark in composed)


def check_log_in(log_in: str) -> None:
    """ValueError when no log-in can be called so."""
    if not log_in or len(log_in.encode()) > LONGEST_LOG_IN:
        raise ValueError(f"a log-in has from 1 to {LONGEST_LOG_IN} octets")
    if not log_in.isprintable() or any(mark.isspace() for mark in log_in) or log_in[0] in "#@":
        raise ValueError('a log-in has no spaces and no control characters, and begins neither with "#" nor with "@"')


def make_entry(password: str, *, scram: bool = True) -> Entry:
    """The entry of a password; ValueError when it will not do as one."""
    if not password or len(password.encode()) > LONGEST_PASSWORD:
        raise ValueError(f"a password has from 1 to {LONGEST_PASSWORD} octets")
    if any(unicodedata.category(mark) == "Cc" for mark in password):
        raise ValueError("a password has no control characters")
    verifier = None
    if scram:
        try:
            made = ScramMechanism("SCRAM-SHA-256").make_auth_info(password, iteration_count=SCRAM_ITERATIONS)
        except ScramException as failure:
            raise ValueError(f"SCRAM allows no such password (RFC 4013): {failure}") from None
        verifier = ScramVerifier(*made)
    return Entry(HASHER.hash(prepared(password).encode("utf-8")), verifier)


def read_credentials(path: str | Path) -> CredentialsFile:
    """The file."""
    with Path(path).open("rb") as opened:
        octets = opened.read(LARGEST_OCTETS + 1)
    if len(octets) > LARGEST_OCTETS:
        raise ValueError(f"{path} is larger than {LARGEST_OCTETS} octets")
    entries: dict[str, Entry] = {}
    names: dict[str, str] = {}
    secret = b""
    for number, line in enumerate(octets.split(b"\n"), 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        try:
            text = line.decode("utf-8")
            if text.startswith("@secret "):
                secret = secret or _octets(text.split()[1])
            else:
                log_in, entry = _entry_of(text)
                before = names.setdefault(fold_log_in(log_in), log_in)
                if before == log_in and log_in in entries:
                    raise ValueError(f'"{log_in}" stands there twice')
                if before != log_in:
                    raise ValueError(f'"{log_in}" is the same log-in as "{before}", which stands there too')
                entries[log_in] = entry
        except ValueError as failure:
            why = "is not UTF-8" if isinstance(failure, UnicodeDecodeError) else str(failure)
            raise ValueError(f"{path}:{number}: {why}") from None
    own_secret = bool(secret)
    if not secret:
        # written by other hands: what depends on nothing but the file is as stable as the file
        secret = hashlib.blake2b(octets, digest_size=SECRET_OCTETS).digest()
    costs = tuple(_cost_of(entry.hash) for entry in entries.values())
    iterations = tuple(entry.scram.iterations for entry in entries.values() if entry.scram is not None)
    return CredentialsFile(entries, secret, costs, iterations, own_secret, names)


def _entry_of(line: str) -> tuple[str, Entry]:
    parts = line.split()
    if len(parts) not in {2, 3}:
        raise ValueError("expected a log-in, an argon2id hash, and a SCRAM verifier or -")
    check_log_in(parts[0])
    try:
        parameters = argon2.extract_parameters(parts[1])
    except InvalidHashError:
        parameters = None
    if parameters is None or parameters.type is not argon2.Type.ID:
        raise ValueError("the second part is not an argon2id hash")
    scram = None if len(parts) == 2 or parts[2] == "-" else ScramVerifier.parse(parts[2])
    return parts[0], Entry(parts[1], scram)


@contextlib.contextmanager
def editing(path: str | Path, *, group: int | None = None) -> Iterator[dict[str, Entry]]:
    """The log-ins of a file, to be changed in place: written when the block ends well. There need be no file before.

    `group`: who may read one that is made, beside its owner. Only one at a time edits the files of a folder; others
    wait.
    """
    path = Path(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        try:
            before = read_credentials(path)
        except FileNotFoundError:
            before = CredentialsFile({}, secrets.token_bytes(SECRET_OCTETS))
        entries = dict(before.entries)
        yield entries
        secret = before.secret if before.own_secret else secrets.token_bytes(SECRET_OCTETS)
        _replace(path, CredentialsFile(entries, secret).text().encode("utf-8"), folder, group)
    finally:
        os.close(folder)


def _replace(path: Path, octets: bytes, folder: int, group: int | None) -> None:
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            _take_after(path, file.fileno(), group)
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    os.fsync(folder)


def _take_after(path: Path, fd: int, group: int | None) -> None:
    """Owner and group of the file that is replaced, and what its group may do."""
    try:
        old = path.stat()
    except FileNotFoundError:
        if group is not None:
            os.fchown(fd, -1, group)
            os.fchmod(fd, 0o640)
        return
    with contextlib.suppress(PermissionError):  # only root gives files away
        os.fchown(fd, old.st_uid, old.st_gid)
        os.fchmod(fd, 0o600 | (old.st_mode & 0o040))


def _octets(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as failure:
        raise ValueError(str(failure)) from None
