"""`angarium serve`: run the relay in the foreground; `--sandbox`: one from which nothing leaves this machine."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from angarium.cli.main import DEFAULT_CONFIG, config_option, fail


@click.command()
@config_option
@click.option("--sandbox", is_flag=True, help="Deliver to a sink on this machine; refuse every route that leaves it.")
@click.option(
    "--spool", type=click.Path(path_type=Path), default=Path(".sandbox"), help="Sandbox: folder of queue and mail."
)
@click.option("--smtp-port", type=click.IntRange(0, 65535), default=2525, show_default=True, help="Sandbox: SMTP.")
@click.option(
    "--submission-port", type=click.IntRange(0, 65535), default=2587, show_default=True, help="Sandbox: STARTTLS."
)
@click.option(
    "--submissions-port", type=click.IntRange(0, 65535), default=2465, show_default=True, help="Sandbox: TLS."
)
@click.option(
    "--http-port", type=click.IntRange(0, 65535), default=8025, show_default=True, help="Sandbox: console and API."
)
@click.option("--sink-port", type=click.IntRange(0, 65535), default=2526, show_default=True, help="Sandbox: the sink.")
def serve(
    config: str | None,
    sandbox: bool,
    spool: Path,
    smtp_port: int,
    submission_port: int,
    submissions_port: int,
    http_port: int,
    sink_port: int,
) -> None:
    """Run the relay in the foreground until SIGTERM or Ctrl-C.

    SIGHUP reads the configuration again, SIGUSR1 reopens the event log.
    """
    from angarium.app.reading import Source
    from angarium.config.address import ListenAddress
    from angarium.config.load import ConfigErrors, examine
    from angarium.config.sandbox import sandbox_config
    from angarium.queue.placement import SpoolError
    from angarium.supervisor import StartFailure, Supervisor

    logging.basicConfig(level=logging.INFO, format="angarium: %(message)s", stream=sys.stderr)
    faulthandler.enable()  # a service manager whose watchdog bites (SIGABRT) has it say where it hangs
    given = config
    sink: ListenAddress | None = None
    source: Source | None = None
    sha256 = ""
    try:
        if sandbox and not given:
            from angarium.app.certificate import ensure_certificate

            spool = spool.absolute()
            try:
                certificate, key = ensure_certificate(spool / "tls")
            except OSError as failure:
                fail(f"the spool {spool} cannot be used: {failure.strerror}")
            settings = sandbox_config(
                spool=spool,
                smtp_port=smtp_port,
                submission_port=submission_port,
                submissions_port=submissions_port,
                http_port=http_port,
                sink_port=sink_port,
                certificate=certificate,
                key=key,
            )
            sink = ListenAddress(host="127.0.0.1", port=sink_port)
        else:
            examination = examine(given or DEFAULT_CONFIG, sandbox=sandbox)
            if examination.config is None:
                raise ConfigErrors(examination.problems)
            settings, sha256 = examination.config, examination.sha256
            source = Source(os.path.abspath(given or DEFAULT_CONFIG), sandbox)
        supervisor = Supervisor(
            settings, source=source, sha256=sha256, sink=sink, on_ready=lambda: announce(settings, sandbox)
        )
        status = supervisor.run()
    except ConfigErrors as errors:
        for problem in errors.problems:
            click.echo(f"angarium: {problem}", err=True)
        fail("the configuration has errors; nothing was started")
    except (StartFailure, SpoolError, OSError) as failure:
        fail(str(failure))
    with contextlib.suppress(BrokenPipeError):
        click.echo("angarium: stopped", err=True)
    sys.exit(status)


def program() -> str:
    """What a shell in this folder calls this program."""
    if shutil.which("angarium") is not None:
        return "angarium"
    if sys.argv[0].endswith(".py"):
        return f"{shlex.quote(sys.executable)} -m angarium.cli.main"
    return shlex.quote(sys.argv[0])


def announce(config: object, sandbox: bool) -> None:
    """Say where to find what; in the sandbox, what to try next."""
    from angarium.config.model import Config

    assert isinstance(config, Config)
    lines = [f"angarium is ready, spool {config.node.spool}"]
    for listener in config.listener:
        tls = {"none": "", "starttls": ", STARTTLS", "implicit": ", TLS"}[listener.tls]
        lines.append(f"  {listener.role:<11} {listener.listen}{tls}")
    shown = str(config.admin.listen)
    lines.append(f"  console     {shown if config.admin.listen.path else f'http://{shown}/'}")
    if sandbox:
        smtp = next((listener.listen for listener in config.listener if listener.role == "relay"), None)
        if smtp is not None:
            port = smtp.port
            lines += [
                "",
                "This is a sandbox: every message is queued and delivered by SMTP, to a sink on this machine. Try:",
                "",
                f"  swaks --server 127.0.0.1:{port} --from me@example.org --to you@example.com",
                "",
                f"  printf 'Subject: hello\\n\\nIt works.\\n' | {program()} send --server 127.0.0.1:{port}"
                " --from me@example.org --to you@example.com",
                "",
                "  python3 - <<'END'",
                "  import smtplib",
                f"  with smtplib.SMTP('127.0.0.1', {port}) as s:",
                "      s.sendmail('me@example.org', ['you@example.com'], 'Subject: hello\\r\\n\\r\\nIt works.')",
                "  END",
                "",
                f"and look at http://{shown}/",
            ]
    click.echo("\n".join(lines), err=True)
