"""The commands' way to the running relay: its admin API over HTTP, by TCP or a Unix socket.

Input: where the relay listens and its token, from `--admin` and `--token-file`, else from the configuration, else the
address that a sandbox has. Output: decoded JSON.

Fails: RelayError, which click prints as one line and turns into exit status 1.

Little is imported here, so that a command starts in a blink.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import tomllib
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import click

from angarium.config.address import ListenAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DEFAULT_ADDRESS", "RelayClient", "RelayError", "connecting", "printable"]

DEFAULT_ADDRESS = "127.0.0.1:8025"
DEFAULT_CONFIG = "/etc/angarium/angarium.toml"
TIMEOUT_S = 90.0  # walks over a long queue that must read envelopes may take a minute
ANSWER_MAX_OCTETS = 256 * 1024 * 1024
UNREACHABLE_HEADER = "Angarium-Unreachable-Workers"

F = TypeVar("F", bound="Callable[..., Any]")


class RelayError(click.ClickException):
    """What went wrong with the running relay, in one line."""

    def show(self, file: Any = None) -> None:
        """Print it, and nothing else, on standard error."""
        click.echo(self.format_message(), err=True, file=file)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class RelayClient:
    """The admin API at one address."""

    def __init__(self, address: ListenAddress, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self._token = token
        self._timeout_s = timeout_s

    def get(self, *path: str, **query: str | float | None) -> Any:
        """What `GET /api/v1/<path>` says. Workers that did not answer are named on standard error."""
        return self._ask("GET", path, query)

    def post(self, *path: str, body: dict[str, Any]) -> Any:
        """What `POST /api/v1/<path>` says to a JSON body."""
        return self._ask("POST", path, {}, body)

    def delete(self, *path: str, **query: str | float | None) -> Any:
        """What `DELETE /api/v1/<path>` says."""
        return self._ask("DELETE", path, query)

    @contextlib.contextmanager
    def download(self, *path: str, body: dict[str, Any]) -> Iterator[HTTPResponse]:
        """The octets that `POST /api/v1/<path>` answers with, to be read while they come."""
        with self._answered("POST", _target(path, {}), body) as answer:
            if answer.status != 200:
                raise RelayError(self._detail(answer.status, answer.read(ANSWER_MAX_OCTETS)))
            yield answer

    @contextlib.contextmanager
    def follow(self, *path: str, **query: str | float | None) -> Iterator[HTTPResponse]:
        """What `GET /api/v1/<path>` goes on saying, to be read by lines."""
        with self._answered("GET", _target(path, query), None) as answer:
            if answer.status != 200:
                raise RelayError(self._detail(answer.status, answer.read(ANSWER_MAX_OCTETS)))
            yield answer

    def _ask(self, method: str, path: tuple[str, ...], query: dict[str, str | float | None], body: Any = None) -> Any:
        with self._answered(method, _target(path, query), body) as answer:
            octets = answer.read(ANSWER_MAX_OCTETS)
            if answer.status not in (200, 202):
                raise RelayError(self._detail(answer.status, octets))
            missing = answer.headers.get(UNREACHABLE_HEADER)
        try:
            decoded = json.loads(octets)
        except ValueError:
            raise RelayError(f"{self.address} does not answer like a relay (HTTP {answer.status})") from None
        if missing:
            click.echo(f"without workers that do not answer: {printable(missing)}", err=True)
        return decoded

    def _detail(self, status: int, octets: bytes) -> str:
        """What the relay objects."""
        try:
            answer = json.loads(octets)
        except ValueError:
            return f"{self.address} does not answer like a relay (HTTP {status})"
        detail = answer.get("detail") if isinstance(answer, dict) else None
        extra = answer.get("extra") if isinstance(answer, dict) else None
        if isinstance(extra, list) and extra and isinstance(extra[0], dict):
            detail = f"{detail}: {extra[0].get('message')}"
        return printable(str(detail or f"HTTP {status}"))

    @contextlib.contextmanager
    def _answered(self, method: str, target: str, body: Any) -> Iterator[HTTPResponse]:
        connection: HTTPConnection
        if self.address.path:
            connection = _UnixConnection(self.address.path, self._timeout_s)
        else:
            connection = HTTPConnection(self.address.host, self.address.port, timeout=self._timeout_s)
        headers = {"Accept": "application/json"}
        octets = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            octets = json.dumps(body).encode()
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, target, body=octets, headers=headers)
            yield connection.getresponse()
        except TimeoutError:
            raise RelayError(f"cannot reach the relay at {self.address}: no answer in {self._timeout_s:g} s") from None
        except OSError as error:
            raise RelayError(f"cannot reach the relay at {self.address}: {error.strerror or error}") from None
        except HTTPException as error:
            raise RelayError(f"{self.address} does not answer like a relay: {type(error).__name__}") from None
        finally:
            connection.close()


def _target(path: tuple[str, ...], query: dict[str, str | float | None]) -> str:
    wanted = {name.rstrip("_"): value for name, value in query.items() if value is not None}
    target = "/api/v1/" + "/".join(quote(part, safe="") for part in path)
    return target + "?" + urlencode(wanted) if wanted else target


def connecting(command: F) -> F:
    """Give a click command the options that say where the relay is, and a RelayClient as its first argument."""

    @click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False),
        envvar="ANGARIUM_CONFIG",
        help=f"Configuration file, for the admin address and token; {DEFAULT_CONFIG} if it is there.",
    )
    @click.option("--admin", metavar="ADDRESS", envvar="ANGARIUM_ADMIN", help="Admin address: IP:PORT or unix:/PATH.")
    @click.option(
        "--token-file", type=click.Path(dir_okay=False), envvar="ANGARIUM_TOKEN_FILE", help="File with the admin token."
    )
    @functools.wraps(command)
    def with_client(
        *args: Any, config_file: str | None, admin: str | None, token_file: str | None, **kwargs: Any
    ) -> Any:
        return command(_client(config_file, admin, token_file), *args, **kwargs)

    return with_client  # type: ignore[return-value]


def _client(config_file: str | None, admin: str | None, token_file: str | None) -> RelayClient:
    listen, configured_token_file = (admin, None) if admin is not None else _configured(config_file)
    try:
        address = ListenAddress.parse(listen)
    except ValueError as error:
        if admin is None:
            raise RelayError(f"{config_file or DEFAULT_CONFIG}: admin.listen: {error}") from None
        raise click.BadParameter(str(error), param_hint="--admin") from None
    token_file = token_file or configured_token_file
    return RelayClient(address, None if token_file is None else _token(token_file))


def _configured(config_file: str | None) -> tuple[str, str | None]:
    """admin.listen and admin.token_file of the configuration.

    Nothing else of it is looked at: these commands work for those who may not read its keys, and while it is edited.
    """
    path = config_file or DEFAULT_CONFIG
    try:
        with open(path, "rb") as file:
            admin = tomllib.load(file).get("admin", {})
    except FileNotFoundError as error:
        if config_file is None:
            return DEFAULT_ADDRESS, None
        raise RelayError(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise RelayError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise RelayError(f"{path}: is not TOML: {error}") from None
    listen = admin.get("listen", DEFAULT_ADDRESS) if isinstance(admin, dict) else None
    token_file = admin.get("token_file") if isinstance(admin, dict) else None
    if not isinstance(listen, str) or not isinstance(token_file, str | None):
        raise RelayError(f"{path}: [admin] is not as it should be; see angarium check")
    return listen, None if token_file is None else os.path.join(os.path.dirname(os.path.abspath(path)), token_file)


def _token(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.readline(1024).strip()
    except OSError as error:
        raise RelayError(f"cannot read the token in {path}: {error.strerror}") from None
    except ValueError:
        raise RelayError(f"cannot read the token in {path}: it is not ASCII") from None


def printable(text: str) -> str:
    """Text from outside as a terminal may show it: control characters and the like become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
