"""What can be wrong with TLS to a mail host, by the names of RFC 8460 §4.3: in reports, metrics and events."""

from __future__ import annotations

from typing import Literal

__all__ = ["TlsResult"]

TlsResult = Literal[
    "starttls-not-supported",
    "certificate-host-mismatch",
    "certificate-expired",
    "certificate-not-trusted",
    "validation-failure",
    "tlsa-invalid",
    "dnssec-invalid",
    "dane-required",
    "sts-policy-fetch-error",
    "sts-policy-invalid",
    "sts-webpki-invalid",
]
