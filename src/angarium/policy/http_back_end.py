"""The back end `kind = "http"`: a program of the operator's own says whether a password is right.

Job: POST a JSON object with `log_in`, `password`, `address`, `listener` and `mechanism`; the answer is a JSON object
whose `result` is "accepted", "refused" (the log-in is known, and that is not its password) or "unknown" (the next back
end may know it). `log_in` of the answer is what the log-in is called from here on; without it, it is as the client
said.

Fails: whatever else is answered, and no answer in time, is UNAVAILABLE, with the reason in the log. Bounds: as
policy.web."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from angarium.config.secret import read_secret
from angarium.policy.back_end import BackEnd, Finding, Found
from angarium.policy.web import CallFailure, WebClient

if TYPE_CHECKING:
    from angarium.config.credentials import Credentials
    from angarium.policy.access_protocol import PasswordAttempt

__all__ = ["HttpBackEnd"]

log = logging.getLogger(__name__)

_FINDINGS = {"accepted": Finding.ACCEPTED, "refused": Finding.REFUSED, "unknown": Finding.UNKNOWN}


class HttpBackEnd(BackEnd):
    """One URL."""

    def __init__(self, credentials: Credentials) -> None:
        self._settings = credentials
        self._client = WebClient(credentials.ca, credentials.timeout_s)

    async def password(self, attempt: PasswordAttempt) -> Found:
        """Ask."""
        settings = self._settings
        headers = {}
        body = {
            "log_in": attempt.log_in,
            "password": attempt.password,
            "address": attempt.address,
            "listener": attempt.listener,
            "mechanism": attempt.mechanism,
        }
        try:
            if settings.token or settings.token_file or settings.token_env:
                token = read_secret(settings.token, settings.token_file, settings.token_env)
                headers["Authorization"] = f"Bearer {token}"
            said = await self._client.call("POST", settings.url or "", headers=headers, body=body)
        except (CallFailure, OSError, ValueError) as failure:
            log.error("log-ins cannot be asked for by HTTP: %s", failure)
            return Found(Finding.UNAVAILABLE)
        finding = _FINDINGS.get(str(said.get("result")))
        if finding is None:
            log.error('log-ins by HTTP: "result" of the answer is none of %s', ", ".join(_FINDINGS))
            return Found(Finding.UNAVAILABLE)
        log_in = said.get("log_in")
        return Found(finding, log_in if isinstance(log_in, str) and log_in else attempt.log_in)

    async def close(self) -> None:
        """End its connections."""
        await self._client.close()
