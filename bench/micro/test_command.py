"""How long a command line takes, compiled and in the reference model.

The compiled figure includes the Python object that describes the command, which the server session never makes.
"""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from angarium._core import command
from tests.reference import command as reference

LINES = {
    "MAIL with two parameters": b"MAIL FROM:<alice.smith@mail.example.org> SIZE=12345 BODY=8BITMIME",
    "RCPT": b"RCPT TO:<bob.jones@example.net>",
    "RCPT with NOTIFY and ORCPT": b"RCPT TO:<bob@example.net> NOTIFY=FAILURE,DELAY ORCPT=rfc822;bob@example.net",
    "RCPT refused": b"RCPT TO:<bob jones@example.net>",
    "EHLO": b"EHLO mail-out-7.example.org",
}
PARSERS: dict[str, Callable[[bytes], object]] = {
    "compiled": command.parse_command,
    "reference": reference.parse_command,
}


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("line", LINES)
def test_parse_command(benchmark: BenchmarkFixture, line: str, parser: str) -> None:
    benchmark.group = f"command: {line}"
    result = benchmark(PARSERS[parser], LINES[line])
    assert (isinstance(result, command.Rejection | bytes)) == line.endswith("refused")
