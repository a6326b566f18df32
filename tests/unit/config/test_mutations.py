"""Every mistake is named: each key of each sample configuration is broken in several ways, and each break is found, at
the line and column of that key, with the nearest valid name where there is one to be meant.

The samples are what `angarium init` writes, with all of its prepared parts, and one that has every key of the model. A
value is found by the scanner that finds keys (angarium.config.locate).
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from msgspec.structs import fields

from angarium.app.certificate import ensure_certificate
from angarium.cli.init import Layout, compose
from angarium.config import wording
from angarium.config.load import Examination, examine_text
from angarium.config.locate import KeyPath, _Scanner
from angarium.config.model import Config, Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATE = "1979-05-27"  # of a type that no key has
FREE = {"headers"}  # tables whose keys are the reader's own


class Spans(_Scanner):
    """Beside where each key stands, where its value does."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values: dict[KeyPath, tuple[int, int]] = {}

    def _value(self, path: KeyPath) -> None:
        begin = self._at
        super()._value(path)
        self.values[path] = (begin, begin + len(self._text[begin : self._at].rstrip()))


class Sample:
    """A configuration without a problem, and what can be broken in it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        spans = Spans(text)
        self.positions = spans.document()
        self.values = spans.values

    def offset(self, path: KeyPath) -> int:
        line, column = self.positions[path]
        return sum(len(one) + 1 for one in self.text.split("\n")[: line - 1]) + column - 1

    def with_value(self, path: KeyPath, written: str) -> str:
        begin, end = self.values[path]
        return self.text[:begin] + written + self.text[end:]

    def with_key(self, path: KeyPath, written: str) -> str:
        begin = self.offset(path)
        return self.text[:begin] + written + self.text[begin + len(str(path[-1])) :]

    @property
    def keys(self) -> list[KeyPath]:
        """Keys that have a value, in the order of the text."""
        return [path for path in self.values if isinstance(path[-1], str) and not FREE & set(path[:-1])]


def everything(folder: Path) -> str:
    """One configuration with each key of the model that the files of `angarium init` leave out."""
    certificate, key = ensure_certificate(folder / "tls")
    (folder / "users").touch(mode=0o600)
    (folder / "recipients").write_text("ada@example.org\n")
    templates = folder / "templates"
    templates.mkdir(exist_ok=True)
    (templates / "de.toml").write_text(
        (Path(wording.__file__).parent / "notifications" / "de.toml").read_text("utf-8"), "utf-8"
    )
    (folder / "keys.json").write_text('{"keys": []}')
    secret = folder / "secret"
    secret.write_text("a secret\n")
    secret.chmod(0o600)
    return f"""
sandbox = false
[node]
hostname = "relay.example.org"
spool = "{folder}/spool"
workers = 2
hang_timeout = "30s"
user = "nobody"
group = "root"
[admin]
listen = "127.0.0.1:8025"
token_file = "{secret}"
[tls]
certificate = "{certificate}"
key = "{key}"
minimum = "1.2"
[[certificate]]
certificate = "{certificate}"
key = "{key}"
names = ["smtp.example.org", "*.example.net"]
[events]
file = "{folder}/events.jsonl"
flush_interval = "250ms"
to = "syslog"
rotate_size = "50MB"
rotate_every = "1h"
compression = "gzip"
keep_size = "1GB"
keep = "7d"
keep_unsent = "2GB"
syslog = "udp://127.0.0.1:514"
facility = "local3"
[trace]
dialogues = "all"
keep = "12h"
size = "100MB"
[[stream]]
name = "crm"
url = "kafkas://127.0.0.1/mail"
user = "relay"
secret_file = "{secret}"
mechanism = "SCRAM-SHA-512"
ca = "{certificate}"
certificate = "{certificate}"
key = "{key}"
events = ["delivery", "bounce"]
tenants = ["shop"]
start = "oldest"
batch_events = 100
batch_size = "100KB"
batch_wait = "2s"
timeout = "10s"
retry_first = "2s"
retry_longest = "1m"
give_up = "1h"
dead_letter_size = "1MB"
sample = 1.0
sample_failures = false
[[stream]]
name = "inline"
url = "nats://127.0.0.1/mail"
user = "relay"
secret = "a-secret"
[[stream]]
name = "environment"
url = "nats://127.0.0.1/more"
user = "relay"
secret_env = "HOME"
[dns]
servers = ["127.0.0.1:53", "[::1]:53"]
dnssec = "trust-ad"
[limits]
connections = 5000
connections_per_client = 500
commands_per_second = 100
transactions = 100
recipients = 500
message_size = "10MB"
header_size = "100KB"
command_line = 4096
hops = 50
errors = 10
idle_timeout = "4m"
data_timeout = "30m"
future_release = "1d"
[sendmail]
socket = "{folder}/run/s.sock"
drop = "{folder}/drop"
tenant = "shop"
[queue]
durability = "fsync"
sync_interval = "1s"
shards = 8
memory_budget = "25%"
memory_soft_mark = 0.5
memory_hard_mark = 0.85
segment_size = "64MB"
compaction_rate = "16MB"
in_doubt = "resend"
[queue.retry]
first = "1m"
factor = 2
longest = "4h"
expire = "5d"
warn_after = "4h"
jitter = 0.1
[delivery]
connections_per_host = 20
messages_per_connection = 100
idle = "10s"
lifetime = "10m"
bdat = "auto"
tls = "opportunistic"
address_family = "ipv4-first"
never_contact = ["127.0.0.0/8", "::1"]
own_addresses = ["192.0.2.1"]
[delivery.timeouts]
connect = "30s"
greeting = "5m"
ehlo = "5m"
mail = "5m"
rcpt = "5m"
data = "2m"
block = "3m"
final = "10m"
[notification]
languages = ["de", "en"]
original_size = "50KB"
templates = "{folder}/templates"
[mta_sts]
enabled = true
ca_file = "{certificate}"
port = 443
[tls_report]
enabled = true
organization = "Example"
contact = "postmaster@example.org"
delay = "4h"
keep = "14d"
[[tenant]]
name = "shop"
networks = ["10.1.0.0/16"]
class = "transactional"
weight = 3
durability = "fsync"
durability_floor = "async"
durability_ceiling = "fsync"
highest_priority = 4
source_pool = "pool"
[[source]]
name = "mta1"
ipv4 = "192.0.2.1"
ipv6 = "2001:db8::1"
hostname = "mta1.example.org"
[[source_pool]]
name = "pool"
members = ["mta1"]
[[listener]]
name = "relay"
listen = "0.0.0.0:25"
role = "relay"
tls = "starttls"
auth = "none"
relay_networks = ["10.0.0.0/8"]
allow_open_relay = false
tenant = "shop"
durability = "fsync"
durability_floor = "async"
durability_ceiling = "fsync"
mt_priority = true
priority_profile = "MIXER"
highest_priority = 4
bare_newline = "repair"
repair_networks = ["10.1.2.3"]
limits = {{ recipients = 200, idle_timeout = "2m" }}
tls_minimum = "1.3"
client_ca = "{certificate}"
relay_certificates = ["printer.example.org"]
proxy_networks = ["10.9.0.1"]
[[listener]]
name = "local"
listen = "unix:{folder}/smtp.sock"
role = "relay"
tls = "none"
xclient_networks = ["unix"]
socket_mode = "0660"
socket_group = "root"
[[listener]]
name = "submission"
listen = "0.0.0.0:587"
role = "submission"
mechanisms = ["PLAIN", "SCRAM-SHA-256"]
[[listener]]
name = "mx"
listen = "0.0.0.0:2526"
role = "inbound"
domains = ["example.org", "*.example.net"]
verify_recipients = "list"
recipient_file = "{folder}/recipients"
recipient_delimiter = "+"
[[listener]]
name = "lmtp"
listen = "127.0.0.1:2424"
role = "inbound"
protocol = "lmtp"
domains = ["lists.example.org"]
verify_recipients = "call-ahead"
call_ahead = "lmtp://127.0.0.1:24"
[listener.verification]
keep_known = "1h"
keep_unknown = "1m"
entries = 1000
timeout = "5s"
connections = 3
unreachable = "defer"
[[credentials]]
kind = "file"
file = "{folder}/users"
[[credentials]]
kind = "http"
url = "https://log-in.example/ask"
token_file = "{secret}"
ca = "{certificate}"
timeout = "4s"
[[credentials]]
kind = "dovecot"
socket = "/dev/null"
service = "submission"
[[credentials]]
kind = "ldap"
url = "ldaps://directory.example"
user_dn = "uid={{log_in}},ou=people,dc=example"
[[credentials]]
kind = "ldap"
url = "ldaps://other.example"
base = "ou=people,dc=example"
filter = "(mail={{log_in}})"
bind_dn = "cn=relay,dc=example"
bind_password_file = "{secret}"
[[credentials]]
kind = "oauth2"
introspection_url = "https://login.example/introspect"
client_id = "relay"
client_secret_file = "{secret}"
scope = "mail"
log_in_claim = "username"
[[credentials]]
kind = "oauth2"
jwks_file = "{folder}/keys.json"
issuer = "https://login.example"
audience = "mail"
[[credentials]]
kind = "oauth2"
jwks_url = "https://keys.example/"
issuer = "https://keys.example"
audience = "mail"
[[credentials]]
kind = "http"
url = "https://s0.example"
token = "a-secret"
[[credentials]]
kind = "http"
url = "https://s1.example"
token_env = "HOME"
[[credentials]]
kind = "ldap"
url = "ldaps://s2.example"
base = "ou=people"
bind_dn = "cn=relay"
bind_password = "a-secret"
[[credentials]]
kind = "ldap"
url = "ldaps://s3.example"
base = "ou=people"
bind_dn = "cn=relay"
bind_password_env = "HOME"
[[credentials]]
kind = "oauth2"
introspection_url = "https://s4.example"
client_id = "relay"
client_secret = "a-secret"
[[credentials]]
kind = "oauth2"
introspection_url = "https://s5.example"
client_id = "relay"
client_secret_env = "HOME"
[[permission]]
name = "people"
log_ins = ["*@example.org"]
networks = ["10.1.0.0/16"]
tenants = ["shop"]
listeners = ["submission", "relay"]
reverse_paths = ["{{log_in}}", "example.net"]
from_addresses = ["{{log_in}}"]
null_reverse_path = true
recipients = 50
recipients_per_hour = 100
recipients_per_day = 1000
counted_by = "sender"
at_limit = "queue"
hold_above = "5x"
message_size = "5MB"
durability = "async"
tenant = "shop"
source_pool = "pool"
fix_up = true
hide_client = true
[[permission]]
name = "devices"
networks = ["10.2.0.0/16"]
recipients_per_hour = 100
hold_above = 30
legacy = true
rewrite_from = "Scanner <scan@example.org>"
[access]
verifiers = 3
waiting = 500
remember = "1m"
delay = "2s"
longest_delay = "20s"
address_failures = 10
log_in_failures = 20
window = "30m"
ban = "10m"
trusted_networks = ["10.0.0.9"]
[[route]]
name = "first"
recipients = ["example.org", "*.example.net", "a@example.com"]
senders = ["<>", "example.org"]
tenants = ["shop"]
listeners = ["relay", "sendmail"]
log_ins = ["alice*"]
headers = {{ "List-Id" = "*" }}
next_hop = ["smtps://smtp1.example.org", "smtp://smtp2.example.org:2525"]
connections = 5
source_pool = "pool"
messages_per_connection = 10
idle = "5s"
message_size = "5MB"
timeouts = {{ connect = "10s" }}
tls = "verify"
tls_name = "smtp.example.org"
tls_ca = "{certificate}"
tls_certificate = "{certificate}"
tls_key = "{key}"
retry = {{ first = "2m", expire = "2d" }}
auth = {{ user = "relay", mechanism = "PLAIN", password_file = "{secret}", plaintext = false }}
[[route]]
recipients = ["mailbox.example"]
next_hop = "lmtp+unix:/run/dovecot/lmtp"
delivered_to = true
[[route]]
recipients = ["oauth.example"]
next_hop = [{{ to = "smtps://a.example", weight = 2, priority = 1 }}, {{ to = "smtps://b.example" }}]
auth.user = "relay"
[route.auth.oauth2]
token_url = "https://login.example/token"
client_id = "c"
grant = "client_credentials"
client_secret_file = "{secret}"
scope = "mail"
ca = "{certificate}"
timeout = "20s"
[[route]]
recipients = ["program.example"]
next_hop = "pipe:/bin/cat"
pipe = {{ user = "nobody", timeout = "1m", cpu = "30s", memory = "100MB", output = "8KB" }}
[[route]]
recipients = ["inline.example"]
next_hop = "smtps://c.example"
auth = {{ user = "relay", password = "a-secret" }}
[[route]]
recipients = ["environment.example"]
next_hop = "smtps://d.example"
auth = {{ user = "relay", password_env = "HOME" }}
[[route]]
recipients = ["grant0.example"]
next_hop = "smtps://e0.example"
auth.user = "relay"
[route.auth.oauth2]
token_url = "https://login0.example/token"
client_id = "c"
grant = "client_credentials"
client_secret = "a-secret"
[[route]]
recipients = ["grant1.example"]
next_hop = "smtps://e1.example"
auth.user = "relay"
[route.auth.oauth2]
token_url = "https://login1.example/token"
client_id = "c"
grant = "client_credentials"
client_secret_env = "HOME"
[[route]]
recipients = ["grant2.example"]
next_hop = "smtps://e2.example"
auth.user = "relay"
[route.auth.oauth2]
token_url = "https://login2.example/token"
client_id = "c"
grant = "refresh_token"
refresh_token = "a-secret"
[[route]]
recipients = ["grant3.example"]
next_hop = "smtps://e3.example"
auth.user = "relay"
[route.auth.oauth2]
token_url = "https://login3.example/token"
client_id = "c"
grant = "refresh_token"
refresh_token_env = "HOME"
[[route]]
recipients = ["grant4.example"]
next_hop = "smtps://e4.example"
auth.user = "relay"
[route.auth.oauth2]
token_url = "https://login4.example/token"
client_id = "c"
grant = "refresh_token"
refresh_token_file = "{secret}"
[[provider]]
name = "big"
domains = ["big.example", "*.big.example"]
mail_hosts = ["*.mx.big.example"]
[[tls_policy]]
domains = ["fingerprint.example"]
tls = "fingerprint"
tls_fingerprints = ["{"0" * 64}"]
"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("samples")
    layout = Layout.below(str(folder))
    ensure_certificate(folder / "tls")
    texts = {
        role: compose(role, "relay.example.org", layout, wanted={"made", "tls"})
        for role in ("bulk", "smarthost", "sandbox")
    }
    texts["everything"] = everything(folder)
    made = [Sample(name, text) for name, text in texts.items()]
    for sample in made:
        assert [str(one) for one in examine_text(sample.text).problems if one.severity == "error"] == [], sample.name
    return made


def named(examination: Examination, sample: Sample, path: KeyPath, broken: str) -> list[Any]:
    """The problems that are exactly where the key is, which there must be."""
    at = [problem for problem in examination.problems if (problem.line, problem.column) == sample.positions[path]]
    assert at, (sample.name, path, broken, [str(problem) for problem in examination.problems])
    assert examination.config is None or all(problem.severity == "warning" for problem in at)
    return at


def model_keys(kind: type[Section], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        here = (*path, field.encode_name)
        inner = [t for t in (hints[field.name], *get_args(hints[field.name])) if isinstance(t, type)]
        tables = [t for t in inner if issubclass(t, Section)]
        yield here
        for table in tables:
            yield from model_keys(table, here)


def test_the_samples_have_every_key(samples: list[Sample]) -> None:
    written = {tuple(part for part in path if isinstance(part, str)) for sample in samples for path in sample.positions}
    same = {("listener", "limits"), ("route", "timeouts"), ("route", "retry")}  # tables that stand elsewhere as well
    lacking = {path for path in model_keys(Config) if path not in written and path[:2] not in same}
    lacking -= {("tls_policy", key) for key in ("tls_name", "tls_ca", "tls_certificate", "tls_key")}  # as in [[route]]
    lacking -= {("route", "tls_fingerprints")}  # as in [[tls_policy]]
    assert lacking == set()


@pytest.mark.parametrize("number", range(4))
def test_a_value_of_another_type(samples: list[Sample], number: int) -> None:
    sample = samples[number]
    for path in sample.values:
        if FREE & set(path):
            continue
        text = sample.with_value(path, DATE)
        problems = named(examine_text(text), sample, path, DATE)
        assert any("found" in problem.message or "expected" in problem.message for problem in problems), problems


MISSPELLINGS = (
    lambda word: word[:-1],
    lambda word: word + word[-1],
    lambda word: word[0] + word[2] + word[1] + word[3:] if len(word) > 3 else word + "x",
    lambda word: word.replace("_", "-") if "_" in word else word + "_",
    lambda word: word.upper(),
)


@pytest.mark.parametrize("misspell", MISSPELLINGS)
@pytest.mark.parametrize("number", range(4))
def test_a_misspelt_key(samples: list[Sample], number: int, misspell: Callable[[str], str]) -> None:
    sample, broken = samples[number], 0
    for path in sample.keys:
        word = str(path[-1])
        siblings = _keys_beside(path)
        wrong = misspell(word)
        if wrong in siblings or wrong == word or not re.fullmatch(r"[A-Za-z0-9_-]+", wrong):
            continue
        examination = examine_text(sample.with_key(path, wrong))
        problems = named(examination, sample, path, wrong)
        meant = [one.suggestion for one in problems if one.suggestion]
        assert set(meant) & siblings, (sample.name, path, wrong, problems)
        broken += 1
    assert broken > len(sample.keys) // 2


def _keys_beside(path: KeyPath) -> set[str]:
    kind: Any = Config
    for part in path[:-1]:
        if isinstance(part, int):
            continue
        field = next(one for one in fields(kind) if one.encode_name == part)
        hint = get_type_hints(kind)[field.name]
        kind = next(t for t in _types_in(hint) if issubclass(t, Section))
    return {field.encode_name for field in fields(kind)}


def _types_in(hint: Any) -> list[type]:
    if isinstance(hint, type):
        return [hint]
    return [found for argument in get_args(hint) for found in _types_in(argument)]


def _choices(path: KeyPath) -> list[str]:
    kind: Any = Config
    hint: Any = None
    for part in path:
        if isinstance(part, int):
            continue
        field = next((one for one in fields(kind) if one.encode_name == part), None)
        if field is None:
            return []
        hint = get_type_hints(kind)[field.name]
        kind = next((t for t in _types_in(hint) if issubclass(t, Section)), kind)
    return _words_in(hint)


def _words_in(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [word for word in get_args(hint) if isinstance(word, str)]
    return [word for argument in get_args(hint) for word in _words_in(argument)]


def test_a_misspelt_word_of_a_closed_choice(samples: list[Sample]) -> None:
    broken = 0
    for sample in samples:
        for path, (begin, end) in sample.values.items():
            words = _choices(path)
            written = sample.text[begin:end].strip('"')
            if written not in words:
                continue
            for wrong in (written[:-1], written + written[-1], written.upper()):
                if wrong in words:
                    continue
                problems = named(examine_text(sample.with_value(path, f'"{wrong}"')), sample, path, wrong)
                meant = {one.suggestion for one in problems} & set(words)
                # "1." is as near to "1.2" as to "1.3"
                others = get_close_matches(wrong.lower(), [word.lower() for word in words if word != written])
                assert meant == {written} or (meant and others), (path, wrong, problems)
                broken += 1
    assert broken > 40


def test_an_empty_text_and_a_number_out_of_bounds(samples: list[Sample]) -> None:
    texts = numbers = 0
    for sample in samples:
        for path, (begin, end) in sample.values.items():
            written = sample.text[begin:end]
            if FREE & set(path):
                continue
            if written.startswith('"'):
                named(examine_text(sample.with_value(path, '""')), sample, path, '""')
                texts += 1
            elif re.fullmatch(r"[0-9.]+", written):
                named(examine_text(sample.with_value(path, "-1000")), sample, path, "-1000")
                named(examine_text(sample.with_value(path, "9" * 30)), sample, path, "9…")
                numbers += 1
    assert texts > 100
    assert numbers > 20


@pytest.mark.parametrize(
    ("path", "wrong", "meant"),
    [
        (("node", "user"), '"nobodi"', "nobody"),
        (("node", "group"), '"roott"', "root"),
        (("route", 0, "tenants", 0), '"shpo"', "shop"),
        (("route", 0, "listeners", 0), '"realy"', "relay"),
        (("route", 0, "listeners", 1), '"sendmial"', "sendmail"),
        (("listener", 0, "tenant"), '"shopp"', "shop"),
        (("sendmail", "tenant"), '"shops"', "shop"),
        (("notification", "languages"), '["dee"]', "de"),
        (("route", 3, "pipe", "user"), '"nobdy"', "nobody"),
    ],
)
def test_a_name_that_stands_for_nothing(samples: list[Sample], path: KeyPath, wrong: str, meant: str) -> None:
    sample = samples[-1]
    problems = named(examine_text(sample.with_value(path, wrong)), sample, path, wrong)
    assert [problem.suggestion for problem in problems] == [meant]


@pytest.mark.parametrize(
    "path", [("tls", "certificate"), ("tls", "key"), ("admin", "token_file"), ("route", 0, "auth", "password_file")]
)
def test_a_file_that_is_not_there(samples: list[Sample], path: KeyPath) -> None:
    sample = samples[-1]
    begin, end = sample.values[path]
    file = sample.text[begin + 1 : end - 1]
    for wrong in (f"{file}x", file.replace("/samples", "/sampels")):
        problems = named(examine_text(sample.with_value(path, f'"{wrong}"')), sample, path, wrong)
        assert [problem.suggestion for problem in problems] == [file]


def test_a_next_hop_of_no_kind(samples: list[Sample]) -> None:
    """What is wrong within a text names what was meant in words."""
    sample = samples[-1]
    path = ("route", 1, "next_hop")
    problems = named(examine_text(sample.with_value(path, '"lmpt+unix:/run/lmtp"')), sample, path, "")
    assert 'did you mean "lmtp+unix:/path"?' in problems[0].message


def test_a_key_that_is_required(samples: list[Sample]) -> None:
    for key in (("node", "hostname"), ("node", "spool"), ("listener", 0, "name"), ("listener", 0, "role")):
        for sample in samples:
            begin = sample.offset(key)
            line_end = sample.text.index("\n", begin)
            examination = examine_text(sample.text[:begin] + sample.text[line_end + 1 :])
            assert examination.config is None
            (problem,) = [one for one in examination.problems if one.message == "is required and not there"]
            assert (problem.line, problem.column) == sample.positions[key[:-1]]


@pytest.mark.parametrize("number", range(4))
def test_what_is_no_toml_is_named_with_its_place(samples: list[Sample], number: int) -> None:
    """Any value without its last octet, or a key without its equals sign: the place is where TOML ends, or before."""
    broken = 0
    for sample in samples[number : number + 1]:
        for path, (begin, end) in sample.values.items():
            for text in (sample.text[: end - 1] + sample.text[end:], sample.text[:begin] + sample.text[end:]):
                try:
                    tomllib.loads(text)
                except tomllib.TOMLDecodeError:
                    pass
                else:
                    continue
                examination = examine_text(text, file="angarium.toml")
                assert examination.config is None
                (problem,) = examination.problems
                line = text[:begin].count("\n") + 1
                assert problem.line >= line, (path, problem)
                assert problem.column > 0
                assert str(problem).startswith(f"angarium.toml:{problem.line}:{problem.column}: is not TOML: ")
                broken += 1
    assert broken > 10
