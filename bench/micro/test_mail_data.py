"""Mail data scanner and dot-stuffing, compiled against the reference model."""

import base64
import random
from collections.abc import Callable

import pytest

from angarium._core.mail_data import MailDataScanner, stuff
from tests.reference import mail_data as reference

RANDOM = random.Random(5321)


def base64_mail(octets: int) -> bytes:
    lines = (base64.b64encode(RANDOM.randbytes(57)) + b"\r\n" for _ in range(octets // 78 + 1))
    return b"".join(lines)[: octets - 2] + b"\r\n"


def text_mail(octets: int) -> bytes:
    words = [bytes(RANDOM.choices(b"etaoinshrdlu", k=RANDOM.randint(1, 9))) for _ in range(500)]
    text = bytearray()
    while len(text) < octets:
        text += b" ".join(RANDOM.choices(words, k=RANDOM.randint(3, 12))) + b".\r\n"
    return bytes(text[: octets - 2]) + b"\r\n"


MAILS = {"text-1KiB": text_mail(1024), "base64-10KiB": base64_mail(10240), "base64-100KiB": base64_mail(102400)}
SCANNERS: dict[str, Callable[[], MailDataScanner | reference.MailDataModel]] = {
    "compiled": MailDataScanner,
    "portable": lambda: MailDataScanner(True),
    "reference": reference.MailDataModel,
}
STUFFERS: dict[str, Callable[[bytes], bytes]] = {"compiled": stuff, "reference": reference.stuff}


@pytest.mark.parametrize("mail", MAILS)
@pytest.mark.parametrize("scanner", SCANNERS)
def test_feed(benchmark, mail: str, scanner: str) -> None:
    benchmark.group = f"mail data: scan {mail}"
    wire, make = MAILS[mail] + b".\r\n", SCANNERS[scanner]
    benchmark.extra_info["octets"] = len(wire)
    assert benchmark(lambda: make().feed(wire)) == MAILS[mail]


@pytest.mark.parametrize("mail", MAILS)
def test_drain(benchmark, mail: str) -> None:
    benchmark.group = f"mail data: scan {mail}"
    wire = MAILS[mail] + b".\r\n"
    benchmark.extra_info["octets"] = len(wire)
    assert benchmark(lambda: MailDataScanner().drain(wire)) == len(MAILS[mail])


@pytest.mark.parametrize("mail", MAILS)
@pytest.mark.parametrize("stuffer", STUFFERS)
def test_stuff(benchmark, mail: str, stuffer: str) -> None:
    benchmark.group = f"mail data: stuff {mail}"
    benchmark.extra_info["octets"] = len(MAILS[mail])
    assert benchmark(STUFFERS[stuffer], MAILS[mail]) == MAILS[mail]
