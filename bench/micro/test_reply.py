"""How long replies take, compiled and in the reference model, whole and in pieces."""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from angarium._core.reply import ReplyParser
from tests.reference.reply import parse_replies

INPUTS = {
    "one line": b"250 2.0.0 Ok: queued as 4XyZ1234\r\n",
    "a pipelined transaction": b"250 2.1.0 Ok\r\n"
    + b"250 2.1.5 Ok\r\n" * 4
    + b"354 End data with <CR><LF>.<CR><LF>\r\n",
    "EHLO": b"250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-8BITMIME\r\n250-DSN\r\n250 CHUNKING\r\n",
}


def compiled() -> Callable[[bytes], object]:
    return ReplyParser().parse


def compiled_in_pieces() -> Callable[[bytes], object]:
    parser = ReplyParser()

    def parse(data: bytes) -> list[object]:
        return [*parser.parse(data[:5]), *parser.parse(data[5:-3]), *parser.parse(data[-3:])]

    return parse


def reference() -> Callable[[bytes], object]:
    return lambda data: parse_replies(data)[0]


@pytest.mark.parametrize("parser", [compiled, compiled_in_pieces, reference], ids=lambda parser: parser.__name__)
@pytest.mark.parametrize("replies", INPUTS)
def test_parse_replies(
    benchmark: BenchmarkFixture, replies: str, parser: Callable[[], Callable[[bytes], object]]
) -> None:
    benchmark.group = f"reply: {replies}"
    assert benchmark(parser(), INPUTS[replies]) == parse_replies(INPUTS[replies])[0]
