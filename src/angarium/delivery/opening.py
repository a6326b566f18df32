"""What is said while a connection is opened: greeting, EHLO, STARTTLS, log-in. Kept for who asks why it failed.

Input: an aiosmtplib client that tells its Opening of every command and reply. Output: lines `C: …` and `S: …`, and
`*: …` for what is no line of SMTP. Bound: MOST_OCTETS; what comes beyond is left out, and that is said.

**Secrets.** Of AUTH the mechanism is kept and no more; of the lines of an exchange nothing; of the host's replies to
them the code and the enhanced status, for a host may repeat what it was told. A line is one of an exchange when the
reply before it was 334, whatever stands in it.
"""

from __future__ import annotations

import re
from typing import Any

import aiosmtplib

__all__ = ["Opening", "RecordedClient"]

MOST_OCTETS = 8192
LONGEST_LINE = 512
HIDDEN = "***"
CONTINUE = 334
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


class Opening:
    """Of one connection."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._octets = 0
        self._in_exchange = False  # the next line is the client's part of a log-in
        self._secret = False  # the next reply is one to it

    def command(self, line: bytes) -> None:
        """What this relay says."""
        verb, _, rest = line.strip().partition(b" ")
        self._secret = self._in_exchange or verb.upper() == b"AUTH"
        if self._in_exchange:
            shown = HIDDEN
        elif self._secret:
            mechanism, _, more = rest.partition(b" ")
            shown = f"AUTH {mechanism.decode('ascii', 'replace')}" + (f" {HIDDEN}" if more else "")
        else:
            shown = line.decode("utf-8", "replace").strip()
        self._add("C", shown)

    def reply(self, code: int, text: str) -> None:
        """What the host says."""
        self._in_exchange = self._secret and code == CONTINUE
        if self._secret:
            found = _ENHANCED.match(text)
            self._add("S", f"{code} {found[0] + ' ' if found else ''}{HIDDEN}")
            return
        lines = text.splitlines() or [""]
        for number, line in enumerate(lines, 1):
            self._add("S", f"{code}{' ' if number == len(lines) else '-'}{line}")

    def note(self, text: str) -> None:
        """What is no line of SMTP."""
        self._add("*", text)

    def octets(self) -> bytes:
        """All of it."""
        return "\n".join(self._lines).encode("utf-8", "replace")

    def _add(self, who: str, line: str) -> None:
        if self._octets >= MOST_OCTETS:
            return
        line = f"{who}: {line[:LONGEST_LINE]}"
        self._octets += len(line) + 1
        self._lines.append(line if self._octets < MOST_OCTETS else "*: and more")


class RecordedClient(aiosmtplib.SMTP):
    """aiosmtplib's client, which tells its Opening what is said."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.opening = Opening()

    async def connect(self, **options: Any) -> aiosmtplib.SMTPResponse:
        """With the greeting."""
        try:
            response = await super().connect(**options)
        except aiosmtplib.SMTPConnectResponseError as refusal:
            self.opening.reply(refusal.code, refusal.message)
            raise
        self.opening.reply(response.code, response.message)
        return response

    async def execute_command(self, *words: bytes, **options: Any) -> aiosmtplib.SMTPResponse:
        """Any command but STARTTLS."""
        self.opening.command(b" ".join(words))
        response = await super().execute_command(*words, **options)
        self.opening.reply(response.code, response.message)
        return response

    async def starttls(self, **options: Any) -> aiosmtplib.SMTPResponse:
        """STARTTLS, and the handshake behind it."""
        self.opening.command(b"STARTTLS")
        try:
            response = await super().starttls(**options)
        except aiosmtplib.SMTPResponseException as refusal:
            self.opening.reply(refusal.code, refusal.message)
            raise
        self.opening.reply(response.code, response.message)
        ssl_object = self.get_transport_info("ssl_object")
        if ssl_object is not None:
            self.opening.note(f"TLS {ssl_object.version()} {ssl_object.cipher()[0]}")
        return response
