"""From a file to a Config, or to every reason why not."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
import trustme

from angarium.config.load import ConfigErrors, Examination, examine, examine_text, load_config
from angarium.config.model import Config, Limits, Retry, dump, load_dump

if TYPE_CHECKING:
    from pathlib import Path

NODE = '[node]\nhostname = "relay.example.org"\nspool = "/var/spool/angarium"\n'
LISTENER = '[[listener]]\nname = "relay"\nlisten = "127.0.0.1:25"\nrole = "relay"\nrelay_networks = ["10.0.0.0/8"]\n'
STAR = '[[route]]\nrecipients = ["*"]\nnext_hop = "discard:"\n'


def config_of(text: str) -> Config:
    """The configuration of a text without any problem."""
    examination = examine_text(text)
    assert examination.problems == ()
    assert examination.config is not None
    return examination.config


def errors_of(text: str) -> list[str]:
    """What is wrong, as `LINE:COLUMN KEY: message`."""
    examination = examine_text(text)
    assert examination.config is None
    return shown(examination)


def warnings_of(text: str) -> list[str]:
    examination = examine_text(text)
    assert examination.config is not None
    assert {problem.severity for problem in examination.problems} <= {"warning"}
    return shown(examination)


def shown(examination: Examination) -> list[str]:
    return [
        f"{p.line}:{p.column} {p.key}: {p.message}" + (f" [{p.suggestion}]" if p.suggestion else "")
        for p in examination.problems
    ]


def listener(**keys: str) -> str:
    """A listener on a port of its own, with these keys (TOML values) instead of or added to the usual ones."""
    usual = {"name": '"x"', "listen": '"127.0.0.1:99"', "role": '"relay"', "relay_networks": '["10.0.0.0/8"]'}
    return "[[listener]]\n" + "".join(f"{key} = {value}\n" for key, value in (usual | keys).items())


def tenant(**keys: str) -> str:
    """A tenant with a network, and these keys besides or instead."""
    usual = {"name": '"shop"', "networks": '["10.1.0.0/16"]'}
    return "[[tenant]]\n" + "".join(f"{key} = {value}\n" for key, value in (usual | keys).items())


def test_a_tenant_s_keys() -> None:
    keys = {"class": '"bulk"', "weight": "7", "durability": '"async"', "durability_floor": '"memory"'}
    (found,) = config_of(NODE + LISTENER + tenant(**keys, durability_ceiling='"async"', highest_priority="-3")).tenant
    assert (found.class_, found.weight, found.durability, found.highest_priority) == ("bulk", 7, "async", -3)
    assert (found.durability_floor, found.durability_ceiling) == ("memory", "async")
    assert "10.1.2.3" in found.networks[0]


def test_a_listener_s_tenant_must_be_there() -> None:
    text = NODE + listener(tenant='"shob"') + tenant()
    assert errors_of(text) == ['9:1 listener[0].tenant: there is no tenant "shob" [shop]']


def test_tenants_have_names_of_their_own() -> None:
    text = NODE + LISTENER + tenant() + tenant(networks='["10.2.0.0/16"]') + tenant(name='"a b"')
    assert errors_of(text) == [
        '13:1 tenant[1].name: another tenant is named "shop" too',
        '16:1 tenant[2].name: "a b" is not a name: letters, digits, ".", "_" and "-", at most 64',
        '17:13 tenant[2].networks[0]: 10.1.0.0/16 is of tenant "shop" already, and the first match wins',
    ]


def test_a_tenant_without_mail_is_a_warning() -> None:
    text = NODE + LISTENER + tenant(networks="[]")
    assert warnings_of(text) == [
        '9:1 tenant[0]: no mail is of tenant "shop": it has no networks, and no listener names it'
    ]
    assert config_of(NODE + listener(tenant='"shop"') + tenant(networks="[]")).tenant[0].name == "shop"


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"durability": '"async"', "durability_floor": '"fsync"'}, "durability_floor"),
        ({"durability": '"fsync"', "durability_ceiling": '"async"'}, "durability_ceiling"),
        ({"durability_ceiling": '"memory"'}, "durability_ceiling"),
        ({"durability": '"memory"', "durability_floor": '"async"', "durability_ceiling": '"fsync"'}, "durability_ceil"),
    ],
)
def test_a_class_that_is_not_allowed_is_an_error(keys: dict[str, str], key: str) -> None:
    (error,) = errors_of(NODE + listener(**keys))
    assert f"listener[0].{key}" in error
    assert "does not stand between the strongest one allowed" in error
    (error,) = errors_of(NODE + LISTENER + tenant(**keys))
    assert f"tenant[0].{key}" in error
    assert 'on listener "relay"' in error


def test_a_tenant_s_floor_is_checked_where_its_mail_comes_in() -> None:
    strict = listener(tenant='"shop"', durability='"async"', durability_floor='"memory"', durability_ceiling='"async"')
    assert config_of(NODE + strict + tenant(networks="[]", durability='"memory"')).tenant[0].durability == "memory"
    (error,) = errors_of(NODE + strict + tenant(networks="[]", durability='"fsync"'))
    assert 'tenant[0].durability: on listener "x": the class fsync does not stand between' in error


@pytest.mark.parametrize("name", ['"MIXER"', '"STANAG4406"', '"x-1"'])
def test_a_priority_profile(name: str) -> None:
    assert config_of(NODE + listener(priority_profile=name)).listener[0].priority_profile == name.strip('"')


@pytest.mark.parametrize("name", ['"A B"', '"-x"', '"ä"', f'"{"x" * 33}"', '"x\\r\\n250 evil"'])
def test_what_is_no_priority_profile(name: str) -> None:
    (error,) = errors_of(NODE + listener(priority_profile=name))
    assert "is not a profile such as" in error


@pytest.mark.parametrize("value", ["10", "-10", "1.5", '"high"'])
def test_priorities_are_from_9_below_to_9_above(value: str) -> None:
    assert len(errors_of(NODE + listener(highest_priority=value))) == 1


def test_a_hang_timeout_leaves_room_for_heartbeats() -> None:
    assert config_of(NODE + LISTENER).node.hang_timeout_s == 30.0
    for good in ("0", '"2s"', '"1h"'):
        assert config_of(f"{NODE}hang_timeout = {good}\n{LISTENER}").node.hang_timeout_s in {0.0, 2.0, 3600.0}
    (error,) = errors_of(f'{NODE}hang_timeout = "1s"\n{LISTENER}')
    assert "node.hang_timeout: 1s is less than 2s" in error


def test_memory_marks_stand_in_order() -> None:
    queue = config_of(NODE + LISTENER + "[queue]\nmemory_soft_mark = 0.2\nmemory_hard_mark = 0.9\n").queue
    assert (queue.memory_soft_mark, queue.memory_hard_mark) == (0.2, 0.9)
    (error,) = errors_of(NODE + LISTENER + "[queue]\nmemory_soft_mark = 0.9\n")
    assert "queue.memory_soft_mark: 0.9 is not below the hard mark, 0.85" in error
    assert len(errors_of(NODE + LISTENER + "[queue]\nmemory_hard_mark = 1.5\n")) == 1


def test_a_route_s_retry_schedule_takes_from_the_queue_s_what_it_does_not_say() -> None:
    route = '[[route]]\nrecipients = ["a.example"]\nnext_hop = "discard:"\n'
    config = config_of(
        NODE
        + LISTENER
        + route
        + 'retry = { first = "10s", expire = "1h", warn_after = "0s" }\n'
        + route.replace("a.example", "b.example")
        + '[queue.retry]\nfactor = 3\nfirst = "30s"\n'
    )
    assert config.route[0].retry == Retry(first_s=10.0, factor=3.0, expire_s=3600.0, warn_after_s=0.0)
    assert config.route[1].retry is None
    assert load_dump(dump(config)) == config


def test_a_route_s_retry_schedule_is_checked_like_the_queue_s() -> None:
    route = '[[route]]\nrecipients = ["a.example"]\nnext_hop = "discard:"\nretry = { first = "5h" }\n'
    (error,) = errors_of(NODE + LISTENER + route)
    assert "is longer than the longest interval" in str(error)


def test_a_configuration_with_everything() -> None:
    config = config_of(
        NODE
        + LISTENER
        + 'durability = "async"\nbare_newline = "repair"\nrepair_networks = ["10.1.1.1"]\n'
        + '[admin]\nlisten = "unix:/run/a.sock"\n'
        + '[dns]\nservers = ["127.0.0.1"]\ndnssec = "trust-ad"\n'
        + '[limits]\nmessage_size = "10MB"\nidle_timeout = 30\n'
        + '[queue]\nshards = 4\nmemory_budget = "1GB"\nretry = { first = "30s", factor = 3, jitter = 0 }\n'
        + '[delivery]\nbdat = "never"\n[delivery.timeouts]\nfinal = "20m"\n'
        + '[[route]]\nrecipients = ["*.example.net", "a@b.example"]\nnext_hop = "smtp://192.0.2.1"\nconnections = 3\n'
    )
    assert config.node.hostname == "relay.example.org"
    assert config.durability_of(config.listener[0]) == "async"
    assert "10.1.1.1" in config.listener[0].repair_networks[0]
    assert str(config.admin.listen) == "unix:/run/a.sock"
    assert [str(server) for server in config.dns.servers] == ["127.0.0.1:53"]
    assert config.limits == Limits(message_size_octets=10_000_000, idle_timeout_s=30.0)
    assert config.queue.retry == Retry(first_s=30.0, factor=3.0, jitter=0.0)
    assert config.delivery.timeouts.final_s == 1200.0
    assert str(config.route[0].next_hop) == "smtp://192.0.2.1:25"
    assert config.route[0].recipients[0].matches(b"x", b"deep.EXAMPLE.net")
    assert load_dump(dump(config)) == config


def test_a_dump_of_something_else_is_refused() -> None:
    config = config_of(NODE + LISTENER)
    assert load_dump(dump(config)) == config
    document = msgspec.msgpack.decode(dump(config))
    document["node"]["colour"] = "red"
    with pytest.raises(msgspec.ValidationError, match="colour"):
        load_dump(msgspec.msgpack.encode(document))


def test_every_problem_is_reported_in_the_order_of_the_file() -> None:
    text = (
        '[node]\nhostnam = "a"\nspool = 5\nworkers = "atuo"\n'
        '[queue]\ndurability = "fsnyc"\nretry = { first = "1x", factor = true }\n'
        '[[listener]]\nname = "a"\nlisten = "25"\nrole = "relay"\nrelay_networks = ["10.0.0.0/8", 5]\n'
        "[lmits]\n"
    )
    assert errors_of(text) == [
        "2:1 node.hostnam: unknown key in [node] [hostname]",
        "3:1 node.spool: expected a string, found the integer 5",
        '4:1 node.workers: expected an integer or "auto", found "atuo" [auto]',
        '6:1 queue.durability: expected one of "fsync", "async", "memory", found the string "fsnyc" [fsync]',
        '7:11 queue.retry.first: "1x" is not a duration; write it like "90s", "1m", "4h", "5d" or "250ms"',
        "7:25 queue.retry.factor: expected a number, found the boolean true",
        '10:1 listener[0].listen: "25" is not an address and a port, as in "0.0.0.0:25", "[::]:25" or "127.0.0.1:2525"',
        '12:33 listener[0].relay_networks[1]: expected a network such as "10.0.0.0/8", found the integer 5',
        "13:1 lmits: unknown key at the top level [limits]",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("limits.recipients = true", "expected an integer, found the boolean true"),
        ("limits.recipients = 1.5", "expected an integer, found the number 1.5"),
        ("limits.recipients = 0", "must be at least 1, is 0"),
        ("limits.recipients = 65536", "must be at most 65535, is 65536"),
        ("limits.connections = 1000000001", "must be at most 1000000000, is 1000000001"),
        (
            "limits.connections = 99999999999999999999999",
            "expected an integer, found an integer larger than any that makes sense",
        ),
        (
            "limits.message_size = 1979-05-27",
            'expected a size such as "50MB" or a number of octets, found the date or time',
        ),
        ("limits.message_size = 0", "must be at least 1, is 0"),
        ('limits.command_line = "511B"', "must be at least 512, is 511"),
        ("limits.idle_timeout = 0", "must be more than 0s, is 0s"),
        ("limits.idle_timeout = nan", "expected a duration"),
        ("limits.idle_timeout = inf", "expected a duration"),
        ("limits.idle_timeout = -5", "is not a duration"),
        ("limits.idle_timeout = 1" + "0" * 400, "expected a duration"),
        ("limits.idle_timeout = 1e12", "more than ten years"),
        ("limits = 5", "expected a table, found the integer 5"),
        ("queue.retry.factor = 0.5", "must be at least 1, is 0.5"),
        ("queue.retry.factor = nan", "expected a number, found the number nan"),
        (
            "queue.memory_budget = true",
            'expected a share such as "25%" or a size such as "2GB", found the boolean true',
        ),
        ("queue.durability = []", "found an array"),
        ("queue.shards = 0", "must be at least 1"),
        ("queue.shards = true", "expected an integer, found the boolean true"),
        ("sandbox = 1", "expected true or false, found the integer 1"),
        ('events.file = ""', "not empty"),
        ('dns.servers = "127.0.0.1"', 'expected an array, found the string "127.0.0.1"; write ["..."]'),
        ("route = {}", "expected an array, found a table; write each as [[route]]"),
        ("admin.listen = {}", "expected an address and a port"),
        ('node = "x"', "expected a table"),
    ],
)
def test_a_value_that_cannot_be_used(line: str, message: str) -> None:
    text = f"{line}\n{LISTENER}" + ("" if line.startswith("node") else NODE)
    examination = examine_text(text)
    assert examination.config is None
    (problem,) = examination.problems
    assert problem.line == 1
    assert problem.key == line.partition(" =")[0]
    assert message in problem.message


def test_a_key_of_another_table_says_where_it_belongs() -> None:
    assert errors_of(NODE + "recipients = 5\n" + LISTENER + "[events]\ncolour = 1\n") == [
        "4:1 node.recipients: unknown key in [node]; it belongs in [listener.limits]",
        "11:1 events.colour: unknown key in [events]; its keys are compression, facility, "
        "file, flush_interval, keep, keep_size, keep_unsent, rotate_every, rotate_size, syslog, to",
    ]


def test_what_is_required_is_missed_at_its_table() -> None:
    text = '\n[node]\nhostname = "a.example"\n[[listener]]\nname = "r"\n[[listener]]\n[tls]\nkey = "/dev/null"\n'
    found = errors_of(text)
    assert found == [
        "2:1 node.spool: is required and not there",
        "4:1 listener[0].listen: is required and not there",
        "4:1 listener[0].role: is required and not there",
        "6:1 listener[1].name: is required and not there",
        "6:1 listener[1].listen: is required and not there",
        "6:1 listener[1].role: is required and not there",
        "7:1 tls.certificate: is required and not there",
    ]
    assert errors_of("") == [
        "1:1 node: is required and not there",
        "1:1 listener: is required and not there",
    ]
    assert errors_of("listener = []\n" + NODE) == ["1:1 listener: there is no listener, so no mail would be accepted"]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("[node]\nhostname = \n", "2:12", "is not TOML: Invalid value"),
        ("[node\n", "1:6", "is not TOML: Expected ']' at the end of a table declaration"),
        ('a = 1\nb = "x', "2:7", "is not TOML: Unterminated string"),
        ("a = 1\r\na = 2\r\n", "2:6", "is not TOML: Cannot overwrite a value"),
    ],
)
def test_what_is_not_toml(text: str, place: str, message: str) -> None:
    (found,) = errors_of(text)
    assert found == f"{place} : {message}"


def test_line_ends_and_byte_order_mark_of_other_systems(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"\xef\xbb\xbf" + (NODE + LISTENER).replace("\n", "\r\n").encode())
    assert load_config(file).listener[0].name == "relay"
    file.write_bytes(b"\r\n\r\n[nod]\r\n")
    assert "3:1 nod: unknown key at the top level [node]" in shown(examine(file))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load_config(tmp_path / "none.toml")
    assert str(caught.value) == f"{tmp_path}/none.toml: cannot be read: No such file or directory"
    file = tmp_path / "latin1.toml"
    file.write_bytes("[node]\n# ü".encode() + b"\xfc\n")
    assert shown(examine(file)) == ["2:4 : is not UTF-8: octet 0xFC"]


def test_errors_name_file_and_place(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(NODE + LISTENER + "[limits]\nrecipient = 5\n")
    with pytest.raises(ConfigErrors) as caught:
        load_config(file)
    assert str(caught.value) == (f'{file}:10:1: limits.recipient: unknown key in [limits] (did you mean "recipients"?)')


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('[node]\nhostname = "a.example"\nspool = "spool"\n[events]\nfile = "/log/e"\n' + LISTENER)
    config = load_config(file)
    assert config.node.spool == f"{tmp_path}/spool"
    assert config.events.file == "/log/e"


def test_a_listener_takes_from_the_node_what_its_limits_do_not_say() -> None:
    config = config_of(
        LISTENER + "limits.recipients = 200\n" + listener() + "[limits]\nrecipients = 500\nerrors = 7\n" + NODE
    )
    first, second = config.listener
    assert first.limits == Limits(recipients=200, errors=7)
    assert config.limits_of(first) == first.limits
    assert second.limits is None
    assert config.limits_of(second) == Limits(recipients=500, errors=7)


# --- between keys


def test_hostname() -> None:
    for name, message in [("192.0.2.1", "is an address"), ("a b", "not a host name"), ("a..b", "not a host name")]:
        (found,) = errors_of(NODE.replace("relay.example.org", name) + LISTENER)
        assert message in found
    (found,) = warnings_of(NODE.replace("relay.example.org", "relay") + LISTENER)
    assert found.startswith('2:1 node.hostname: "relay" is not fully qualified')


def test_user_and_group_must_exist() -> None:
    assert config_of(NODE + 'user = "root"\ngroup = "root"\n' + LISTENER).node.user == "root"
    assert errors_of(NODE + 'user = "no-such"\ngroup = "nobody-here"\n' + LISTENER) == [
        '4:1 node.user: there is no user "no-such" on this machine',
        '5:1 node.group: there is no group "nobody-here" on this machine',
    ]


def test_more_workers_than_shards() -> None:
    assert config_of(NODE + "workers = 4\n" + LISTENER + "[queue]\nshards = 4\n").node.workers == 4
    (found,) = errors_of(NODE + "workers = 5\n" + LISTENER + "[queue]\nshards = 4\n")
    assert found.startswith("4:1 node.workers: 5 workers cannot share 4 shard(s)")


def test_an_admin_address_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    admin = '[admin]\nlisten = "0.0.0.0:8025"\n'
    (found,) = errors_of(admin + NODE + LISTENER)
    assert found.startswith("2:1 admin.listen: 0.0.0.0:8025 can be reached from other machines")
    token = tmp_path / "token"
    text = f'{admin}token_file = "{token}"\n{NODE}{LISTENER}'
    assert errors_of(text) == [f"3:1 admin.token_file: {token} cannot be read: No such file or directory"]
    token.write_text("\n")
    assert errors_of(text) == [f"3:1 admin.token_file: {token} is empty"]
    token.write_text("secret\n")
    assert config_of(text).admin.token_file == str(token)
    # one mistake, one message: an unusable token_file is not a missing one
    assert len(errors_of(f"{admin}token_file = 5\n{NODE}{LISTENER}")) == 1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_files(folder: Path, authority: trustme.CA) -> tuple[Path, Path]:
    issued = authority.issue_cert("relay.example.org")
    certificate, key = folder / "c.pem", folder / "k.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return certificate, key


def test_certificate_and_key_are_loaded_together(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, key = tls_files(tmp_path, authority)
    text = f'{NODE}{LISTENER}[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    config = config_of(text)
    assert config.tls is not None
    assert config.tls.key == str(key)
    key.write_bytes(authority.issue_cert("other.example").private_key_pem.bytes())
    assert errors_of(text) == [f"11:1 tls.key: {key} is not the key of the certificate in {certificate}"]
    key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    assert errors_of(text) == [f"11:1 tls.key: {key} is encrypted; the relay needs it without a pass phrase"]
    key.write_text("nothing")
    assert errors_of(text) == [f"11:1 tls.key: {key} has no private key in PEM form"]
    certificate.write_text("nothing")
    assert errors_of(text) == [f"10:1 tls.certificate: {certificate} has no certificate in PEM form"]
    certificate.unlink()
    key.unlink()
    assert errors_of(text) == [
        f"10:1 tls.certificate: {certificate} cannot be read: No such file or directory",
        f"11:1 tls.key: {key} cannot be read: No such file or directory",
    ]


def test_a_certificate_that_is_damaged(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, key = tls_files(tmp_path, authority)
    certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (found,) = errors_of(f'{NODE}{LISTENER}[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n')
    assert found.startswith("10:1 tls.certificate: the certificate and key cannot be loaded")


def test_starttls_is_the_default_once_there_is_a_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, key = tls_files(tmp_path, authority)
    tls = f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    listeners = LISTENER + listener(tls='"none"')
    assert [entry.tls for entry in config_of(NODE + listeners).listener] == ["none", "none"]
    assert [entry.tls for entry in config_of(NODE + listeners + tls).listener] == ["starttls", "none"]


def test_a_listener_with_tls_needs_a_certificate() -> None:
    assert errors_of(NODE + LISTENER + 'tls = "implicit"\n') == [
        '9:1 listener[0].tls: "implicit" needs a [tls] section with certificate and key'
    ]


def test_names_and_addresses_of_listeners_are_unique() -> None:
    text = (
        NODE
        + LISTENER
        + listener(name='"relay"', listen='"127.0.0.1:8025"')
        + listener(name='"a b"', listen='"127.0.0.1:25"')
    )
    assert errors_of(text) == [
        '10:1 listener[1].name: another listener is named "relay" too',
        "11:1 listener[1].listen: 127.0.0.1:8025 is the address of admin.listen already",
        '15:1 listener[2].name: "a b" is not a name: letters, digits, ".", "_" and "-", at most 64',
        '16:1 listener[2].listen: 127.0.0.1:25 is the address of listener "relay" already',
    ]
    anywhere = listener(listen='"127.0.0.1:0"') + listener(name='"y"', listen='"127.0.0.1:0"')
    assert len(config_of(NODE + anywhere).listener) == 2


def test_positions_are_right_behind_a_listener_that_cannot_be_used() -> None:
    text = NODE + "[[listener]]\nname = 1\n" + LISTENER + 'tls = "starttls"\n'
    assert errors_of(text)[-1].startswith("11:1 listener[1].tls: ")


@pytest.mark.parametrize("networks", ['["0.0.0.0/0"]', '["10.0.0.0/8", "::/0"]', '["0.0.0.0/1", "128.0.0.0/1"]'])
def test_an_open_relay_must_be_meant(networks: str) -> None:
    (found,) = errors_of(NODE + listener(relay_networks=networks))
    assert found.startswith("8:1 listener[0].relay_networks: every IPv")
    assert config_of(NODE + listener(relay_networks=networks, allow_open_relay="true")).listener[0].allow_open_relay


def test_a_relay_for_nobody_is_a_warning() -> None:
    (found,) = warnings_of(NODE + listener(relay_networks="[]"))
    assert found.startswith("4:1 listener[0]: ")


def test_bare_newlines_are_repaired_for_named_clients_only() -> None:
    (found,) = errors_of(NODE + listener(bare_newline='"repair"'))
    assert found.startswith('9:1 listener[0].bare_newline: "repair" is for named legacy clients only')
    (found,) = errors_of(NODE + listener(repair_networks='["10.1.1.1"]'))
    assert found.startswith("9:1 listener[0].repair_networks: has no effect")


def test_roles_of_later_versions_say_so() -> None:
    plaintext, nobody = errors_of(NODE + listener(role='"submission"', tls='"none"'))
    assert "listener[0].role: a log-in is offered under TLS only" in plaintext
    assert "listener[0].role: there is nobody to verify log-ins" in nobody
    (found,) = errors_of(NODE + listener(auth='"any"'))
    assert found.startswith("9:1 listener[0].auth: ")


def test_limits_below_the_minimum_of_the_standard_are_warnings() -> None:
    text = NODE + LISTENER + 'limits.message_size = "1KB"\n[limits]\nrecipients = 99\nconnections_per_client = 20000\n'
    assert [line.partition(": ")[0] for line in warnings_of(text)] == [
        "9:8 listener[0].limits.message_size",
        "11:1 limits.recipients",
        "12:1 limits.connections_per_client",
    ]


def test_a_name_server_elsewhere_whose_word_is_taken_is_a_warning() -> None:
    text = NODE + LISTENER + '[dns]\nservers = ["127.0.0.1", "192.0.2.53"]\n'
    (found,) = warnings_of(text + 'dnssec = "trust-ad"\n')
    assert found.startswith("10:25 dns.servers[1]: 192.0.2.53:53 is not on this machine"), found
    assert warnings_of(text) == []


def test_retry_intervals_must_make_sense() -> None:
    def retry(keys: str) -> str:
        return f"{NODE}{LISTENER}[queue]\nretry = {{ {keys} }}\n"

    assert errors_of(retry('first = "5h"')) == ["10:11 queue.retry.first: 5h is longer than the longest interval, 4h"]
    (found,) = errors_of(retry('first = "1h", expire = "1h", warn_after = 0'))
    assert "mail that expires after 1h would never be tried again" in found
    (found,) = warnings_of(retry('expire = "2h"'))
    assert "before anyone is warned" in found


def test_routes_that_no_mail_takes() -> None:
    first = '[[route]]\nrecipients = ["a.example", "b.example"]\nnext_hop = "mx"\n'
    again = '[[route]]\nrecipients = ["B.Example", "c.example"]\nnext_hop = "discard:"\n'
    assert warnings_of(NODE + LISTENER + first + again + STAR + first) == [
        '13:15 route[1].recipients[0]: "b.example" stands in route[0] already, and the first match wins',
        '18:1 route[3]: no mail takes this route: route[2] in front of it has "*"',
    ]
    (found,) = errors_of(NODE + LISTENER + '[[route]]\nrecipients = []\nnext_hop = "mx"\n')
    assert found.startswith("10:1 route[0].recipients: is empty")


def test_names_of_routes_are_unique() -> None:
    named = '[[route]]\nname = "a"\nrecipients = ["{0}.example"]\nnext_hop = "mx"\n'
    text = NODE + LISTENER + named.format("a") + named.format("b") + named.format("c").replace('"a"', '"/"', 1)
    assert [line.partition(": ")[2][:23] for line in errors_of(text)] == [
        "another route is named ",
        '"/" is not a name: lett',
    ]


def test_a_route_back_to_the_relay_itself() -> None:
    for listen, host in [("127.0.0.1:99", "127.0.0.1"), ("0.0.0.0:99", "127.0.0.7"), ("192.0.2.1:99", "192.0.2.1")]:
        text = f'{NODE}{listener(listen=repr(listen))}[[route]]\nrecipients = ["*"]\nnext_hop = "smtp://{host}:99"\n'
        (found,) = errors_of(text)
        assert found.startswith('11:1 route[0].next_hop: leads back to listener "x"')
    other = f'{NODE}{LISTENER}[[route]]\nrecipients = ["*"]\nnext_hop = "smtp://127.0.0.1:26"\n'
    assert config_of(other).route[0].next_hop.port == 26


def test_dates_are_not_values() -> None:
    day = datetime.date(1979, 5, 27)
    assert f"date or time {day}" in errors_of(f"{NODE}user = {day}\n{LISTENER}")[0]


def route(**keys: str) -> str:
    """A configuration with one route, on line 9 and after."""
    written = {"recipients": '["*"]', "next_hop": '"smtp://192.0.2.1"'} | keys
    return NODE + LISTENER + "[[route]]\n" + "".join(f"{key} = {value}\n" for key, value in written.items())


def test_the_conditions_of_a_route() -> None:
    text = route(
        senders='["<>", "*.example.org", "a@b.example"]',
        listeners='["relay"]',
        log_ins='["app-*"]',
        headers='{ "X-Stream" = "Bulk*", List-Id = "*" }',
        tenants='["shop"]',
    )
    (made,) = config_of(text + '[[tenant]]\nname = "shop"\nnetworks = ["10.0.0.0/8"]\n').route
    assert list(map(str, made.senders)) == ["<>", "*.example.org", "a@b.example"]
    assert (made.listeners, made.tenants, list(map(str, made.log_ins))) == (("relay",), ("shop",), ["app-*"])
    assert [(each.name, str(each.value)) for each in made.headers] == [("X-Stream", "bulk*"), ("List-Id", "*")]
    assert made.conditional
    assert not config_of(route()).route[0].conditional


@pytest.mark.parametrize(
    ("keys", "key", "reason"),
    [
        ({"tenants": '["shpo"]'}, "tenants[0]", 'there is no tenant "shpo" [shop]'),
        ({"listeners": '["relay", "y"]'}, "listeners[1]", 'there is no listener "y"'),
        ({"senders": '["<x>"]'}, "senders[0]", '"<x>" is not a domain'),
        ({"headers": '["X-Stream"]'}, "headers", "expected a table such as"),
        ({"headers": '{ "X Stream" = "a" }'}, "headers", "is not the name of a header field"),
        ({"headers": '{ "X-Stream" = 1 }'}, "headers", "X-Stream: expected a text"),
        ({"next_hop": "[]"}, "next_hop", "is empty"),
        ({"next_hop": '["smtp://a", { to = "smtp://b" }]'}, "next_hop", "not a mixture"),
        ({"next_hop": '["smtp://a.example", "maildir:/x"]'}, "next_hop[1]", "cannot be one of several next hops"),
        ({"next_hop": '["mx", "smtp://a.example"]'}, "next_hop[0]", "cannot be one of several next hops"),
        ({"next_hop": '["smtp://a.example", "smtp://a.example:25"]'}, "next_hop[1]", "stands in this route twice"),
        ({"next_hop": '["smtp://a.example", "smtp://"]'}, "next_hop[1]", "names no host"),
        ({"next_hop": '[{ to = "smtp://a.example", wieght = 2 }]'}, "next_hop[0].wieght", "[weight]"),
        ({"next_hop": '[{ to = "smtp://a.example", weight = 0 }]'}, "next_hop[0].weight", "must be at least 1"),
        ({"next_hop": "[{ weight = 2 }]"}, "next_hop[0].to", "is required and not there"),
        ({"pipe": '{ timeout = "5s" }'}, "pipe", 'has no effect: the next hop is no "pipe:"'),
        (
            {"next_hop": '"pipe:/bin/cat"', "pipe": '{ user = "no-such-user" }'},
            "pipe.user",
            'there is no user "no-such-user"',
        ),
    ],
)
def test_what_a_route_cannot_be(keys: dict[str, str], key: str, reason: str) -> None:
    found = errors_of(route(**keys) + '[[tenant]]\nname = "shop"\nnetworks = ["10.0.0.0/8"]\n')
    assert len(found) == 1, found
    assert f" route[0].{key}: " in found[0]
    assert reason in found[0]


def test_next_hops_in_order_and_in_shares() -> None:
    (in_order,) = config_of(route(next_hop='["smtp://a.example", "smtp://b.example:26"]')).route
    assert [(str(hop.to), hop.weight, hop.priority) for hop in in_order.hops] == [
        ("smtp://a.example:25", 1, 0),
        ("smtp://b.example:26", 1, 1),
    ]
    shares = '[{ to = "smtp://a.example", weight = 3 }, { to = "smtp://b.example", priority = 7 }]'
    (shared,) = config_of(route(next_hop=shares)).route
    assert [(hop.weight, hop.priority) for hop in shared.hops] == [(3, 0), (1, 7)]
    assert load_dump(dump(config_of(route(next_hop=shares)))).route == (shared,)


def test_timeouts_of_a_route_take_what_they_do_not_say_from_the_delivery_table() -> None:
    text = route(timeouts='{ connect = "3s" }') + '[delivery]\ntimeouts = { mail = "7s" }\n'
    (made,) = config_of(text).route
    assert made.timeouts is not None
    assert (made.timeouts.connect_s, made.timeouts.mail_s, made.timeouts.rcpt_s) == (3.0, 7.0, 300.0)


def test_a_route_with_conditions_is_no_reason_to_warn_of_those_behind_it() -> None:
    behind = '[[route]]\nrecipients = ["*"]\nnext_hop = "discard:"\n'
    assert examine_text(route(senders='["a.example"]') + behind).problems == ()
    assert [problem.key for problem in examine_text(route() + behind).problems] == ["route[1]"]
