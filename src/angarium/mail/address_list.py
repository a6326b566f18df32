"""The addresses of a list of mailboxes and groups (RFC 5322 §3.4), as header fields and command lines have it.

Input: the text behind the colon of a To field, or an argument. Output: its addresses in order, display names, comments,
routes and group names left out, quoted local parts as they were written. An address without a domain is one of this
machine's users, and is returned without one.

Fails: ValueError with what is wrong, for a text of which it is not certain whom it means. To guess wrong would be to
send somebody's mail to a stranger.
"""

from __future__ import annotations

import re

__all__ = ["addresses_in"]

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<quoted>"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*")
  | (?P<literal>\[[^\[\]\\\s\x00-\x1f\x7f]*\])
  | (?P<special>[<>@,;:.(])
  | (?P<atom>[^\s"()<>@,;:.\[\]\\\x00-\x1f\x7f]+)
""",
    re.X | re.S,
)
_COMMENT_MARK = re.compile(r"\\.|[()]", re.S)


def addresses_in(text: str) -> list[str]:
    """The addresses of a list; none for a list that is empty, or of groups that are."""
    found: list[str] = []
    words: list[str] = []  # of the element under way, outside of angle brackets
    inside: list[str] | None = None  # of its angle brackets, while they are open
    closed = grouped = False
    for word in _tokens(text):
        if inside is not None:
            if word == ">":
                found.append(_address(inside, text))
                inside, closed = None, True
            else:
                inside.append(word)
        elif word == "<" and not closed:
            inside = []
        elif word == ":" and not closed and not grouped and words:
            words, grouped = [], True  # what stood in front of it is the name of a group
        elif word == "," or (word == ";" and grouped):
            if words and not closed:
                found.append(_address(words, text))
            words, closed, grouped = [], False, grouped and word != ";"
        elif closed or word in (">", ";", ":", "<"):
            raise ValueError(f'"{text}": {word} cannot stand there')
        else:
            words.append(word)
    if inside is not None or grouped:
        raise ValueError(f'"{text}" is not whole: there is no "{">" if inside is not None else ";"}" at its end')
    if words and not closed:
        found.append(_address(words, text))
    return found


def _tokens(text: str) -> list[str]:
    """Words and marks without white space and comments."""
    tokens, at = [], 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f'"{text}": {text[at]!a} cannot stand there')
        at = token.end()
        if token[0] == "(":
            at = _end_of_comment(text, at)
        elif token.lastgroup != "space":
            tokens.append(token[0])
    return tokens


def _end_of_comment(text: str, at: int) -> int:
    depth = 1
    for mark in _COMMENT_MARK.finditer(text, at):
        depth += {"(": 1, ")": -1}.get(mark[0], 0)
        if depth == 0:
            return mark.end()
    raise ValueError(f'"{text}" is not whole: a comment has no end')


def _address(tokens: list[str], text: str) -> str:
    """The address that the tokens spell: words with dots between them, and "@" once at most."""
    if tokens[:1] == ["@"] and ":" in tokens:
        tokens = tokens[tokens.index(":") + 1 :]  # a source route, RFC 5321 §4.1.2: it is ignored
    at = tokens.index("@") if "@" in tokens else len(tokens)
    for part, is_domain in ((tokens[:at], False), (tokens[at + 1 :], True)):
        if is_domain and at == len(tokens):
            break
        literal = is_domain and len(part) == 1 and part[0].startswith("[")
        whole = len(part) % 2 == 1 and all(word == "." for word in part[1::2])
        if not literal and not (whole and all(_is_word(word, is_domain) for word in part[::2])):
            raise ValueError(f'"{text}": "{"".join(tokens)}" is not an address')
    return "".join(tokens)


def _is_word(token: str, is_domain: bool) -> bool:
    return token not in ("@", ".", ",", ";", ":", "<", ">") and token[0] != "[" and not (is_domain and token[0] == '"')
