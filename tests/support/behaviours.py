"""What next hosts do, and what becomes of each recipient: the dialogues of tests/transcripts as one table.

`python -m tests.support.behaviours > docs/behaviours.md` writes the page; a test says when it is not up to date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.transcript import dialogues_of

if TYPE_CHECKING:
    from tests.support.transcript import Dialogue, Step

ROLES = {
    "connection": "Before the first MAIL command: greeting, EHLO or LHLO, TLS, log-in",
    "client": "Mail transactions",
}
SUBJECTS = {
    "lmtp": "LMTP",
    "login": "Log-in",
    "next_host": "The next host",
    "odd": "Odd beginnings",
    "set_up": "Set-up",
    "tls": "TLS",
    "accepted": "Accepted",
    "dsn": "Notifications",
    "farewell": "421 to a host that has the content",
    "limits": "Limits and time",
    "lost": "Lost connections",
    "nonsense": "Nonsense",
    "order": "Order, count and form of replies",
    "refused": "Refusals",
    "shutdown": "421",
}
LONGEST = 90
INTRODUCTION = """\
# What next hosts do, and what becomes of the mail

Each line is a dialogue of `tests/transcripts`, which the tests play against the relay's own sessions, in every split of
the host's octets; the outcome is that of each recipient, as the dialogue demands it. `ready`: another connection takes
it at once; `under way`: the dialogue ends before it is settled. What the outcomes mean: [routing.md](routing.md).

This page is written by `python -m tests.support.behaviours > docs/behaviours.md`.
"""


def outcomes(dialogue: Dialogue) -> list[str]:
    """What the dialogue demands for each recipient, in order."""
    found = []
    for step in dialogue.steps:
        if step.kind == "@" and step.words[0] == "outcome":
            found.append(_outcome(dialogue, step))
    return found


def _outcome(dialogue: Dialogue, step: Step) -> str:
    words = step.words[1:]
    named = words[0] in {"delivered", "deferred", "failed", "in_doubt"}  # the connection's have one recipient
    who, words = ("", words) if named else (f"{words[0]}{words[1]}: ", words[2:])
    text = " ".join(word for word in words if word != "-").replace("in_doubt", "in doubt")
    return who + (text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def render_page() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for role, heading in ROLES.items():
        parts.append(f"\n## {heading}\n")
        subject = None
        for dialogue in dialogues_of(role):
            if dialogue.file != subject:
                subject = dialogue.file
                parts.append(f"\n### {SUBJECTS[subject]}\n\n| the host | the recipients |\n| --- | --- |\n")
            came = "; ".join(outcomes(dialogue)) or "(only the connection)"
            parts.append(f"| {_cell(dialogue.title)} | {_cell(came)} |\n")
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    print(render_page(), end="")
