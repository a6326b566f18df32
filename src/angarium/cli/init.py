"""`angarium init`: a commented configuration to start from, for one of three roles; on request with all that it names.

Writes to standard output, or to a file with -o, which it does not overwrite without --force. What is written is
accepted by `angarium check` as it is; what needs a decision or a file of the reader's stands in comments.

With --system (as root) everything that the configuration names is made in its usual place, for a user of the relay's
own; with --folder it is made below one folder, for whoever runs this. With --certificate a self-signed certificate is
made too, and submission with TLS and log-ins is switched on. Nothing that is there already is changed, but for the
configuration with --force. Then the next steps are printed.

Fails with a line and exit status 1; what was made until then stays.
"""

from __future__ import annotations

import importlib.resources
import os
import pwd
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from angarium.cli.main import fail

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["ROLES", "Layout", "compose", "init"]

ROLES = ("bulk", "smarthost", "sandbox")
PORTS = {"smtp": 25, "submission": 587, "submissions": 465, "http": 8025}
SANDBOX_PORTS = {"smtp": 2525, "submission": 2587, "submissions": 2465, "http": 8025}
_PREPARED = re.compile(r"^#(tls|made|user)# ", re.M)


class Layout(NamedTuple):
    """Where everything is."""

    config: str = "/etc/angarium/angarium.toml"
    spool: str = "/var/spool/angarium"
    tls: str = "/etc/angarium/tls"
    log: str = "/var/log/angarium"
    run: str = "/run/angarium"
    drop: str = "/var/spool/angarium-drop"
    users: str = "/etc/angarium/users"

    @classmethod
    def below(cls, folder: str) -> Layout:
        """All of it in one folder."""
        names = ("angarium.toml", "spool", "tls", "log", "run", "drop", "users")
        return cls(*(os.path.join(folder, name) for name in names))


def compose(
    role: str,
    hostname: str,
    layout: Layout,
    *,
    wanted: Collection[str] = (),
    user: str = "angarium",
    ports: Mapping[str, int] | None = None,
) -> str:
    """The text of the configuration.

    `wanted`: which of its prepared parts are switched on: "made" (what names files that --system or --folder make),
    "tls", "user". The others are comments.
    """
    template = importlib.resources.files("angarium.cli") / "templates" / f"{role}.toml"
    text = _PREPARED.sub(lambda mark: "" if mark[1] in wanted else "# ", template.read_text("utf-8"))
    values = {name.upper(): value for name, value in layout._asdict().items()}
    values |= {"HOSTNAME": hostname, "USER": user}
    chosen = dict(SANDBOX_PORTS if role == "sandbox" else PORTS) | dict(ports or {})
    values |= {f"{name.upper()}_PORT": str(port) for name, port in chosen.items()}
    return re.sub(r"@([A-Z_]+)@", lambda mark: values[mark[1]], text)


def _default_hostname() -> str:
    """The machine's name if it is fully qualified; looking one up would ask the network."""
    name = socket.gethostname().lower()
    return name if "." in name.strip(".") else "relay.example.org"


@click.command(short_help="Write a commented configuration.")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What the relay is for.")
@click.option("-o", "--output", "output", metavar="FILE", help="Write to FILE instead of standard output.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option("--hostname", metavar="NAME", help="The relay's name; else this machine's if it is fully qualified.")
@click.option("--spool", metavar="FOLDER", help="Where the queue is kept.")
@click.option("--system", is_flag=True, help="As root: make folders, permissions and the relay's user.")
@click.option("--folder", metavar="FOLDER", help="Put everything below FOLDER, and make it.")
@click.option("--user", metavar="NAME", default="angarium", show_default=True, help="With --system: the relay's user.")
@click.option("--certificate", is_flag=True, help="Make a self-signed certificate, and switch TLS and submission on.")
@click.option("--smtp-port", "smtp", type=click.IntRange(1, 65535), help="Instead of 25.")
@click.option("--submission-port", "submission", type=click.IntRange(1, 65535), help="Instead of 587.")
@click.option("--submissions-port", "submissions", type=click.IntRange(1, 65535), help="Instead of 465.")
@click.option("--http-port", "http", type=click.IntRange(1, 65535), help="Of the console, instead of 8025.")
def init(
    role: str,
    output: str | None,
    force: bool,
    hostname: str | None,
    spool: str | None,
    system: bool,
    folder: str | None,
    user: str,
    certificate: bool,
    **ports: int | None,
) -> None:
    """Write a commented configuration, and with --system or --folder make what it names.

    \b
    bulk        sends for applications, in large numbers, by MX
    smarthost   takes what an organisation's machines send, and passes it on
    sandbox     nothing leaves the machine: for development and tests
    """
    made = system or folder is not None
    if certificate and (not made or role == "sandbox"):
        raise click.UsageError("--certificate is for --role bulk or smarthost, with --system or --folder")
    if system and os.geteuid() != 0:
        fail("--system makes folders for another user, which takes root; --folder makes an installation of your own")
    layout = _layout(role, folder, spool, output)
    if hostname is None:
        hostname = "sandbox.test" if role == "sandbox" else _default_hostname()
    wanted = {name for name, on in (("made", made), ("tls", certificate), ("user", system)) if on}
    text = compose(
        role,
        _checked(hostname, "--hostname"),
        Layout(*(_checked(path, "--folder" if folder else "--spool") for path in layout)),
        wanted=wanted,
        user=_checked(user, "--user"),
        ports={name: port for name, port in ports.items() if port is not None},
    )
    if output is None and not made:
        click.echo(text, nl=False)
        return
    try:
        if made:
            _make(layout, user if system else None)
            if certificate:
                _certify(layout, hostname, user if system else None)
        _write(layout.config, text, force)
    except OSError as error:
        fail(f"{error.filename} cannot be made: {error.strerror}")
    _tell(role, layout, system, certificate)


def _layout(role: str, folder: str | None, spool: str | None, output: str | None) -> Layout:
    layout = Layout() if folder is None else Layout.below(os.path.abspath(folder))
    if role == "sandbox" and folder is None:
        layout = layout._replace(spool=os.path.abspath("angarium-sandbox"))
    if spool is not None:
        layout = layout._replace(spool=os.path.abspath(spool))
    return layout if output is None else layout._replace(config=output)


def _checked(value: str, option: str) -> str:
    """Refuse what would not survive between the quotes of a TOML string."""
    if any(character in value for character in '"\\') or not value.isprintable():
        raise click.BadParameter(f"{value!r} has a character that cannot stand here", param_hint=option)
    return value


def _write(file: str, text: str, force: bool) -> None:
    try:
        with Path(file).open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        fail(f"{file} exists; --force overwrites it")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")


# ------------------------------------------------------------------ what the configuration names


def _make(layout: Layout, user: str | None) -> None:
    """Folders, each with its owner and permissions, and an empty credentials file."""
    from angarium.queue.dropped import make_folders

    owner = _owner(user, layout.spool)
    for folder, mode, of_relay in (
        (os.path.dirname(layout.config), 0o755, False),
        (layout.tls, 0o750, False),
        (layout.spool, 0o700, True),
        (layout.log, 0o750, True),
        (layout.run, 0o755, True),
    ):
        if not os.path.isdir(folder or "."):
            os.makedirs(folder)
            os.chmod(folder, mode)
            if owner is not None:
                os.chown(folder, owner[0] if of_relay else 0, owner[1])
    make_folders(layout.drop, *(owner or (os.geteuid(), os.getegid())))
    if not os.path.exists(layout.users):
        os.close(os.open(layout.users, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
        _share(layout.users, owner)


def _owner(user: str | None, home: str) -> tuple[int, int] | None:
    """The relay's user and group, made if they are not there; None: whoever runs this."""
    if user is None:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        command = ["useradd", "--system", "--home-dir", home, "--shell", "/usr/sbin/nologin", user]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            fail(f"there is no user {user}, and useradd cannot be run: {error.strerror}")
        if done.returncode:
            fail(f"there is no user {user}, and useradd failed: {done.stderr.strip()}")
        entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def _share(file: str, owner: tuple[int, int] | None) -> None:
    """Root's, for the relay's group to read."""
    if owner is not None:
        os.chown(file, 0, owner[1])
        os.chmod(file, 0o640)


def _certify(layout: Layout, hostname: str, user: str | None) -> None:
    from angarium.app.certificate import ensure_certificate

    if os.path.exists(os.path.join(layout.tls, "certificate.pem")):
        return  # perhaps an authority's
    _, key = ensure_certificate(Path(layout.tls), names=(hostname, "localhost"))
    _share(str(key), _owner(user, layout.spool))


def _tell(role: str, layout: Layout, system: bool, certificate: bool) -> None:
    """What comes next."""
    usual = layout.config == Layout().config
    option = "" if usual else f' --config "{layout.config}"'
    steps = [f"angarium check{option}"]
    if certificate and role == "smarthost":
        steps.append(f"angarium user add{option} NAME")
    steps.append(f"angarium doctor{option}")
    steps.append("systemctl enable --now angarium" if system and usual else f"angarium serve{option}")
    lines = [f"{layout.config} written; next: {steps[0]}", *(f"  then: {step}" for step in steps[1:])]
    if certificate:
        lines.append(
            f"  the certificate in {layout.tls} is self-signed: clients must be told to trust it, or put yours there"
        )
    click.echo("\n".join(lines), err=True)
