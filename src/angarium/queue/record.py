"""The journal's record format as Python sees it: encode and decode records, no I/O.

The layout is described in cext/record_format.h; the compiled core does the work.
"""

from angarium._core.outcome_record import decode_outcome, encode_outcome
from angarium._core.record import (
    MailBuffer,
    RecordError,
    checksum,
    format_id,
    load_message,
    make_accepted,
    new_message,
    parse_id,
)

__all__ = [
    "MailBuffer",
    "RecordError",
    "checksum",
    "decode_outcome",
    "encode_outcome",
    "format_id",
    "load_message",
    "make_accepted",
    "new_message",
    "parse_id",
]
