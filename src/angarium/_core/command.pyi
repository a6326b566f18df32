from enum import IntEnum, IntFlag
from typing import Final, final

__all__ = (
    "REPLIES",
    "BodyType",
    "Command",
    "Notify",
    "Offer",
    "Rejection",
    "ReturnContent",
    "Verb",
    "decode_xtext",
    "encode_xtext",
    "parse_command",
    "split_xtext",
)

REPLIES: Final[tuple[bytes, ...]]

class Verb(IntEnum):
    VERB_UNKNOWN = 0
    VERB_HELO = 1
    VERB_EHLO = 2
    VERB_LHLO = 3
    VERB_MAIL = 4
    VERB_RCPT = 5
    VERB_DATA = 6
    VERB_BDAT = 7
    VERB_RSET = 8
    VERB_NOOP = 9
    VERB_QUIT = 10
    VERB_VRFY = 11
    VERB_EXPN = 12
    VERB_HELP = 13
    VERB_STARTTLS = 14
    VERB_AUTH = 15
    VERB_XCLIENT = 16
    VERB_COUNT = 17

class BodyType(IntEnum):
    BODY_UNSTATED = 0
    BODY_7BIT = 1
    BODY_8BITMIME = 2
    BODY_BINARYMIME = 3

class ReturnContent(IntEnum):
    RET_UNSTATED = 0
    RET_FULL = 1
    RET_HDRS = 2

# A set of bits: any sum of these is a Notify, and 0 means unstated.
class Notify(IntEnum):
    NOTIFY_NEVER = 1
    NOTIFY_SUCCESS = 2
    NOTIFY_FAILURE = 4
    NOTIFY_DELAY = 8

class Offer(IntFlag):
    SIZE = 1
    EIGHTBITMIME = 2
    SMTPUTF8 = 4
    DSN = 8
    BINARYMIME = 16
    REQUIRETLS = 32
    AUTH = 64
    PRIORITY = 128
    FUTURERELEASE = 256

@final
class Command:
    @property
    def verb(self) -> Verb: ...
    @property
    def mailbox(self) -> bytes | None: ...
    @property
    def domain(self) -> bytes | None: ...
    @property
    def internationalised(self) -> bool: ...
    @property
    def size(self) -> int | None: ...
    @property
    def body(self) -> BodyType: ...
    @property
    def smtputf8(self) -> bool: ...
    @property
    def requiretls(self) -> bool: ...
    @property
    def ret(self) -> ReturnContent: ...
    @property
    def envid(self) -> bytes | None: ...
    @property
    def auth(self) -> bytes | None: ...
    @property
    def priority(self) -> int | None: ...
    @property
    def hold_for(self) -> int | None: ...
    @property
    def hold_until(self) -> int | None: ...
    @property
    def notify(self) -> Notify: ...
    @property
    def orcpt(self) -> bytes | None: ...
    @property
    def last(self) -> bool: ...
    @property
    def name(self) -> bytes | None: ...
    @property
    def text(self) -> bytes | None: ...

@final
class Rejection:
    @property
    def verb(self) -> Verb: ...
    @property
    def reply(self) -> bytes: ...
    @property
    def code(self) -> int: ...
    @property
    def enhanced_status(self) -> str: ...
    @property
    def text(self) -> str: ...

def parse_command(line: bytes, *, offers: int = ..., smtputf8: bool = False) -> Command | Rejection: ...
def split_xtext(text: bytes) -> list[bytes]: ...
def decode_xtext(text: bytes) -> bytes: ...
def encode_xtext(octets: bytes) -> bytes: ...
