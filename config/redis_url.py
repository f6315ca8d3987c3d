"""Redis URLs: which ones are taken, and what a sentinel one means.

redis-py reads `redis://`, `rediss://` and `unix://` by itself but knows no URL for Sentinel; Celery's
transport knows `sentinel://host:port;sentinel://host:port/database` and wants the master's name apart. Volley
takes that form for both.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from config.wording import SettingsError, alternatives

#: The port where a sentinel listens if its URL names none.
SENTINEL_PORT = 26379

_SCHEMES = ("redis", "rediss", "unix", "sentinel")


@dataclass(frozen=True, slots=True)
class RedisServer:
    """One server, by a URL that `redis.Redis.from_url` takes. It may hold a password, so it is a secret."""

    url: SecretStr


@dataclass(frozen=True, slots=True)
class RedisSentinels:
    """The sentinels that know where the master is; user and password are the master's."""

    #: (host, port) of each sentinel.
    sentinels: tuple[tuple[str, int], ...]
    master: str
    username: str | None
    password: SecretStr | None
    database: int


RedisAddress = RedisServer | RedisSentinels


def is_sentinel(url: SecretStr | None) -> bool:
    """Whether the URL names sentinels instead of a server."""
    return url is not None and url.get_secret_value().startswith("sentinel://")


def address_of(url: SecretStr, sentinel_master: str | None) -> RedisAddress:
    """What a URL that `check_redis_url` let pass leads to."""
    if not is_sentinel(url) or sentinel_master is None:
        return RedisServer(url)
    parts = [urlsplit(piece) for piece in url.get_secret_value().split(";")]
    username = next((unquote(part.username) for part in parts if part.username), None)
    password = next((SecretStr(unquote(part.password)) for part in parts if part.password), None)
    database = next((int(part.path[1:]) for part in parts if len(part.path) > 1), 0)
    sentinels = tuple((part.hostname or "", part.port or SENTINEL_PORT) for part in parts)
    return RedisSentinels(sentinels, sentinel_master, username, password, database)


def check_redis_url(url: SecretStr, label: str) -> None:
    """Raises SettingsError, which does not show the URL, unless redis-py and Celery both understand it."""
    text = url.get_secret_value()
    pieces = text.split(";") if is_sentinel(url) else [text]
    if not re.fullmatch(r"[!-~]+", text) or not all(_is_usable(piece) for piece in pieces):
        schemes = alternatives(f"{scheme}://" for scheme in _SCHEMES)
        raise SettingsError(
            f"{label} must be a URL that begins with {schemes}, with a number as its database."
        )
    if len({urlsplit(piece).scheme for piece in pieces}) > 1:
        raise SettingsError(f"{label} mixes sentinel:// with other URLs: all of them must be sentinels.")


def _is_usable(piece: str) -> bool:
    try:
        parts = urlsplit(piece)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return len(parts.path) > 1
    return (
        parts.scheme in _SCHEMES
        and bool(host)
        and port != 0
        and re.fullmatch(r"(/[0-9]{0,4})?", parts.path) is not None
    )
