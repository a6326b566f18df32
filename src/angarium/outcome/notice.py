"""The first part of a notification: what a person reads, in the words of one or more languages.

Input: wordings (angarium.config.wording), the message and the reports. Output: the subject as a text of one line, and
lines of text without their ends. Values from outside are made printable before they are put into a text, so that none
of them can begin a line. Nothing here fails: the texts were checked when they were read.
"""

from __future__ import annotations

import re
import textwrap
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import TYPE_CHECKING

from angarium.config.wording import KINDS
from angarium.outcome.report import is_success, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from angarium.config.wording import Wording
    from angarium.outcome.report import OriginalMessage, RecipientReport

__all__ = ["gravest", "notice_lines", "notice_subject", "reply_of"]

WIDTH = 76  # of a line, in characters, where there is a space to break at
LONGEST_REPLY = 900  # of one reply, in octets
LONGEST_SUBJECT = 120  # of the original's, in characters
BETWEEN_LANGUAGES = "-" * 20

_SUBJECT = re.compile(rb"^subject:[ \t]*([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.I | re.M)


def gravest(reports: Sequence[RecipientReport]) -> str:
    """The kind that comes first in KINDS: a notification's subject is that of its gravest news."""
    return min((report.kind for report in reports), key=KINDS.index)


def notice_subject(wording: Wording, original: OriginalMessage, kind: str, hostname: str, header: bytes) -> str:
    """The subject of the whole notification. `header` is the original's header section."""
    return wording.subject[kind].format(**_names(wording, original, hostname, header))


def notice_lines(
    wordings: Sequence[Wording],
    original: OriginalMessage,
    reports: Sequence[RecipientReport],
    hostname: str,
    header: bytes,
) -> list[str]:
    """The text, one language after the other."""
    lines: list[str] = []
    for wording in wordings:
        if lines:
            lines += ["", BETWEEN_LANGUAGES, ""]
        for text in _paragraphs(wording, original, reports, hostname, header):
            if lines and lines[-1]:
                lines.append("")
            for line in text.split("\n"):
                lines += _wrap(line.rstrip())
    return lines


def reply_of(report: RecipientReport, utf8: bool) -> bytes:
    """The reply as the host gave it, or the relay's own words."""
    text = printable(b" ".join(report.text[:LONGEST_REPLY].split()), utf8)
    if not report.is_reply:
        return text
    enhanced = b"" if report.reply_enhanced is None else b" %d.%d.%d" % report.reply_enhanced
    return b"%d%s %s" % (report.reply_code, enhanced, text)


def _paragraphs(
    wording: Wording, original: OriginalMessage, reports: Sequence[RecipientReport], hostname: str, header: bytes
) -> Iterator[str]:
    names = _names(wording, original, hostname, header)
    yield wording.opening.format(**names)
    for kind in KINDS:
        chosen = [report for report in reports if report.kind == kind]
        if not chosen:
            continue
        listed = "\n\n".join(_recipient(wording, report) for report in chosen)
        ends = [report.retries_until for report in chosen if report.retries_until is not None]
        until = {"until": _date(wording, max(ends))} if ends else {}
        yield wording.text[kind].format(**names, **until, recipients=listed)
    yield wording.closing.format(**names)


def _recipient(wording: Wording, report: RecipientReport) -> str:
    detail = f"{report.status.subject}.{report.status.detail}"
    names = {
        "address": printable(report.forward_path, True).decode(),
        "status": str(report.status),
        "meaning": wording.meaning.get(detail) or wording.meaning.get(f"{report.status.subject}.0") or "",
        "reply": reply_of(report, True).decode(),
        "host": printable(report.remote_mta, False).decode(),
    }
    names["meaning"] = names["meaning"] or report.status.meaning
    if is_success(report.kind):
        return wording.done.format(**names)
    return (wording.said if report.remote_mta else wording.reason).format(**names)


def _names(wording: Wording, original: OriginalMessage, hostname: str, header: bytes) -> dict[str, str]:
    return {
        "hostname": hostname,
        "queue_id": original.queue_id,
        "date": _date(wording, original.received),
        "subject": _subject_of(header) or wording.no_subject,
    }


def _subject_of(header: bytes) -> str:
    """The original's subject as people know it; empty when it has none."""
    found = _SUBJECT.search(header)
    if found is None:
        return ""
    raw = b" ".join(found[1].split()).decode("utf-8", "replace")
    try:
        text = str(make_header(decode_header(raw)))
    except (HeaderParseError, LookupError, ValueError):  # an encoded word that is none
        text = raw
    text = printable(text.encode("utf-8", "replace"), True).decode()
    return text if len(text) <= LONGEST_SUBJECT else text[: LONGEST_SUBJECT - 1] + "\u2026"


def _date(wording: Wording, seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime(wording.date)


def _wrap(line: str) -> list[str]:
    if len(line) <= WIDTH:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line.lstrip(),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
