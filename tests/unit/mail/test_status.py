"""Enhanced status codes, RFC 3463, and the states of a recipient."""

import pytest

from angarium._core import record
from angarium.mail.status import EnhancedStatus, RecipientState


@pytest.mark.parametrize("text", ["2.0.0", "4.4.7", "5.1.10", "5.7.30", "5.999.999"])
def test_a_status_is_read_and_written(text: str) -> None:
    status = EnhancedStatus.parse(text)
    assert str(status) == text
    assert status == tuple(map(int, text.split("."))), "the compiled core gives plain tuples"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5.1",
        "5.1.1.1",
        "3.1.1",
        "1.0.0",
        "5.01.1",
        "5.1.1000",
        "5.1.1 ",
        "5.1.1\n",
        "5.1.\u0661",
        "x.1.1",
        "-5.1.1",
    ],
)
def test_what_is_no_status_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not an enhanced status code"):
        EnhancedStatus.parse(text)


@pytest.mark.parametrize(
    ("code", "enhanced", "status"),
    [
        (550, (5, 1, 1), "5.1.1"),
        (550, None, "5.0.0"),
        (250, None, "2.0.0"),
        (451, None, "4.0.0"),
        (354, None, "4.0.0"),
        (0, None, "4.0.0"),
    ],
)
def test_a_reply_without_a_status_has_one_of_its_class(
    code: int, enhanced: tuple[int, int, int] | None, status: str
) -> None:
    assert str(EnhancedStatus.of_reply(code, enhanced)) == status


def test_a_status_has_a_meaning() -> None:
    assert EnhancedStatus(5, 1, 1).meaning == EnhancedStatus(4, 1, 1).meaning == "Bad destination mailbox address"
    assert EnhancedStatus(5, 7, 200).meaning == "Other or undefined security status"
    assert EnhancedStatus(5, 99, 1).meaning == "Other undefined status"
    assert str(EnhancedStatus(5, 2, 2).with_class(4)) == "4.2.2"


def test_recipient_states_are_the_journals_with_the_names_that_users_see() -> None:
    assert [state.word for state in RecipientState] == [
        "queued",
        "delivered",
        "deferred",
        "failed",
        "expired",
        "in_doubt",
    ]
    assert {f"RECIPIENT_{state.name}": state.value for state in RecipientState} == {
        state.name: state.value for state in record.RecipientState
    }
    assert [state.word for state in RecipientState if state.is_final] == ["delivered", "failed", "expired"]
