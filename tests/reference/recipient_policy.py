"""A plain model of RecipientPolicy: which recipients a listener takes from those who may not relay."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from angarium._core.recipient_policy import Judgement
from angarium.mail.pattern import AddressPattern, folded_domain

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKS = "%!@:"


def judged(domains: Sequence[bytes], local: bytes, domain: bytes) -> Judgement:
    """What is thought of local@domain."""
    patterns = [AddressPattern.parse(name.decode()) for name in domains]
    folded = folded_domain(domain)
    if not 0 < len(folded) <= 255 or not any(pattern.matches(local, folded) for pattern in patterns):
        return Judgement.RECIPIENT_FOREIGN
    text = local.decode("utf-8", "surrogateescape")
    marks = any(mark in text for mark in MARKS) or "=?" in text
    if marks or any(_stands_for(character) in MARKS[:3] for character in text if ord(character) > 0xFE00):
        return Judgement.RECIPIENT_ROUTED
    return Judgement.RECIPIENT_HOSTED


def _stands_for(character: str) -> str:
    return unicodedata.normalize("NFKC", character)
