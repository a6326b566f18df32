"""`angarium send`: submit a message from a file or standard input by SMTP."""

from __future__ import annotations

import asyncio
import email.utils
import json
import sys
from typing import IO

import click

from angarium.cli.main import fail


@click.command()
@click.argument("message", type=click.File("rb"), default="-")
@click.option("--server", default="127.0.0.1:2525", show_default=True, metavar="HOST:PORT", help="Where to submit.")
@click.option("--from", "reverse_path", required=True, metavar="ADDRESS", help="Reverse-path; <> for the null one.")
@click.option("--to", "recipients", required=True, multiple=True, metavar="ADDRESS", help="Recipient; may be repeated.")
@click.option("--tls", type=click.Choice(["none", "starttls", "implicit"]), default="none", show_default=True)
@click.option("--insecure", is_flag=True, help="Accept any certificate.")
@click.option("--user", default=None, help="Log in as; the password is asked for or read from ANGARIUM_PASSWORD.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for each step.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's reply as JSON.")
def send(
    message: IO[bytes],
    server: str,
    reverse_path: str,
    recipients: tuple[str, ...],
    tls: str,
    insecure: bool,
    user: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Submit MESSAGE (a file with a header section and a body; - is standard input).

    Line ends may be LF or CRLF. A message without Date or Message-ID gets them.
    """
    octets = complete(message.read())
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal():
        raise click.UsageError(f"--server {server}: write HOST:PORT")
    password = None
    if user is not None:
        import os

        password = os.environ.get("ANGARIUM_PASSWORD") or click.prompt("Password", hide_input=True, err=True)
    sender = "" if reverse_path in {"<>", ""} else reverse_path
    try:
        code, text, refused = asyncio.run(
            submit(host.strip("[]"), int(port), sender, recipients, octets, tls, not insecure, user, password, timeout)
        )
    except SubmissionError as failure:
        fail(str(failure))
    if as_json:
        click.echo(json.dumps({"reply": {"code": code, "text": text}, "refused": refused, "octets": len(octets)}))
    else:
        click.echo(f"{code} {text}")
        for address, why in refused.items():
            click.echo(f"refused: {address}: {why}", err=True)
    sys.exit(1 if refused else 0)


class SubmissionError(Exception):
    """The server did not take the message."""


def complete(octets: bytes) -> bytes:
    """The message with CRLF line ends, a Date and a Message-ID."""
    octets = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    header, _, _ = octets.partition(b"\r\n\r\n")
    names = {line.partition(b":")[0].strip().lower() for line in header.split(b"\r\n") if line[:1] not in {b" ", b"\t"}}
    added = b""
    if b"date" not in names:
        added += b"Date: " + email.utils.formatdate().encode("ascii") + b"\r\n"
    if b"message-id" not in names:
        added += b"Message-ID: " + email.utils.make_msgid().encode("ascii", "replace") + b"\r\n"
    return added + octets


async def submit(
    host: str,
    port: int,
    reverse_path: str,
    recipients: tuple[str, ...],
    octets: bytes,
    tls: str,
    verify: bool,
    user: str | None,
    password: str | None,
    timeout_s: float,
) -> tuple[int, str, dict[str, str]]:
    """(reply code, text, refused recipients) of the server; SubmissionError when it takes the message for nobody."""
    import aiosmtplib

    client = aiosmtplib.SMTP(
        hostname=host,
        port=port,
        use_tls=tls == "implicit",
        start_tls=tls == "starttls",
        validate_certs=verify,
        timeout=timeout_s,
        username=user,
        password=password,
    )
    try:
        async with client:
            responses, text = await client.sendmail(
                reverse_path, list(recipients), octets, mail_options=mail_options(reverse_path, recipients, octets)
            )
    except aiosmtplib.SMTPRecipientsRefused as refusal:
        why = "; ".join(f"{one.recipient}: {one.code} {one.message}" for one in refusal.recipients)
        raise SubmissionError(f"{host}:{port} refused every recipient: {why}") from refusal
    except aiosmtplib.SMTPResponseException as refusal:
        raise SubmissionError(f"{host}:{port}: {refusal.code} {refusal.message}") from refusal
    except (aiosmtplib.SMTPException, OSError) as failure:
        raise SubmissionError(f"{host}:{port}: {failure}") from failure
    refused = {address: f"{response.code} {response.message}" for address, response in responses.items()}
    return 250, text, refused


def mail_options(reverse_path: str, recipients: tuple[str, ...], octets: bytes) -> list[str]:
    """The ESMTP parameters that this message needs (RFC 6152, RFC 6531)."""
    options = []
    if not octets.isascii():
        options.append("BODY=8BITMIME")
    if not all(address.isascii() for address in (reverse_path, *recipients)):
        options.append("SMTPUTF8")
    return options
