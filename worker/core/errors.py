"""Our exceptions. What the API may answer is a value (``core/answers.py``), never one of these.

    VolleyError              anything that Volley itself raises on purpose
    ├── InvalidTrigger       a trigger breaks the contract of the intake stream
    └── UnreadableSource     the recipients of a recurring send cannot be read

Their texts are shown to operators and kept with dead letters, so they never hold a value that a producer
sent.
"""

from __future__ import annotations


class VolleyError(Exception):
    """Root of everything that Volley raises on purpose."""


class InvalidTrigger(VolleyError):  # noqa: N818  (a trigger's state in the project's words, as users read it)
    """``{where}: {why}``, for example ``to.email[3]: is not an e-mail address``.

    ``where`` is the path of the offending part, ``why`` a phrase that continues it.
    """

    def __init__(self, where: str, why: str) -> None:
        super().__init__(where, why)
        self.where = where
        self.why = why

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


class UnreadableSource(VolleyError):  # noqa: N818  (as InvalidTrigger)
    """Why a recurring send's source cannot be read, as one phrase: no address, no secret, nothing of what it
    holds.
    """
