"""What the pages say is so: the README's configuration, the replies, the events, the RFC index, names and links."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from angarium._core.command import REPLIES
from angarium._core.counters import Slab
from angarium._core.event_log import EventLog
from angarium._core.intake import CallbackIntake
from angarium._core.listener_profile import ListenerProfile
from angarium._core.server_session import Reception
from angarium.cli.main import COMMANDS
from angarium.cli.serve import serve
from angarium.config.load import examine_text
from angarium.config.model import Limits
from angarium.mail.event_schema import EVENTS, FIELDS, json_schema, render_page
from bench.load import figures
from tests.support.events import check_event
from tests.support.peers import SinkServer
from tests.support.ports import free_port
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    path for pattern in ("*.md", "docs/*.md", "bench/**/*.md", "grafana/*.md") for path in sorted(ROOT.glob(pattern))
]
SOURCES = [
    path for pattern in ("cext/*.pyx", "cext/*.h", "src/**/*.py", "src/**/*.pxd") for path in sorted(ROOT.glob(pattern))
]


def text_of(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text()


def section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any depth."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#)", page, re.M | re.S)
    assert found, heading
    return found[1]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row but headings and rulers."""
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


# ---------------------------------------------------------------- README


def test_the_readme_s_configuration_passes_the_check() -> None:
    found = re.search(r"^```toml\n(.*?)^```", text_of("README.md"), re.M | re.S)
    assert found
    examination = examine_text(found[1])
    assert examination.problems == ()
    config = examination.config
    assert config is not None
    assert [str(route.next_hop) for route in config.route][-1] == "mx"
    assert any("10.1.2.3" in network for network in config.listener[0].relay_networks)


def test_what_the_readme_says_is_missing_is_missing() -> None:
    said = section(text_of("README.md"), "What is not there yet")
    for name in ("top",):
        assert name in said
        assert name not in COMMANDS


def test_the_readme_keeps_a_place_for_the_figures() -> None:
    page = text_of("README.md")
    assert page.count("<!-- figures:begin -->") == page.count("<!-- figures:end -->") == 1


def test_make_run_can_set_every_port() -> None:
    options = {name for option in serve.params for name in option.opts if name.endswith("-port")}
    assert len(options) >= 5
    said = next(line for line in text_of("README.md").splitlines() if line.startswith("| `make run` |"))
    for option in options:
        variable = option.removeprefix("--").replace("-", "_").upper()
        assert f"{option} $({variable})" in text_of("Makefile")
        assert f"`{variable}`" in said


SIZES = {"1 KiB": 1 << 10, "10 KiB": 10 << 10, "100 KiB": 100 << 10}
MODES = {"kept": "reuse", "one each": "new"}


def results_of_the_readme(block: str) -> list[dict[str, Any]]:
    """The results that the figures' block links to, each with both relays in it."""
    linked = [ROOT / link.replace(".md", ".json") for link in re.findall(r"\]\((bench/results/[^)]+\.md)\)", block)]
    results = [json.loads(path.read_text()) for path in linked]
    return [result for result in results if {run.get("relay") for run in result["runs"]} >= {"angarium", "postfix"}]


def test_the_readme_s_figures_are_those_of_the_results_it_links_to() -> None:
    block = text_of("README.md").split("<!-- figures:begin -->")[1].split("<!-- figures:end -->")[0]
    results = results_of_the_readme(block)
    scenarios = [cells for cells in rows(block) if re.match(r"[0-9]+ KiB, ", cells[0])]
    assert len(scenarios) >= 5
    for scenario, rate, cpu, peer_rate, peer_cpu, times, share in scenarios:
        size, sessions, connections = scenario.split(", ")
        key = (SIZES[size], int(sessions), MODES[connections])
        (result,) = [result for result in results if figures.good_runs(result, "angarium", key)]
        shown = []
        for relay in ("angarium", "postfix"):
            for name, unit in (("end_to_end_rate", "/s"), ("relay_cpu_us", " µs")):
                value = figures.figure(result, relay, key, name)
                assert value is not None
                shown.append(f"{value.median:,.0f}{unit}")
        assert [rate, cpu, peer_rate, peer_cpu] == shown, scenario
        faster = figures.ratio(result, key, "angarium", "postfix", "end_to_end_rate")
        cheaper = figures.ratio(result, key, "postfix", "angarium", "relay_cpu_us")
        assert faster is not None
        assert cheaper is not None
        assert times == f"{faster.median:.1f}× ({faster.least:.1f}–{faster.most:.1f})", scenario
        assert share == f"1/{cheaper.median:.0f}", scenario


# ---------------------------------------------------------------- links and names


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings make, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        name, _, fragment = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if fragment:
            assert fragment in anchors(file), target


def test_the_index_of_the_documentation_lists_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index] == []


def test_the_path_of_a_message_names_files_and_functions_that_exist() -> None:
    page = text_of("docs", "path-of-a-message.md")
    everything = "\n".join(path.read_text() for path in SOURCES)
    files = re.findall(r"`((?:src|cext|tests)/[\w./-]+)`", page)
    assert len(set(files)) > 25
    for name in files:
        assert (ROOT / name).is_file(), name
    names = re.findall(r"`([A-Za-z_]\w*(?:\.\w+)?)`", page)
    assert len(set(names)) > 60
    for name in names:
        for part in name.split("."):
            assert re.search(rf"\b{part}\b", everything), name


# ---------------------------------------------------------------- RFC index

CITATION = re.compile(r"RFC ?(\d{3,5})(?: (§|section |appendix )([A-Z0-9][0-9.]*))?")


def cited() -> set[str]:
    """Every clause that the code cites, as the index writes it."""
    clauses = set()
    for path in SOURCES:
        for number, kind, found in CITATION.findall(path.read_text()):
            place = found.rstrip(".")
            if kind == "appendix ":
                clauses.add(f"RFC {number} appendix {place}")
            else:
                clauses.add(f"RFC {number} §{place}" if place else f"RFC {number}")
    return clauses


INDEX = list(rows(text_of("docs", "rfc-index.md")))[1:]


def test_the_index_has_every_clause_that_the_code_cites() -> None:
    assert cited() - {row[0] for row in INDEX} == set()
    assert [row[0] for row in INDEX if sum(other[0] == row[0] for other in INDEX) > 1] == []


@pytest.mark.parametrize("row", INDEX, ids=lambda row: row[0])
def test_what_the_index_names_exists(row: list[str]) -> None:
    clause, about, where, tests = row
    assert clause
    assert about
    places = re.findall(r"`([\w./]+)` \(((?:`\w+`(?:, )?)+)\)", where)
    assert places
    for file, names in places:
        source = text_of(file)
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", source), f"{file} has no {name}"
    named = re.findall(r"`([^`]+)`", tests)
    assert named
    for test in named:
        file, _, function = test.partition("::")
        assert (ROOT / file).is_file(), file
        if function:
            assert re.search(rf"^(?:async )?def {function}\(", text_of(file), re.M), test
        else:
            assert file.startswith("tests/transcripts/")


# ---------------------------------------------------------------- SMTP

SMTP = text_of("docs", "smtp.md")
COMPOSED = {  # with values in them
    "220 NAME ESMTP Angarium",
    "220 NAME LMTP Angarium",
    "550 5.X.Y The mailbox host refuses the recipient: WORDS",
    "250 2.0.0 queued as ID durability=CLASS",
    "250 2.3.6 N is the highest priority here, and this message has it",
    "450 4.7.1 The limit of N recipients an hour is reached; try again later",
    "452 4.7.1 The limit of N recipients a day is reached; try again later",
}


def replies_of_the_code() -> set[str]:
    said = {reply.decode().removesuffix("\r\n") for reply in REPLIES}
    policy = ("src/angarium/policy/recipient_list.py", "src/angarium/policy/recipient_query.py")
    core = [f"cext/{name}.pyx" for name in ("server_session", "command_order", "dispatch", "xclient", "permission")]
    for file in (*core, *policy):
        said |= set(re.findall(r'b"(\d{3} [^"]+?)\\r\\n"', text_of(file)))
    said -= {"214 2.0.0 See RFC 5321", "214 2.0.0 See RFC 2033"}  # the second line of HELP
    return said


def replies_of_the_page() -> set[str]:
    said = set(re.findall(r"^\| `(\d{3} [^`]+)`(?: \*)? \|", SMTP, re.M)) - COMPOSED
    said |= set(re.findall(r"^`(\d{3} [^`]+)` is RCPT's alone", SMTP, re.M))
    before, after = SMTP.split("| code | fault |")
    assert before
    for cells in rows(after.partition("\n\n")[0]):
        code, _, status = cells[0].partition(" ")
        for whose, own in (("Sender", "5.1.7"), ("Recipient", "5.1.3")):
            said.add(f"{code} {status or own} {whose} address: {cells[1]}")
    for cells in rows(SMTP.split("| keyword | fault |")[1].partition("\n\n")[0]):
        keyword = cells[0].strip("`")
        said |= {f"501 5.5.4 {keyword} {fault}" for fault in (cells[1], "is given twice")}
        said.add(f"555 5.5.4 {keyword} is not offered here")
    return said


def test_every_reply_is_on_the_page_and_no_other() -> None:
    documented, spoken = replies_of_the_page(), replies_of_the_code()
    assert len(spoken) > 120
    assert documented == spoken


class Ear:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.heard = b""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("192.0.2.1", 4000) if name == "peername" else default

    def write(self, data: bytes) -> None:
        self.heard += data


def test_the_page_s_ehlo_is_what_is_offered() -> None:
    found = re.search(r"```\n(220 relay.example.org.*?)```", SMTP, re.S)
    assert found
    counters = Slab.create(1).region(0)
    reception = Reception(counters, EventLog(None, counters), CallbackIntake(lambda message, done: done(0)))
    limits = Limits()
    profile = ListenerProfile(
        hostname=b"relay.example.org",
        name=b"relay",
        client_policy=lambda address: (True, False),
        message_octets=limits.message_size_octets,
        recipients=limits.recipients,
        start_tls=lambda session: None,
        future_release_s=int(limits.future_release_s),
        priorities=b"",
    )
    session = reception.session(profile)
    ear = Ear()
    session.connection_made(ear)
    session.feed(b"EHLO client.example.org\r\n")
    shown = [line for line in found[1].splitlines() if not line.startswith("EHLO")]
    time_of_day = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
    assert [time_of_day.sub("TIME", line) for line in ear.heard.decode().splitlines()] == [
        time_of_day.sub("TIME", line) for line in shown
    ]


def test_the_page_s_limits_are_the_defaults() -> None:
    limits = Limits()
    documented = {cells[0].partition(",")[0].strip("`"): cells[1] for cells in rows(section(SMTP, "Limits"))}
    for name, value in (
        ("connections", limits.connections),
        ("connections_per_client", limits.connections_per_client),
        ("commands_per_second", limits.commands_per_second),
        ("recipients", limits.recipients),
        ("message_size", limits.message_size_octets),
        ("header_size", limits.header_size_octets),
        ("command_line", limits.command_line_octets),
        ("hops", limits.hops),
        ("errors", limits.errors),
    ):
        assert documented[name].split()[0] == f"{value:,}", name
    assert documented["idle_timeout"] == f"{limits.idle_timeout_s / 60:g} minutes"
    assert documented["future_release"] == f"{limits.future_release_s / 86400:g} days"
    assert documented["data_timeout"] == f"{limits.data_timeout_s / 3600:g} hour"
    assert (documented["transactions"], limits.transactions) == ("no limit", 0)


# ---------------------------------------------------------------- events


def test_the_page_of_events_is_current() -> None:
    assert text_of("docs", "events.md") == render_page(), "python -m angarium.mail.event_schema > docs/events.md"


def test_the_events_of_the_schema_are_those_of_the_code() -> None:
    code = "\n".join(path.read_text() for path in SOURCES)
    written = set(re.findall(r'self\._begin\("(\w+)"\)', code)) | set(re.findall(r'\.event\(\s*"(\w+)"', code))
    written |= set(re.findall(r'\._note\(\s*"(\w+)"', code))
    written |= set(re.findall(r'RecipientState\.\w+: "(\w+)"', text_of("src", "angarium", "outcome", "recorder.py")))
    assert set(EVENTS) == written
    fields = set(re.findall(r'b\'[]",]*,"(\w+)":', text_of("cext", "event_log.pyx"))) - {"enhanced", "text", "event"}
    assert fields
    assert fields <= set(FIELDS)


def test_every_field_of_the_schema_belongs_to_an_event() -> None:
    used = {name for event in EVENTS.values() for name in f"{event.fields} {event.optional}".split()}
    assert used | {"time", "event"} == set(FIELDS)


def test_the_schema_is_one() -> None:
    for strict in (False, True):
        Draft202012Validator.check_schema(json_schema(strict=strict))


@pytest.mark.parametrize(
    "wrong",
    [
        {"event": "release", "id": "0SAQS2V780G00", "by": "ada"},
        {"time": "yesterday", "event": "release", "id": "0SAQS2V780G00", "by": "ada"},
        {"time": "2026-11-26T04:22:27.123456Z", "event": "release", "id": "0SAQS2V780G00"},
        {"time": "2026-11-26T04:22:27.123456Z", "event": "release", "id": 7, "by": "ada"},
        {"time": "2026-11-26T04:22:27.123456Z", "event": "release", "id": "0SAQS2V780G00", "by": "ada", "more": 1},
        {"time": "2026-11-26T04:22:27.123456Z", "event": "nothing"},
    ],
)
def test_the_schema_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        check_event(wrong)


def refusal(step: Any) -> str | None:
    return "550 5.1.1 Nobody of that name" if step.verb == "RCPT" else None


def test_a_relay_s_events_are_as_the_page_says(tmp_path: Path) -> None:
    with SinkServer(answer=refusal) as host:
        routes = [
            {"recipients": ["refused.test"], "next_hop": host.url},
            {"recipients": ["down.test"], "next_hop": f"smtp://127.0.0.1:{free_port()}"},
            {"recipients": ["*"], "next_hop": "discard:"},
        ]
        retry = {"first": "100ms", "factor": 1.0, "longest": "200ms", "expire": "1s", "warn_after": "0s", "jitter": 0.0}
        with Relay(tmp_path, {"route": routes, "queue": {"retry": retry}}) as relay:
            relay.send(["a@refused.test", "b@down.test", "c@taken.test"])
            relay.send("a@refused.test", reverse_path="")
            with pytest.raises(AssertionError, match=r"5\.6\.0"):
                relay.send("d@taken.test", b"Subject: bare\n\r\nx\r\n")
            relay.wait_event("expiry", recipient="b@down.test")
            for event in ("delivery", "deferral", "bounce", "notification", "double_bounce", "rejection"):
                relay.wait_event(event)
            relay.wait_empty()
            lines = relay.events()
    for line in lines:
        check_event(line)
    assert {line["event"] for line in lines} >= {"reception", "expiry", "rejection"}
