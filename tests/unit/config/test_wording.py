"""The texts of notifications: those that come with the relay, an operator's own, and what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium.config.load import examine_text
from angarium.config.wording import KINDS, LARGEST_FILE, read_wordings, shipped_wordings
from angarium.mail.status import _MEANINGS

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = (
    """
sender = "Poste"
date = "%d/%m/%Y"
no_subject = "(sans objet)"
opening = "Serveur {hostname}"
closing = "Fin"
[recipient]
said = "{address} {host} {reply}"
reason = "{address} {reply}"
done = "{address}"
"""
    + "".join(
        f'[{kind}]\nsubject = "{kind} {{subject}}"\ntext = "{{recipients}}{" {until}" if kind == "delayed" else ""}"\n'
        for kind in KINDS
    )
    + '[meaning]\n"1.1" = "adresse inconnue"\n'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def problem_of(folder: Path, text: str, name: str = "en.toml") -> str:
    """What is wrong with a file; exactly one thing."""
    (folder / name).write_text(text)
    wordings, problems = read_wordings(str(folder))
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"{folder}/{name}")
    assert wordings["en"] == shipped_wordings()["en"], "a file with a problem changes nothing"
    return problems[0].removeprefix(f"{folder}/{name}")


def test_the_relay_speaks_english_and_german() -> None:
    shipped = shipped_wordings()
    assert set(shipped) == {"en", "de"}
    assert read_wordings(None) == (shipped, ())
    assert shipped["de"].subject["failed"] != shipped["en"].subject["failed"]
    registered = {f"{subject}.{detail}" for subject, detail in _MEANINGS}
    registered |= {f"{n}.0" for n in range(8)}
    assert set(shipped["de"].meaning) <= registered
    assert {f"{n}.0" for n in range(8)} <= set(shipped["de"].meaning), "so that every status has German words"


def test_an_operator_s_file_goes_before_the_relay_s_own(folder: Path) -> None:
    (folder / "de.toml").write_text('[failed]\nsubject = "R\u00fcckl\u00e4ufer {queue_id}"\n[meaning]\n"1.1" = "weg"\n')
    wordings, problems = read_wordings(str(folder))
    assert problems == ()
    own, shipped = wordings["de"], shipped_wordings()["de"]
    assert own.subject == {**shipped.subject, "failed": "R\u00fcckl\u00e4ufer {queue_id}"}
    assert own.meaning == {**shipped.meaning, "1.1": "weg"}
    assert (own.text, own.said, own.sender) == (shipped.text, shipped.said, shipped.sender)
    assert wordings["en"] == shipped_wordings()["en"]


def test_a_new_language_is_whole(folder: Path) -> None:
    (folder / "fr-CA.toml").write_text(WHOLE)
    wordings, problems = read_wordings(str(folder))
    assert problems == ()
    assert wordings["fr-CA"].subject["delayed"] == "delayed {subject}"
    (folder / "fr-CA.toml").write_text(WHOLE.replace("closing", "#"))
    _, problems = read_wordings(str(folder))
    assert len(problems) == 1
    assert problems[0].endswith(
        "closing: is required and not there: the relay has no texts of its own in this language"
    )
    (folder / "fr-CA.toml").write_text('sender = "x"')
    assert len(read_wordings(str(folder))[1]) == 4 + 3 + 2 * len(KINDS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[failed]\ntext = "{recipients} {hostnam}"',
            ":2:1: failed.text: {hostnam} means nothing here (did you mean {hostname}?)",
        ),
        ('[failed]\ntext = "nobody"', ":2:1: failed.text: lacks {recipients}"),
        ('[delayed]\ntext = "{recipients}"', ":2:1: delayed.text: lacks {until}"),
        ('[failed]\ntext = "{recipients} {until}"', "{until} means nothing here"),
        ('[recipient]\nreason = "{address} {reply} {host}"', "{host} means nothing here"),
        ('[recipient]\ndone = "to"', "recipient.done: lacks {address}"),
        (
            'opening = "{hostname"',
            ":1:1: opening: expected '}' before end of string; write {{ and }} for braces that are meant",
        ),
        ('opening = "a } b"', "Single '}' encountered"),
        ('opening = "{}"', "a name stands alone in its braces"),
        ('opening = "{hostname!r}"', "a name stands alone in its braces"),
        ('opening = "{hostname:>99999999}"', "a name stands alone in its braces"),
        ('opening = "{hostname.__class__}"', "a name stands alone in its braces"),
        ('opening = "{0}"', "a name stands alone in its braces"),
        ('opening = ""', "opening: expected a text that is not empty"),
        ("opening = 5", "opening: expected a text that is not empty"),
        ('opening = "a\\u0007"', "holds a character that cannot be printed"),
        ('opening = "' + "x" * 600 + '"', "has a line of more than 500 characters"),
        ('opening = """' + "x\n" * 2500 + '"""', "has 5000 characters, at most 4000 are allowed"),
        ('[failed]\nsubject = "two\\nlines"', "failed.subject: must be one line"),
        ('[failed]\nsubject = "' + "x" * 151 + '"', "has 151 characters, at most 150 are allowed"),
        ('date = "%A"', "date: only %d, %m, %y, %Y, %H, %M, %S and %% can stand in a date"),
        ('date = "%"', "date: only"),
        ('openin = "x"', ':1:1: openin: unknown key (did you mean "opening"?)'),
        ('[bounced]\ntext = "x"', "bounced: unknown key"),
        ('[failed]\nbody = "x"', "failed.body: unknown key; known are subject, text"),
        ("failed = 5", ":1:1: failed: expected a table"),
        ('[meaning]\n"5.1.1" = "x"', 'is not "SUBJECT.DETAIL" of an enhanced status code'),
        ('[meaning]\n"1.1" = 5', "meaning.1.1: expected a text that is not empty"),
        ('[meaning]\n"1.1" = "a\\nb"', "must be one line of at most 150 characters"),
        ('opening = "x', " is not TOML: "),
        ("#" * (LARGEST_FILE + 1), " is larger than 65536 octets"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(folder: Path, text: str, problem: str) -> None:
    assert problem in problem_of(folder, text)


def test_files_that_are_none(folder: Path) -> None:
    assert (
        problem_of(folder, "", "English.toml") == ": the name is not that of a language, such as en.toml or pt-BR.toml"
    )
    (folder / "English.toml").unlink()
    (folder / "en.toml").write_bytes(b'sender = "x"\nopening = "\xff"')
    assert read_wordings(str(folder))[1] == (f"{folder}/en.toml:2: is not UTF-8",)
    (folder / "en.toml").unlink()
    (folder / "en.toml").mkdir()
    assert read_wordings(str(folder))[1] == (f"{folder}/en.toml cannot be read: Is a directory",)
    (folder / "en.toml").rmdir()
    assert read_wordings(str(folder))[1] == (f"{folder} has no file LANGUAGE.toml, such as en.toml",)
    assert read_wordings(str(folder / "no"))[1] == (f"{folder}/no cannot be read: No such file or directory",)


def test_braces_that_are_meant(folder: Path) -> None:
    (folder / "en.toml").write_text('opening = "{{not a name}} {hostname}"')
    wordings, problems = read_wordings(str(folder))
    assert problems == ()
    assert wordings["en"].opening.format(hostname="h") == "{not a name} h"


# ---------------------------------------------------------------- in the configuration

CONFIG = """
node = { hostname = "relay.example.org", spool = "/spool" }
listener = [{ name = "a", listen = "127.0.0.1:2525", role = "relay", relay_networks = ["127.0.0.0/8"] }]
[notification]
"""


def test_the_check_reports_a_bad_template_at_its_key(folder: Path) -> None:
    (folder / "en.toml").write_text('[failed]\ntext = "{recipient}"')
    (found,) = examine_text(CONFIG + f'templates = "{folder}"').problems
    assert (found.line, found.key, found.severity) == (5, "notification.templates", "error")
    assert (
        found.message
        == f"{folder}/en.toml:2:1: failed.text: {{recipient}} means nothing here (did you mean {{recipients}}?)"
    )


def test_languages_must_be_there(folder: Path) -> None:
    (found,) = examine_text(CONFIG + 'languages = ["de", "ex"]').problems
    assert (found.line, found.key) == (5, "notification.languages")
    assert found.message == 'there are no texts in "ex", only in de, en'
    assert [problem.message for problem in examine_text(CONFIG + "languages = []").problems] == [
        "needs at least one language"
    ]
    (folder / "fr.toml").write_text(WHOLE)
    examination = examine_text(CONFIG + f'templates = "{folder}"\nlanguages = ["fr", "de"]')
    assert examination.problems == ()
    assert examination.config is not None
    assert examination.config.notification.languages == ("fr", "de")
