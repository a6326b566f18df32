"""docs/angarium.service under a real systemd, in namespaces of its own; skips where none can be booted.

The unit is the one of the documentation; a drop-in changes the paths and the user, and nothing of its sandbox.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from angarium.policy.credentials_file import editing, make_entry
from tests.support.clients import PATIENCE_S
from tests.support.peers import require
from tests.support.relay import to_toml, wait_until
from tests.support.systemd import Systemd, Unavailable, python_folders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

pytestmark = pytest.mark.peer

UNIT = Path(__file__).parents[2] / "docs" / "angarium.service"
ANGARIUM = Path(sys.prefix) / "bin" / "angarium"
LOG_IN, PASSWORD = "app", "a password of some length"
EXPOSURE = 2.5  # of 10, as systemd-analyze security reckons; sshd.service of Debian has 9.6

# Sends one message from within: port, recipient, and what to log in with.
SEND = """
import smtplib, ssl, sys
port, recipient, *credentials = sys.argv[1:]
with smtplib.SMTP("127.0.0.1", int(port), timeout=60) as client:
    if credentials:
        client.starttls(context=ssl._create_unverified_context())
        client.login(*credentials)
    client.ehlo_or_helo_if_needed()
    client.mail("me@relay.example.org")
    client.rcpt(recipient)
    code, text = client.data("Subject: x\\r\\n\\r\\nHello.\\r\\n")
    assert code == 250, text
    print(text.decode().split(" as ")[1].split()[0])
"""

# Stays in a transaction until it is told to go on, and says what the end of its data was answered.
LINGER = """
import smtplib, sys
client = smtplib.SMTP("127.0.0.1", 2525, timeout=60)
client.ehlo()
client.mail("me@relay.example.org")
client.rcpt("late@queued.test")
client.docmd("DATA")
print("354", flush=True)
input()
client.send("Subject: late\\r\\n\\r\\nHello.\\r\\n.\\r\\n")
print(client.getreply(), flush=True)
"""


def configuration(folder: Path) -> dict[str, Any]:
    authority = trustme.CA()
    certificate = authority.issue_cert("relay.example.org")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
    with editing(folder / "log-ins") as entries:
        entries[LOG_IN] = make_entry(PASSWORD)
    for name in ("key.pem", "chain.pem", "log-ins"):
        (folder / name).chmod(0o644)
    local = {"role": "relay", "relay_networks": ["127.0.0.0/8"]}
    return {
        # a wait as short as may be: what is stopped here is to be found soon
        "node": {"hostname": "relay.example.org", "spool": "/var/spool/angarium", "workers": 1, "hang_timeout": "4s"},
        "events": {"to": "journald"},
        "tls": {"certificate": folder / "chain.pem", "key": folder / "key.pem"},
        "credentials": [{"kind": "file", "file": folder / "log-ins"}],
        "listener": [
            {"name": "given", "listen": "systemd:smtp", **local},
            {"name": "low", "listen": "127.0.0.1:25", **local},
            {"name": "submission", "listen": "127.0.0.1:587", "role": "submission", "tls": "starttls"},
            {"name": "local", "listen": "unix:/run/angarium/smtp.sock", **local},
        ],
        "route": [
            {"recipients": ["program.test"], "next_hop": "pipe:/bin/sh -c 'cat > /var/spool/angarium/piped'"},
            {"recipients": ["*"], "next_hop": "smtp://127.0.0.1:9"},  # nobody is there: it stays in the queue
        ],
    }


def drop_in(folder: Path) -> str:
    """Other paths and another user. What lies below /tmp and /root is shown in spite of PrivateTmp and ProtectHome."""
    return f"""
[Service]
User=nobody
Group=nogroup
Environment=ANGARIUM_CONFIG={folder}/angarium.toml PYTHONDONTWRITEBYTECODE=1
ExecStartPre=
ExecStartPre={ANGARIUM} check
ExecStart=
ExecStart={ANGARIUM} serve
ExecReload=
ExecReload={ANGARIUM} reload
ProtectHome=tmpfs
BindReadOnlyPaths={" ".join(map(str, [folder, *python_folders()]))}
"""


SOCKET = """
[Socket]
ListenStream=127.0.0.1:2525
FileDescriptorName=smtp
Service=angarium.service
"""


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    folder = tmp_path_factory.mktemp("systemd")
    folder.chmod(0o755)
    if not ANGARIUM.exists():
        pytest.skip(f"{ANGARIUM} is not there")
    try:
        with Systemd(folder, *python_folders()) as systemd:
            systemd.run("install", "-d", "-o", "nobody", "-g", "nogroup", "-m", "0700", "/var/spool/angarium")
            systemd.add(
                {
                    "angarium.service": UNIT.read_text(),
                    "angarium.service.d/paths.conf": drop_in(folder),
                    "angarium.socket": SOCKET,
                }
            )
            yield systemd
    except Unavailable as why:
        pytest.skip(f"no systemd can be booted here: {why}")


@pytest.fixture
def systemd(booted: Systemd) -> Iterator[Systemd]:
    """With the relay running, and an empty queue."""
    (booted.folder / "angarium.toml").write_text(to_toml(configuration(booted.folder)))
    booted.systemctl("start", "angarium.socket")
    started = booted.systemctl("start", "angarium.service", check=False)
    assert started.returncode == 0, booted.run("journalctl", "--unit=angarium.service", "--lines=50").stdout
    yield booted
    booted.systemctl("stop", "angarium.socket", "angarium.service", check=False)
    booted.systemctl("reset-failed", check=False)
    booted.run("sh", "-c", "rm -rf /var/spool/angarium/*; rm -f /etc/systemd/system/angarium.service.d/then.conf")
    booted.systemctl("daemon-reload")


def send(systemd: Systemd, port: int, recipient: str, *credentials: str) -> str:
    """The queue id of a message."""
    return systemd.run(sys.executable, "-c", SEND, str(port), recipient, *credentials).stdout.strip()


def events(systemd: Systemd, **fields: str) -> list[dict[str, Any]]:
    """Entries of the journal that the relay has sent with these fields."""
    return systemd.journal(
        "SYSLOG_IDENTIFIER=angarium", *(f"ANGARIUM_{name.upper()}={fields[name]}" for name in fields)
    )


def wait_event(systemd: Systemd, **fields: str) -> dict[str, Any]:
    return wait_until(lambda: events(systemd, **fields), f"{fields} in the journal", PATIENCE_S)[0]


def get(systemd: Systemd, path: str) -> tuple[int, str]:
    """GET on the admin port, from within."""
    script = (
        "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8025, timeout=60);"
        "c.request('GET', sys.argv[1]); a = c.getresponse(); print(a.status); print(a.read().decode())"
    )
    status, _, body = systemd.run(sys.executable, "-c", script, path).stdout.partition("\n")
    return int(status), body


def roles(systemd: Systemd) -> dict[str, int]:
    """The processes of the unit by what they are."""
    found = {}
    for pid in systemd.pids("angarium.service"):
        words = systemd.run("cat", f"/proc/{pid}/cmdline", check=False).stdout.rstrip("\0").split("\0")
        found[words[-1]] = pid
    return found


def test_the_unit_starts_serves_and_stops(systemd: Systemd) -> None:
    assert systemd.show("angarium.service", "ActiveState") == "active"
    assert systemd.show("angarium.service", "StatusText").startswith("serving: ")
    main = int(systemd.show("angarium.service", "MainPID"))
    by_role = roles(systemd)
    assert by_role.keys() == {"serve", "lookup", "access", "events", "worker", "admin"}
    assert by_role["serve"] == main

    # every way in: a socket of systemd's, a port that only root may bind, a log-in over TLS
    queued = send(systemd, 2525, "a@queued.test")
    send(systemd, 25, "b@queued.test")
    send(systemd, 587, "c@queued.test", LOG_IN, PASSWORD)
    send(systemd, 25, "d@program.test")
    # each is in the journal with its fields
    reception = wait_event(systemd, event="reception", id=queued)
    assert reception["ANGARIUM_LISTENER"] == "given"
    assert json.loads(reception["ANGARIUM_RECIPIENTS"]) == ["a@queued.test"]
    assert reception["_SYSTEMD_UNIT"] == "angarium.service"
    assert reception["PRIORITY"] in {"5", "6"}
    assert wait_event(systemd, event="reception", login=LOG_IN)["ANGARIUM_LISTENER"] == "submission"
    assert wait_event(systemd, event="delivery", recipient="d@program.test")["ANGARIUM_CLASS"] == "delivered"
    piped = systemd.run("cat", "/var/spool/angarium/piped").stdout
    assert "Hello." in piped
    assert systemd.run("stat", "--format=%U %a", "/run/angarium/smtp.sock").stdout.startswith("nobody ")

    # a stop lets the transaction under way end
    with systemd.spawn(sys.executable, "-c", LINGER) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "354\n"
        systemd.systemctl("stop", "--no-block", "angarium.socket", "angarium.service")
        wait_until(
            lambda: systemd.show("angarium.service", "ActiveState") == "deactivating", "the relay to stop", PATIENCE_S
        )
        client.stdin.write("\n")
        client.stdin.flush()
        assert client.stdout.readline().startswith("(250, ")
    wait_until(lambda: systemd.show("angarium.service", "ActiveState") == "inactive", "the relay to end", PATIENCE_S)
    assert systemd.show("angarium.service", "Result") == "success"
    assert systemd.pids("angarium.service") == []

    # with its socket alone, the first client starts it
    systemd.systemctl("start", "angarium.socket")
    assert systemd.show("angarium.service", "ActiveState") == "inactive"
    again = send(systemd, 2525, "e@queued.test")
    assert systemd.show("angarium.service", "ActiveState") in {"activating", "active"}
    assert wait_event(systemd, event="reception", id=again)["ANGARIUM_LISTENER"] == "given"


def test_a_reload_is_told_and_a_wrong_file_refused(systemd: Systemd) -> None:
    main = systemd.show("angarium.service", "MainPID")
    config = configuration(systemd.folder)
    config["limits"] = {"hops": 44}
    (systemd.folder / "angarium.toml").write_text(to_toml(config))
    systemd.systemctl("reload", "angarium.service")
    assert json.loads(wait_event(systemd, event="reload", **{"class": "applied"})["ANGARIUM_CHANGED"]) == [
        "limits.hops"
    ]
    config["limits"] = {"hopps": 44}
    (systemd.folder / "angarium.toml").write_text(to_toml(config))
    refused = systemd.systemctl("reload", "angarium.service", check=False)
    assert refused.returncode == 1
    assert "limits.hopps" in systemd.run("journalctl", "--unit=angarium.service", "--output=cat").stdout
    assert systemd.show("angarium.service", "ActiveState") == "active"
    assert systemd.show("angarium.service", "MainPID") == main
    assert get(systemd, "/readyz")[0] == 200


def test_a_supervisor_that_hangs_is_replaced_by_systemd(systemd: Systemd) -> None:
    """With all its children, and nothing that was acknowledged is lost."""
    systemd.add({"angarium.service.d/then.conf": "[Service]\nWatchdogSec=3s\nRestartSec=100ms\n"})
    systemd.systemctl("restart", "angarium.service")
    queued = [send(systemd, 2525, f"{name}@queued.test") for name in "abc"]
    before = systemd.pids("angarium.service")
    os_pid = int(systemd.show("angarium.service", "MainPID"))
    systemd.run("kill", "-STOP", str(os_pid))
    wait_until(lambda: systemd.show("angarium.service", "NRestarts") == "1", "systemd to restart it", PATIENCE_S)
    wait_until(
        lambda: systemd.show("angarium.service", "ActiveState") == "active", "the successor to be ready", PATIENCE_S
    )
    after = systemd.pids("angarium.service")
    said = systemd.run("journalctl", "--unit=angarium.service", "--output=cat").stdout
    assert "Fatal Python error: Aborted" in said  # and where it hung
    assert not set(before) & set(after)
    assert len(after) == len(before)
    _, listing = get(systemd, "/api/v1/queue?limit=10")
    assert sorted(message["id"] for message in json.loads(listing)) == sorted(queued)
    send(systemd, 2525, "d@queued.test")  # systemd's own socket outlives the relay


def test_every_other_process_that_hangs_is_replaced_by_the_supervisor(systemd: Systemd) -> None:
    """systemd hears nothing of it but one line; mail is taken before and afterwards."""
    main = systemd.show("angarium.service", "MainPID")
    before = roles(systemd)
    for role in ("lookup", "access", "events", "worker", "admin"):
        systemd.run("kill", "-STOP", str(before[role]))
    # all at once: the worker is the last to be able to tell, and its successor does
    ended = Counter(
        wait_event(systemd, event="process_ended", process=name, why="hung")["ANGARIUM_PROCESS"]
        for name in ("lookup", "access", "events", "worker 0", "admin")
    )
    assert len(ended) == 5
    wait_until(lambda: get(systemd, "/readyz?format=text")[1].startswith("ready\n"), "all to be well", PATIENCE_S)
    after = roles(systemd)
    assert after["serve"] == before["serve"] == int(main)
    assert not {after[role] for role in before if role != "serve"} & set(before.values())
    assert systemd.show("angarium.service", "NRestarts") == "0"
    send(systemd, 587, "e@queued.test", LOG_IN, PASSWORD)


def test_what_the_unit_forbids_is_forbidden(systemd: Systemd) -> None:
    """Looked at from outside, and tried in the same sandbox."""
    for pid in systemd.pids("angarium.service"):
        status = dict(
            line.split(":\t", 1)
            for line in systemd.run("cat", f"/proc/{pid}/status").stdout.splitlines()
            if ":\t" in line
        )
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert int(status["CapEff"], 16) == 1 << 10  # CAP_NET_BIND_SERVICE
        assert status["Uid"].split()[0] != "0"
    try_it = """
import mmap, os, pathlib, socket, sys
def refused(what, *arguments):
    try:
        what(*arguments)
    except (OSError, AttributeError) as failure:
        return True
    return False
print('refused:', int(refused(pathlib.Path('/etc/angarium-was-here').write_text, 'x')),
      int(refused(mmap.mmap, -1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_WRITE | mmap.PROT_EXEC)),
      int(refused(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)),
      int(refused(os.chroot, '/')),
      int(refused(pathlib.Path('/var/spool/angarium/here').write_text, 'x')))
"""
    (systemd.folder / "try.py").write_text(try_it)
    more = f"[Service]\nExecStartPre=\nExecStartPre={sys.executable} {systemd.folder}/try.py\n"
    systemd.add({"angarium.service.d/then.conf": more})
    systemd.systemctl("restart", "angarium.service")
    said = systemd.run("journalctl", "--unit=angarium.service", "--output=cat").stdout.splitlines()
    assert [line for line in said if line.startswith("refused: ")] == ["refused: 1 1 1 1 0"]


# ---------------------------------------------------------------- without one that runs


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    analyze = require("systemd-analyze")
    unit = UNIT.read_text()
    for line in ("ExecStartPre=", "ExecStart=", "ExecReload="):
        unit = unit.replace(f"{line}/opt/angarium/bin/angarium", f"{line}{shutil.which('true')}")
    unit = "\n".join(line for line in unit.splitlines() if not line.startswith(("User=", "Group=")))
    (tmp_path / "angarium.service").write_text(unit)
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "angarium.service")],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "angarium" in line]
    assert (done.returncode, ours) == (0, [])
    names = [line.partition("=")[0] for line in UNIT.read_text().splitlines() if "=" in line and line[0].isalpha()]
    twice = {name for name, count in Counter(names).items() if count > 1}
    assert twice == set()


def test_the_unit_s_exposure_is_small(tmp_path: Path) -> None:
    analyze = require("systemd-analyze")
    done = subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={round(EXPOSURE * 10)}", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
