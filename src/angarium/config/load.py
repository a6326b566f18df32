"""Reads a configuration file: TOML in, a Config out, or every reason why not.

    load_config(path)          the Config, or ConfigErrors with all problems
    examine(path)              the Config or None, and all problems, warnings too: what `angarium check` shows
    examine_text(text, ...)    the same for a text

`sandbox=True` means the configuration as a sandbox, whatever the file says: the sandbox's checks apply to it.

Fails with ConfigErrors only: for a file that cannot be read, that is not UTF-8, not TOML, or not a configuration.
Relative paths are relative to the folder of the file. Two defaults need the whole file and are settled here: a listener
that says nothing of TLS offers STARTTLS when there is a [tls] section, and a listener's limits table takes from
[limits] what it does not say.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from angarium.config.check import check_all
from angarium.config.convert import Converter
from angarium.config.locate import locate
from angarium.config.model import Config, Node
from angarium.config.problem import ConfigErrors, Findings, Problem
from angarium.config.sandbox import check_sandbox, sandbox_config

if TYPE_CHECKING:
    from angarium.config.locate import KeyPath, Position

__all__ = [
    "ConfigErrors",
    "Examination",
    "Problem",
    "check_sandbox",
    "examine",
    "examine_text",
    "load_config",
    "sandbox_config",
]

_SYNTAX_ERROR = re.compile(
    r"(?P<message>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.S
)

# Stands in for a [node] that cannot be used, so that the rest can be checked.
_NO_NODE = Node(hostname="unknown.invalid", spool="/nonexistent")


class Examination(Struct, frozen=True):
    """What came of reading a file. `config` is None when a problem is an error. `sha256`: of the file."""

    config: Config | None
    problems: tuple[Problem, ...]
    sha256: str = ""


def load_config(path: str | Path, *, sandbox: bool = False) -> Config:
    """The configuration in the file; warnings are not reported."""
    examination = examine(path, sandbox=sandbox)
    if examination.config is None:
        raise ConfigErrors(examination.problems)
    return examination.config


def examine(path: str | Path, *, sandbox: bool = False) -> Examination:
    """Everything that is wrong with the file, and the configuration if it can be used."""
    file = str(path)
    try:
        octets = Path(path).read_bytes()
    except OSError as error:
        return _hopeless(Problem(file, 0, 0, "", f"cannot be read: {error.strerror}"))
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = octets[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode("utf-8")) + 1
        return _hopeless(Problem(file, line, column, "", f"is not UTF-8: octet 0x{octets[error.start]:02X}"))
    examination = examine_text(text, file=file, folder=Path(path).absolute().parent, sandbox=sandbox)
    return msgspec.structs.replace(examination, sha256=hashlib.sha256(octets).hexdigest())


def examine_text(text: str, *, file: str = "<text>", folder: Path = Path("/"), sandbox: bool = False) -> Examination:
    """The same for a text; `folder` is what relative paths are relative to."""
    text = text.replace("\r\n", "\n")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return _hopeless(_syntax_problem(str(error), text, file))
    findings = Findings()
    made, complete = Converter(findings, folder).table(Config, data, ())
    made.setdefault("node", _NO_NODE)
    made.setdefault("listener", ())
    config = _settle_tls(Config(**made), data, findings)
    if sandbox:
        config = msgspec.structs.replace(config, sandbox=True)
    check_all(config, findings)
    positions = locate(text) if findings.found else {}
    problems = [finding.at(file, *_position(finding.path, positions)) for finding in findings.found]
    problems.sort(key=lambda problem: (problem.line, problem.column))
    usable = complete and not findings.errors
    return Examination(config if usable else None, tuple(problems))


def _settle_tls(config: Config, data: dict[str, Any], findings: Findings) -> Config:
    if "tls" not in data:
        return config
    listeners = []
    for index, listener in enumerate(config.listener):
        written = data["listener"][findings.element(("listener",), index)[1]]
        listeners.append(listener if "tls" in written else msgspec.structs.replace(listener, tls="starttls"))
    return msgspec.structs.replace(config, listener=tuple(listeners))


def _hopeless(problem: Problem) -> Examination:
    return Examination(None, (problem,))


def _syntax_problem(message: str, text: str, file: str) -> Problem:
    found = _SYNTAX_ERROR.fullmatch(message)
    if found is None:
        return Problem(file, 0, 0, "", f"is not TOML: {message}")
    if found["line"] is not None:
        line, column = int(found["line"]), int(found["column"])
    else:
        line, column = text.count("\n") + 1, len(text.rpartition("\n")[2]) + 1
    return Problem(file, line, column, "", f"is not TOML: {found['message']}")


def _position(path: KeyPath, positions: dict[KeyPath, Position]) -> Position:
    """Where the key stands, or the nearest table around it that does."""
    while path and path not in positions:
        path = path[:-1]
    return positions.get(path, (1, 1))
