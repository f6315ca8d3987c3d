"""The connection to Redis, with limits of our own instead of the client library's defaults."""

from __future__ import annotations

from typing import Any, TypeAlias

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.connection import DefaultParser
from redis.exceptions import (
    ConnectionError,  # noqa: A004  # redis-py's name
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004  # as above
)
from redis.retry import Retry
from redis.sentinel import Sentinel

from config.redis_url import RedisAddress, RedisSentinels, RedisServer

#: A redis-py client that answers in bytes. Its annotations admit every mode at once (bytes, str, awaitable),
#: so that each use would need a cast: the store declares the shapes of its own results instead.
RedisClient: TypeAlias = Any


class LayoutError(RedisError):
    """An account's data has a layout that this code does not read: nothing of it may be touched.

    Its text is one sentence for operators. See worker/store/schema.py.
    """


class OldLayoutError(LayoutError):
    """It is the layout before this version's, or is just being carried over: a worker that starts does so."""


class RefusedError(ResponseError):
    """The server does nothing of this kind for now: it cannot save, has too few replicas, runs a long script,
    or its cluster is not whole. Nothing of the call has happened.
    """


#: First words of the refusals that pass by themselves or once an operator has seen to the server. redis-py
#: knows some of them by classes of its own, none of which says so.
PASSING = frozenset({"BUSY", "CLUSTERDOWN", "MASTERDOWN", "MISCONF", "NOREPLICAS", "TRYAGAIN"})

#: What the store raises while the server is away, too slow, full, a replica, refuses for now, or holds data
#: that only another version may touch; the call may succeed later.
AWAY = (ConnectionError, TimeoutError, OutOfMemoryError, ReadOnlyError, RefusedError, LayoutError)
#: Seconds until a command without an answer is given up. Blocking reads must end well before.
SOCKET_TIMEOUT_SECONDS = 5.0


class _Parser(DefaultParser):  # type: ignore[valid-type,misc]  # the C parser, where it is installed
    """Reads replies; every refusal that passes is a RefusedError, whichever way its command took."""

    @classmethod
    def parse_error(cls, response: str) -> Exception:
        """The exception that an error reply stands for."""
        if response.split(" ", 1)[0] in PASSING:
            return RefusedError(response)
        error: Exception = super().parse_error(response)
        return error


def connect(address: RedisAddress | str) -> RedisClient:
    """A thread-safe client with a connection pool; connects at first use. ``address`` may be a plain URL.

    A command whose connection broke is sent again (twice at most, within half a second): every script is safe
    to run twice. Raises redis.exceptions.RedisError from its methods; a URL that is no URL raises ValueError.
    """
    limits: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 15,
        "retry": Retry(ExponentialBackoff(cap=0.3, base=0.05), 2),
        "client_name": "volley",
    }
    match address:
        case str():
            return Redis.from_url(address, **limits, parser_class=_Parser)
        case RedisServer(url=url):
            return Redis.from_url(url.get_secret_value(), **limits, parser_class=_Parser)
        case RedisSentinels() as found:
            password = found.password.get_secret_value() if found.password else None
            sentinel: Any = Sentinel(list(found.sentinels), sentinel_kwargs=limits)  # type: ignore[no-untyped-call]
            return sentinel.master_for(
                found.master,
                db=found.database,
                username=found.username,
                password=password,
                parser_class=_Parser,
                **limits,
            )
