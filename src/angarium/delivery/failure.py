"""Why a host could not be used: what the recipient, the event log and the next attempt are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.reply import ReplyError, ReplyParser

if TYPE_CHECKING:
    import aiosmtplib

    from angarium.smtp.tls_result import TlsResult

__all__ = ["ConnectFailure"]


class ConnectFailure(Exception):
    """A host could not be used. code 0: no reply was seen, or what was seen is none.

    `tls`: what is wrong with TLS to it, if that is why; without a reply, `enhanced` is then this relay's own status.
    """

    def __init__(
        self,
        phase: int,
        text: str,
        code: int = 0,
        enhanced: tuple[int, int, int] | None = None,
        tls: TlsResult | None = None,
    ) -> None:
        super().__init__(text)
        self.phase = phase
        self.text = text
        self.code = code
        self.enhanced = enhanced
        self.tls = tls
        self.local = ""  # this relay's address on that connection
        self.where = ""  # the host; empty: there was none
        self.opening = b""  # what was said
        self.seconds = 0.0  # that it took

    @classmethod
    def of_tls(cls, where: str, why: str, result: TlsResult) -> ConnectFailure:
        """There is no TLS, or not the one that is asked for. 4.7.10: it is not offered; 4.7.5: it is no good."""
        detail = 10 if result == "starttls-not-supported" else 5
        return cls(Phase.PHASE_TLS, f"{where}: {why}", 0, (4, 7, detail), result)

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
