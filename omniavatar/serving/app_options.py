"""How the page is served: host, port, link and password, from options or from the environment."""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Self

from omniavatar import InputError

_SWITCH = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class AppOptions:
    """What `launch` needs to know. An empty host or port is Gradio's own.

    Attributes:
        host: address to listen on; 0.0.0.0 is every one that the machine has.
        port: number of the port; None takes 7860, or the next one that is free.
        share: ask Gradio for a public link, which works for a week.
        accounts: names and passwords, one of which a visitor must give; none lets everyone in.
        mcp: offer the endpoints of the API to agents as well, as tools of an MCP server.
    """

    host: str | None = None
    port: int | None = None
    share: bool = False
    accounts: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    mcp: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read OMNIAVATAR_HOST, _PORT, _SHARE, _AUTH and _MCP; Gradio's own come after them.

        Raises:
            InputError: a value can not be used; `field` is the variable.
        """
        values: dict[str, Any] = {}
        if host := environment.get("OMNIAVATAR_HOST", "").strip():
            values["host"] = host
        if port := environment.get("OMNIAVATAR_PORT", "").strip():
            values["port"] = read_port(port, "OMNIAVATAR_PORT")
        values["share"] = _read_switch(environment, "OMNIAVATAR_SHARE")
        values["mcp"] = _checked_mcp(_read_switch(environment, "OMNIAVATAR_MCP"), "OMNIAVATAR_MCP")
        # One account a line, so that a password may hold anything else.
        accounts = environment.get("OMNIAVATAR_AUTH", "").splitlines()
        values["accounts"] = tuple(
            read_account(each, "OMNIAVATAR_AUTH") for each in accounts if each.strip()
        )
        return cls(**values)


def add_app_options(parser: argparse.ArgumentParser) -> None:
    """The options of `python app.py`, which win over the environment."""
    parser.add_argument(
        "--host", metavar="ADDRESS", help="listen here; 0.0.0.0 is everywhere ($OMNIAVATAR_HOST)"
    )
    parser.add_argument("--port", metavar="N", help="port to listen on ($OMNIAVATAR_PORT)")
    parser.add_argument(
        "--share",
        action="store_true",
        help="also give a public address, through Gradio's servers ($OMNIAVATAR_SHARE)",
    )
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        action="append",
        help="let in only who knows this; may be given several times ($OMNIAVATAR_AUTH)",
    )
    parser.add_argument(
        "--mcp",
        action="store_true",
        help="offer the API to agents as well, as tools of an MCP server ($OMNIAVATAR_MCP)",
    )


def parse_app_options(arguments: Sequence[str]) -> AppOptions:
    """The options of `python app.py`.

    Raises:
        InputError: as `read_app_options` does.
    """
    parser = argparse.ArgumentParser(description="The page in the browser.", allow_abbrev=False)
    add_app_options(parser)
    return read_app_options(parser.parse_args(arguments))


def check_address(options: AppOptions) -> None:
    """Take the page's place for a moment, which tells before anything is loaded whether it is free.

    Raises:
        InputError: the host is not one of this machine, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(
            _host(options).strip("[]"), options.port or 0, type=socket.SOCK_STREAM
        )
        family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        with socket.socket(family, kind, protocol) as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(address)
    except OSError as error:
        raise not_served(options, str(error.strerror)) from error
    except ValueError as error:
        raise not_served(options, "it can not be the name of a host") from error


def not_served(options: AppOptions, reason: str) -> InputError:
    """Says where nothing can be served, and why."""
    where = _host(options) if options.port is None else f"{_host(options)}, port {options.port}"
    return InputError(
        f"The page can not be served on {where}: {reason}. Use another --host or --port."
    )


def _host(options: AppOptions) -> str:
    return options.host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"


def read_app_options(options: argparse.Namespace) -> AppOptions:
    """What was typed, and the environment for what was not.

    Raises:
        InputError: a value can not be used; `field` is the option or the variable.
    """
    found = AppOptions.from_environment(os.environ)
    port = found.port if options.port is None else read_port(options.port, "--port")
    typed: Sequence[str] = options.auth or ()
    accounts = tuple(read_account(each, "--auth") for each in typed) or found.accounts
    return AppOptions(
        host=options.host or found.host,
        port=port,
        share=options.share or found.share,
        accounts=accounts,
        mcp=_checked_mcp(options.mcp, "--mcp") or found.mcp,
    )


def _read_switch(environment: Mapping[str, str], name: str) -> bool:
    text = environment.get(name, "").strip().lower()
    if text not in _SWITCH:
        raise InputError(f"{name} is {text!r}. Use 0 or 1.", field=name)
    return _SWITCH[text]


def _checked_mcp(wanted: bool, name: str) -> bool:
    """Whether there is to be an MCP server; it needs packages that are not required."""
    if wanted and find_spec("mcp") is None:
        raise InputError(
            f"{name} needs packages that are not installed. "
            "Use: pip install -r requirements-mcp.txt.",
            field=name,
        )
    return wanted


def read_port(text: str, name: str) -> int:
    """A number from 1 to 65535."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise InputError(f"{name} is {text!r}. Use a whole number from 1 to 65535.", field=name)
    return int(text)


def read_account(text: str, name: str) -> tuple[str, str]:
    """`user:password`; the password may hold colons."""
    user, colon, password = text.strip().partition(":")
    if not user or not colon or not password:
        # What was given is not repeated: it may be most of a password.
        raise InputError(f"{name} is not a name and a password. Use user:password.", field=name)
    return user, password
