"""What a client is told in order to reach a server: the application's name, its URL and its token.

Server and clients check them with the same functions, so what one side takes the other can use.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from ..errors import ConfigError

#: It stands in a route, in a proxy's configuration, in names of actors, metrics and log files; all of them take these.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)

_MAX_TOKEN = 1024


def application_name(name: object) -> str:
    """The name of an application. Raises ConfigError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name)
        raise ConfigError(
            f"{shown if len(shown) <= 80 else shown[:80] + '...'} is no name for an application; use 1 to 63 of the "
            "letters A to Z and a to z, digits, _, . and -, beginning with a letter or digit"
        )
    return name


def application_url(url: str) -> str:
    """The address of an application, such as ``http://10.0.0.7:8000/headtail``, without a slash at its end.

    The path may be longer than a name, since a proxy on the way may add to it.

    Raises:
        ConfigError: it is no such address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port  # ValueError where it is out of range
    except ValueError:
        raise _no_address(url) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError("the url holds a user or a password; give http://host:port/application, and HEADTAIL_TOKEN")
    known = parts.scheme in ("http", "https") and parts.hostname and port != 0
    if not known or parts.query or parts.fragment or not all("!" <= letter <= "~" for letter in url):
        raise _no_address(url)
    return url.rstrip("/")


def _no_address(url: str) -> ConfigError:
    shown = "with an @" if "@" in url else repr(url[:200])  # before an @ may stand a password
    return ConfigError(f"url {shown} is no address; write http://host:port/application")


def browser_origin(origin: str) -> str:
    """Where a page comes from, exactly as browsers write it in the header ``Origin``: ``https://host[:port]``.

    Raises:
        ConfigError: no browser would write it so, so it would never be met.
    """
    try:
        parts = urlsplit(origin)
        port = parts.port  # ValueError where it is out of range
    except ValueError:
        raise _no_origin(origin) from None
    host = parts.hostname or "*"
    written = f"{parts.scheme}://[{host}]" if ":" in host else f"{parts.scheme}://{host}"
    if port is not None and port != {"http": 80, "https": 443}.get(parts.scheme):
        written += f":{port}"
    host_is_plain = all(letter.isascii() and (letter.isalnum() or letter in ".-:_") for letter in host)
    if parts.scheme not in ("http", "https") or not host_is_plain or port == 0 or written != origin:
        raise _no_origin(origin)
    return origin


def _no_origin(origin: str) -> ConfigError:
    shown = "with an @" if "@" in origin else repr(origin[:200])
    return ConfigError(
        f"origin {shown} is not as browsers write it; write https://host or https://host:port in small letters, "
        "without a path, a slash at the end or the port that https has anyway; no * either: name each origin"
    )


def bearer_token(token: object, where: str) -> str:
    """A token as it is sent, without white space around it (a file made by `echo` ends in a newline); empty: none.

    Args:
        where: it was read, for the message, which never holds the token.

    Raises:
        ConfigError: it cannot be sent in an HTTP header.
    """
    if not isinstance(token, str):
        raise ConfigError(f"{where}: a token is text, not {type(token).__name__}; write it in quotes")
    stripped = token.strip()
    if token and not stripped:
        raise ConfigError(f"{where}: a token of white space only; give one, or leave it out")
    if len(stripped) > _MAX_TOKEN:
        raise ConfigError(f"{where}: a token of {len(stripped)} characters; at most {_MAX_TOKEN}")
    if not all("!" <= letter <= "~" for letter in stripped):
        raise ConfigError(
            f"{where}: a token may hold visible ASCII characters only, no space, line break or other letter; make one "
            "by `python -c 'import secrets; print(secrets.token_urlsafe())'`"
        )
    return stripped
