"""The members of a Redis set, as a stream, without a copy of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, nullcontext

from redis.exceptions import ConnectionError, NoPermissionError, RedisError, TimeoutError  # noqa: A004  # redis-py's names

from worker.core.errors import UnreadableSource
from worker.store.connection import RedisClient, connect

#: Members that one command asks for.
MEMBERS_AT_ONCE = 1000


def members_of(key: str, own: RedisClient, url: str | None) -> Iterator[bytes]:
    """Every member that is in the set all the time while it is read, some perhaps twice.

    ``url`` names the server, ``own`` is ours for where it is None. A set that is not there is empty.
    Raises UnreadableSource.
    """
    fault = ""
    with closing(connect(url)) if url else nullcontext(own) as client:
        try:
            server = client.info("server").get("run_id")
            yield from client.sscan_iter(key, count=MEMBERS_AT_ONCE)
            # A cursor is good for one run of one server: behind it members would be passed over.
            if client.info("server").get("run_id") != server:
                fault = "the server of the set was started anew while it was read"
        except (ConnectionError, TimeoutError):
            fault = "the server of the set does not answer"
        except NoPermissionError:
            fault = "Redis does not let this user read the set (NOPERM)"
        except RedisError as error:
            # The rest of what it says may repeat the command.
            fault = f"Redis refuses to read the set: {str(error).partition(' ')[0]}"
    if fault:
        raise UnreadableSource(fault)
