"""The console in a real browser: links of the boards lead to the story of a message."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.browser import Visit, missing, visit
from tests.support.peers import SinkServer
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

GRAFANA = Path(__file__).parents[2] / "grafana"
PICTURES = os.environ.get("TEST_PICTURES", "")  # a folder for what the browser shows
pytestmark = [pytest.mark.peer, pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")]


def link_of_the_board(relay: Relay, queue_id: str) -> str:
    """Where the link of the node's board leads for a message id that was typed in."""
    board = json.loads((GRAFANA / "dashboards" / "node.json").read_text())
    (template,) = [link["url"] for link in board["links"] if "message" in link.get("url", "")]
    values = {"instance": f"127.0.0.1:{relay.admin_port}", "message": queue_id}
    return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], template)


def link_of_an_exemplar(relay: Relay, queue_id: str) -> str:
    """Where a diamond on a panel leads; the sample has the console's usual address."""
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "message_id"
    template = destination["url"].replace("$$", "$").replace("127.0.0.1:8025", f"127.0.0.1:{relay.admin_port}")
    return str(template.replace("${__value.raw}", queue_id))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, str, str]]:
    """A relay with a message that waits, and one that has been delivered; their ids."""
    folder = tmp_path_factory.mktemp("console")
    config = {
        "queue": {"retry": {"first": "30m", "longest": "30m"}},
        "route": [{"recipients": ["gone.test"], "next_hop": "discard:"}, {"recipients": ["*"], "next_hop": ""}],
    }
    full = "452 4.2.2 <script>alert(1)</script> mailbox full"
    with SinkServer(answer=lambda step: full if step.verb == "RCPT" else None) as sink:
        config["route"][1]["next_hop"] = sink.url  # type: ignore[index, call-overload]
        with Relay(folder, config) as relay:
            waits, went = relay.send("a@dest.test"), relay.send("b@gone.test")
            relay.wait_event("deferral", id=waits)
            relay.wait_event("delivery", id=went)
            relay.wait(
                lambda: any(step["dialogues"] for step in relay.api(f"messages/{waits}/trace")["steps"]), "a dialogue"
            )
            yield relay, waits, went


def picture(name: str) -> str:
    return str(Path(PICTURES) / f"console-{name}.png") if PICTURES else ""


@pytest.mark.parametrize("link", [link_of_the_board, link_of_an_exemplar])
def test_a_link_leads_to_the_story_of_a_message(node: tuple[Relay, str, str], tmp_path: Path, link: object) -> None:
    relay, waits, went = node
    assert callable(link)
    (first, opened, second), complaints = visit(
        [
            Visit(link(relay, waits), "#linked-steps .attempt"),
            Visit("", "#linked-steps details[open] pre", click="#linked-steps summary", picture=picture("waits")),
            Visit(link(relay, went), "#linked-facts .delivered", picture=picture("went")),
        ],
        tmp_path,
    )
    assert complaints == []
    for expected in (
        waits,
        "<me@origin.test> to <a@dest.test>",
        "452 4.2.2 <script>alert(1)</script> mailbox full",  # as text
        "attempt 1 by smtp://",
        "scheduled",
        "Waits for",
    ):
        assert expected in first.text
    assert "C: RCPT TO:<a@dest.test>" in opened.text
    assert "C: RCPT TO:<a@dest.test>" not in first.text
    assert "452 4.2.2" not in second.text.partition("\nQueue")[0]
    assert went in second.text
    assert [page.overflow for page in (first, opened, second)] == [0, 0, 0]


def test_what_is_not_there_is_said_in_plain_words(node: tuple[Relay, str, str], tmp_path: Path) -> None:
    relay, waits, _ = node
    (unknown, wrong, nothing, listed), complaints = visit(
        [
            Visit(
                link_of_the_board(relay, "0000000000001"),
                "#linked-note",
                "Nothing is known",
                picture=picture("unknown"),
            ),
            Visit(link_of_the_board(relay, "no<b>id%20"), "#linked-note", "is no queue id"),
            Visit(f"http://127.0.0.1:{relay.admin_port}/#message=", "#queued a"),
            Visit("", "#linked-steps .attempt", click="#queued a"),
        ],
        tmp_path,
    )
    assert complaints == []
    assert "Nothing is known of 0000000000001 here: it is not in the queue, nor in the event log" in unknown.text
    assert "Looking it up" not in unknown.text
    assert "“NO<B>ID” is no queue id" in wrong.text
    assert "Looking it up" not in nothing.text
    assert listed.address.endswith(f"#message={waits}")
    assert "a@dest.test" in listed.text


def test_on_a_small_screen_nothing_is_wider_than_the_window(node: tuple[Relay, str, str], tmp_path: Path) -> None:
    relay, waits, _ = node
    (seen,), complaints = visit(
        [Visit(link_of_the_board(relay, waits), "#linked-steps .attempt", picture=picture("small"))],
        tmp_path,
        width=390,
    )
    assert complaints == []
    assert seen.overflow == 0
