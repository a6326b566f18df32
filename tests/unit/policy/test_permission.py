"""From [[permission]] to what a client is granted: who is meant, which addresses, which terms, which limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium._core.record import Durability
from angarium.config.permission import Permission, Volume
from angarium.mail.pattern import TextPattern
from angarium.policy.permission import PermissionIndex
from angarium.policy.quota import Quotas, key_of
from angarium.policy.tenancy import client_terms
from tests.support.clock import FakeClock
from tests.support.permission import MemoryQuotas, config_of, permission

if TYPE_CHECKING:
    from pathlib import Path

    from angarium._core.permission import Permission as CorePermission

TEXT = """
[[tenant]]
name = "shop"
networks = ["10.1.0.0/16"]
class = "bulk"
[[tenant]]
name = "staff"
durability = "async"
[[permission]]
name = "printers"
networks = ["10.9.0.0/16"]
legacy = true
rewrite_from = "scan@example.org"
[[permission]]
name = "shop"
tenants = ["shop"]
recipients = 7
message_size = "1MB"
[[permission]]
name = "admins"
log_ins = ["admin-*", "root"]
listeners = ["door"]
tenant = "staff"
durability = "memory"
[[permission]]
name = "people"
log_ins = ["*"]
reverse_paths = ["{log_in}@example.org"]
"""


@pytest.mark.parametrize(
    ("address", "log_in", "tenant", "name"),
    [
        ("10.9.1.1", "", "", "printers"),
        ("10.9.1.1", "root", "shop", "printers"),
        ("10.0.0.1", "root", "shop", "shop"),
        ("10.0.0.1", "admin-1", "", "admins"),
        # a directory takes all of these for the same
        ("10.0.0.1", "ROOT", "", "admins"),
        ("10.0.0.1", " root  ", "", "admins"),
        ("10.0.0.1", "\uff52oot", "", "admins"),
        ("10.0.0.1", "Admin-\u00dc", "", "admins"),
        ("10.0.0.1", "root", "", "admins"),
        ("10.0.0.1", "rooty", "", "people"),
        ("10.0.0.1", "", "", None),
        ("", "", "", None),
        ("", "root", "", "admins"),
        ("no address", "", "", None),
    ],
)
def test_the_first_that_is_meant_holds(address: str, log_in: str, tenant: str, name: str | None) -> None:
    index = PermissionIndex(config_of(TEXT).permission)
    found = index.find("door", address=address, log_in=log_in, tenant=tenant)
    assert (found[1].name if found is not None else None) == name
    if name == "admins":
        other = index.find("other", address=address, log_in=log_in, tenant=tenant)
        assert other is not None
        assert other[1].name == "people"


def test_terms_have_what_the_permission_grants() -> None:
    config = config_of(TEXT, role="relay")
    terms = client_terms(config, config.listener[0])
    shop = terms("10.1.0.1")
    assert shop.permission is not None
    assert (shop.permission.recipients, shop.permission.message_octets, shop.tenant) == (7, 1_000_000, b"shop")
    assert not shop.permission.fix_up
    printer = terms("10.9.0.1")
    assert printer.permission is not None
    assert printer.bare_newlines
    assert (printer.permission.legacy, printer.permission.fix_up) == (True, True)
    admin = terms("10.0.0.1", "root")
    assert (admin.tenant, admin.durability, admin.durability_floor) == (b"staff", Durability.DURABILITY_MEMORY, 2)
    person = terms("10.0.0.1", "ada")
    assert person.permission is not None
    assert person.permission.reverse_paths is not None
    assert person.permission.reverse_paths(b"ada@example.org")
    assert not person.permission.reverse_paths(b"grace@example.org")
    # nothing is asked of a client of a relay that no permission is for, and all of them share their terms
    assert terms("10.0.0.1").permission is None
    assert terms("10.0.0.1") is terms("10.0.0.2")


def test_a_submission_listener_tidies_without_any_permission() -> None:
    config = config_of("")
    terms = client_terms(config, config.listener[0])("10.0.0.1", "ada@example.org")
    assert terms.permission is not None
    assert terms.permission.fix_up
    assert terms.permission.identity == b"ada@example.org"
    assert terms.permission.reverse_paths is None
    assert terms.permission.quota is None


def allowed(made: CorePermission, path: bytes) -> bool:
    assert made.reverse_paths is not None
    return made.reverse_paths(path)


@pytest.mark.parametrize(
    ("patterns", "log_in", "path", "expected"),
    [
        ('"{log_in}"', "ada@example.org", b"ada@example.org", True),
        ('"{log_in}"', "Ada@Example.org", b"ada@example.ORG", True),
        ('"{log_in}"', "ada", b"ada@example.org", False),
        ('"{log_in}@example.org"', " Ada", b"ada@example.org", True),
        ('"{log_in}"', "example.org", b"boss@example.org", False),
        ('"{log_in}"', "*", b"boss@example.org", False),
        ('"{log_in}"', "*.org", b"boss@example.org", False),
        ('"{log_in}@example.org"', "ada", b"ada@example.org", True),
        ('"{log_in}@example.org"', "ada", b'"ada"@example.org', True),
        ('"{log_in}@example.org"', "ada", b"ADA@example.org", True),
        ('"{log_in}@example.org"', "ada", b"ada@x.example.org", False),
        ('"{log_in}@example.org"', "ada@evil.example", b"ada@evil.example", False),
        ('"{log_in}@example.org"', "", b"@example.org", False),
        ('"example.org", "*.example.net"', "ada", b"x@a.b.example.net", True),
        ('"example.org", "*.example.net"', "ada", b"x@example.net", False),
        ('"m\u00fcller.example"', "ada", b"x@xn--mller-kva.example", True),
        ('"xn--mller-kva.example"', "ada", "x@m\u00fcller.example".encode(), True),
        ('"*"', "ada", b"x@y", True),
        ('"a@example.org"', "ada", b'"a@example.org"@example.net', False),
        ('"a@example.org"', "ada", b"@b,@c:a@example.org", False),
    ],
)
def test_addresses_are_compared_as_they_are_delivered(patterns: str, log_in: str, path: bytes, expected: bool) -> None:
    assert allowed(permission(f"reverse_paths = [{patterns}]", log_in=log_in), path) is expected


def test_the_null_reverse_path() -> None:
    assert permission('reverse_paths = ["a@b.example"]').null_reverse_path is False
    assert permission('reverse_paths = ["a@b.example"]\nnull_reverse_path = true').null_reverse_path is True
    assert permission("recipients = 3").null_reverse_path is True
    assert permission("null_reverse_path = false").null_reverse_path is False


def test_who_counts_as_one_sender() -> None:
    def key(log_in: str, address: str, tenant: str, **keys: str) -> bytes:
        rule = Permission(recipients_per_hour=1, **keys)  # type: ignore[arg-type]
        return key_of(rule, 0, address=address, log_in=log_in, tenant=tenant)

    assert key("ada", "10.0.0.1", "") == key("ada", "10.0.0.2", "")
    assert key("ada", "10.0.0.1", "") != key("grace", "10.0.0.1", "")
    assert key("ada", "", "") == key(" ADA", "", "") == key("\uff41da", "", "")
    assert key("", "10.0.0.1", "") != key("", "10.0.0.2", "")
    assert key("", "ada", "") != key("ada", "", "")
    assert key("ada", "", "t", counted_by="tenant") == key("grace", "", "t", counted_by="tenant")
    assert key("ada", "", "t", counted_by="permission") == key("grace", "", "u", counted_by="permission")
    # what is named is known by its name wherever it stands in the file
    named = Permission(name="people", recipients_per_hour=1)
    assert key_of(named, 1, address="", log_in="a", tenant="") == key_of(named, 2, address="", log_in="a", tenant="")


def test_a_table_is_opened_when_something_is_counted(tmp_path: Path) -> None:
    quotas = Quotas(tmp_path, FakeClock())
    assert permission("recipients = 3", quotas=quotas).quota is None
    assert list(tmp_path.iterdir()) == []
    made = permission("recipients_per_hour = 3\nat_limit = 'queue'", log_in="ada", quotas=quotas)
    assert made.quota is not None
    assert (made.quota.per_hour, made.quota.per_day, made.quota.queues) == (3, 0, True)
    assert [path.name for path in tmp_path.iterdir()] == ["quota.table"]
    quotas.close()


def test_only_log_ins_can_be_unusual() -> None:
    quotas = MemoryQuotas()
    for text, above, times in (("hold_above = 100", 100, 0), ('hold_above = "2.5x"', 0, 2.5)):
        with_log_in = permission(text, log_in="ada", quotas=quotas).quota
        without = permission(text, quotas=quotas).quota
        assert with_log_in is not None
        assert without is not None
        assert (with_log_in.unusual_above, with_log_in.unusual_times) == (above, times)
        assert (without.unusual_above, without.unusual_times) == (0, 0)


def test_a_log_in_is_trusted_again_under_every_permission() -> None:
    clock = FakeClock()
    quotas = MemoryQuotas(clock)
    config = config_of("[[permission]]\nhold_above = 1\n")
    made = permission("hold_above = 1", log_in="ada", quotas=quotas)
    assert made.quota is not None
    made.quota.count(5, int(clock.now()))
    assert made.quota.suspect(int(clock.now()))
    assert not quotas.trust(config, "grace")
    assert quotas.trust(config, "ada")
    assert not quotas.trust(config, "ada")
    assert not made.quota.suspect(int(clock.now()))


def test_volumes_are_numbers_or_multiples() -> None:
    assert Volume.parse(5) == Volume(recipients=5)
    assert Volume.parse("5x") == Volume(times=5)
    assert str(Volume.parse("2.5 x")) == "2.5x"
    assert str(Volume.parse(7)) == "7"
    for written in ("x", "5", "1x", "0x", "1001x", ""):
        with pytest.raises(ValueError, match="x"):
            Volume.parse(written)


def test_text_patterns_are_what_log_ins_are_compared_with() -> None:
    index = PermissionIndex((Permission(log_ins=(TextPattern.parse("a*"),)),))
    assert index.find("x", address="", log_in="ada", tenant="") is not None
    assert index.find("x", address="", log_in="", tenant="") is None
