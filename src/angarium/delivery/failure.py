"""Why a host could not be used: what the recipient, the event log and the next attempt are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium._core.reply import ReplyError, ReplyParser

if TYPE_CHECKING:
    import aiosmtplib

__all__ = ["ConnectFailure"]


class ConnectFailure(Exception):
    """A host could not be used. code 0: no reply was seen, or what was seen is none."""

    def __init__(self, phase: int, text: str, code: int = 0, enhanced: tuple[int, int, int] | None = None) -> None:
        super().__init__(text)
        self.phase = phase
        self.text = text
        self.code = code
        self.enhanced = enhanced

    @classmethod
    def of_reply(cls, phase: int, where: str, refusal: aiosmtplib.SMTPResponseException) -> ConnectFailure:
        """What a host replied: code, enhanced status and text apart, as the compiled session would read it."""
        lines = refusal.message.splitlines() or [""]
        octets = b"".join(
            b"%d%c%s\r\n" % (refusal.code, b" -"[number < len(lines)], line.encode("utf-8", "replace"))
            for number, line in enumerate(lines, 1)
        )
        try:
            ((code, enhanced, text),) = ReplyParser().parse(octets)
        except (ReplyError, ValueError):
            return cls(phase, f"{where}: {refusal.message.strip()}")
        return cls(phase, f"{where}: {text.decode('utf-8', 'replace')}", code, enhanced)
