"""Texts with names in braces, `/srv/mail/{domain}/{local}`: parsed once, filled in for each recipient.

`{{` and `}}` stand for a brace. Input: the text, and the names that may stand in it. Output: a Template. Fails:
ValueError with what is wrong and the name that was probably meant.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["Template"]

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")


class Template(Struct, frozen=True):
    """Literal texts and names in turn: `literals` has one element more than `names`."""

    literals: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, known: Collection[str]) -> Template:
        literals, names = [""], []
        for token in _TOKEN.finditer(text):
            if token[1] is not None:
                if token[1] not in known:
                    near = difflib.get_close_matches(token[1], known, n=1)
                    hint = f"did you mean {{{near[0]}}}?" if near else "known are " + _listed(known)
                    raise ValueError(f'"{text}": {{{token[1]}}} stands for nothing; {hint}')
                names.append(token[1])
                literals.append("")
            elif token[0] in "{}":
                raise ValueError(f'"{text}": a brace alone; to mean one, write it twice')
            else:
                literals[-1] += token[0][0] if token[0] in ("{{", "}}") else token[0]
        return cls(tuple(literals), tuple(names))

    def fill(self, value: Callable[[str], bytes]) -> bytes:
        """The text with each name replaced by its value."""
        made = self.literals[0].encode()
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            made += value(name) + literal.encode()
        return made


def _listed(known: Collection[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in known)
