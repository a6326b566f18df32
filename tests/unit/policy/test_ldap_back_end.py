"""Log-ins of a directory: ldap3's own imitation of one, and a real slapd where there is one."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from angarium.config.credentials import Credentials
from angarium.config.secret import Secret
from angarium.policy.access_protocol import PasswordAttempt
from angarium.policy.back_end import Finding, Found, VerifierPool
from tests.support.peers import require
from tests.support.ports import free_port
from tests.support.relay import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ldap3 = pytest.importorskip("ldap3", reason='pip install "angarium[ldap]"')

from angarium.policy.ldap_back_end import LdapBackEnd  # noqa: E402  # it needs ldap3

BASE = "dc=example,dc=org"
PEOPLE = f"ou=people,{BASE}"
RELAY = f"cn=relay,{BASE}"
ODD = "o*d(d,"


@pytest.fixture
def pool() -> Iterator[VerifierPool]:
    made = VerifierPool(1, 10)
    yield made
    made.close()


async def ask(back_end: LdapBackEnd, log_in: str, password: str) -> Found:
    return await back_end.password(PasswordAttempt(log_in, password, "192.0.2.1", "submission", "PLAIN"))


def settings_of(url: str, **keys: Any) -> Credentials:
    return Credentials(kind="ldap", url=url, **{"timeout_s": 5.0, **keys})


class Imitated(LdapBackEnd):
    """A directory within this process."""

    entries: tuple[tuple[str, dict[str, str]], ...] = (
        (f"uid=alice,{PEOPLE}", {"uid": "alice", "userPassword": "secret", "objectClass": "person", "sn": "a"}),
        (f"uid=o\\*d(d\\,,{PEOPLE}", {"uid": ODD, "userPassword": "secret", "objectClass": "person", "sn": "o"}),
        (RELAY, {"cn": "relay", "userPassword": "relay words", "objectClass": "person", "sn": "r"}),
    )

    def _connection(self, name: str | None, password: str | None) -> Any:
        connection = ldap3.Connection(
            self._server, user=name, password=password, client_strategy=ldap3.MOCK_SYNC, raise_exceptions=False
        )
        for dn, attributes in self.entries:
            connection.strategy.add_entry(dn, attributes)
        return connection


SEARCH = {"base": BASE, "bind_dn": RELAY, "bind_password": Secret("relay words")}
BIND = {"user_dn": f"uid={{log_in}},{PEOPLE}"}


@pytest.mark.parametrize(
    ("settings", "log_in", "password", "finding"),
    [
        (SEARCH, "alice", "secret", Finding.ACCEPTED),
        (SEARCH, "alice", "wrong", Finding.REFUSED),
        (SEARCH, "nobody", "secret", Finding.UNKNOWN),
        (SEARCH, "*", "secret", Finding.UNKNOWN),
        (SEARCH, "alice)(uid=*", "secret", Finding.UNKNOWN),
        (SEARCH, "alice", "", Finding.UNKNOWN),
        (SEARCH | {"bind_password": Secret("wrong")}, "alice", "secret", Finding.UNAVAILABLE),
        (BIND, "alice", "secret", Finding.ACCEPTED),
        (BIND, "alice", "wrong", Finding.UNKNOWN),
        (BIND, "alice", "", Finding.UNKNOWN),
        (BIND, f"alice,{PEOPLE}", "secret", Finding.UNKNOWN),
    ],
)
async def test_an_imitated_directory(
    pool: VerifierPool, settings: dict[str, Any], log_in: str, password: str, finding: Finding
) -> None:
    back_end = Imitated(settings_of("ldap://127.0.0.1", **settings), pool)
    assert (await ask(back_end, log_in, password)).finding is finding


async def test_nobody_there(pool: VerifierPool, caplog: pytest.LogCaptureFixture) -> None:
    back_end = LdapBackEnd(settings_of(f"ldap://127.0.0.1:{free_port()}", **BIND), pool)
    assert (await ask(back_end, "alice", "hunter2")).finding is Finding.UNAVAILABLE
    assert "log-ins cannot be asked for at ldap://127.0.0.1" in caplog.text
    assert "hunter2" not in caplog.text


# ------------------------------------------------------------------ slapd

CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {folder}/pid
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "{base}"
rootdn "cn=admin,{base}"
rootpw admin
directory {folder}/data
access to attrs=userPassword by anonymous auth by * none
access to * by * read
"""
ENTRIES = f"""\
dn: {BASE}
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: {PEOPLE}
objectClass: organizationalUnit
ou: people

dn: uid=alice,{PEOPLE}
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: Alice
mail: alice@example.org
userPassword: secret

dn: {RELAY}
objectClass: person
cn: relay
sn: relay
userPassword: relay words
"""


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program, adder = require("slapd"), require("slapadd")
    folder = tmp_path_factory.mktemp("slapd")
    (folder / "data").mkdir()
    (folder / "slapd.conf").write_text(CONFIGURATION.format(folder=folder, base=BASE))
    subprocess.run([adder, "-f", str(folder / "slapd.conf")], input=ENTRIES.encode(), check=True, capture_output=True)
    url = f"ldap://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [program, "-d", "0", "-f", str(folder / "slapd.conf"), "-h", url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0

    try:
        wait_until(up, "slapd to listen")
        yield url
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder / "data")


@pytest.mark.peer
async def test_a_real_directory(slapd: str, pool: VerifierPool) -> None:
    searching = LdapBackEnd(settings_of(slapd, **SEARCH, filter="(|(uid={log_in})(mail={log_in}))"), pool)
    assert await ask(searching, "alice@example.org", "secret") == Found(Finding.ACCEPTED, "alice@example.org")
    # called as the directory calls it, however the client writes it
    for written, own in (("ALICE", "alice"), (" Alice@EXAMPLE.org", "alice@example.org")):
        assert await ask(searching, written, "secret") == Found(Finding.ACCEPTED, own)
    assert (await ask(searching, "alice", "wrong")).finding is Finding.REFUSED
    assert (await ask(searching, "nobody", "wrong")).finding is Finding.UNKNOWN
    assert (await ask(searching, "*", "secret")).finding is Finding.UNKNOWN
    assert (await ask(searching, "alice", "")).finding is Finding.UNKNOWN
    binding = LdapBackEnd(settings_of(slapd, **BIND), pool)
    assert await ask(binding, "ALICE", "secret") == Found(Finding.ACCEPTED, "alice")
    assert (await ask(binding, "alice", "wrong")).finding is Finding.UNKNOWN
    assert (await ask(binding, f"alice,{PEOPLE}", "secret")).finding is Finding.UNKNOWN
