"""A command whose answer is not waited for at once: meanwhile its caller does something else."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from worker.store.connection import RedisClient


class Asked:
    """A command that has been sent on a connection of its own. Its answer is taken once, or it is dropped."""

    def __init__(self, client: RedisClient, *command: Any) -> None:
        """Sends it. Raises ConnectionError or TimeoutError when that was not possible."""
        self._pool = client.connection_pool
        self._connection: Any = self._pool.get_connection()
        try:
            self._connection.send_command(*command)
        except BaseException:
            self.drop()
            raise

    def answer(self) -> Any:
        """Waits for the answer. After an error that is none of the server's own, nobody knows whether the
        command has happened.
        """
        try:
            answer = self._connection.read_response()
        except ResponseError:
            self._release()
            raise
        except BaseException:
            self.drop()
            raise
        self._release()
        return answer

    def drop(self) -> None:
        """Lets go of it: nobody learns whether it happens."""
        if self._connection is not None:
            self._connection.disconnect()
            self._release()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        self._pool.release(connection)
