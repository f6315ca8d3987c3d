"""Who calls: the vendor's headers against the accounts that are configured.

Every account is compared, in full and by digests under a key of this process, so the time that it takes
tells nothing about what was right. What a caller sent is not kept, forwarded or logged.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from secrets import token_bytes

from aiohttp import web

from config.settings import Account

ACCOUNT_ID, PASSCODE, TOKEN = "X-CleverTap-Account-Id", "X-CleverTap-Passcode", "X-CleverTap-Token"


class Callers:
    """The accounts, as far as calls are told apart by them."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._key = token_bytes(32)
        self._known = [
            (
                each.name,
                self._digest(each.account_id),
                self._digest(each.passcode.get_secret_value()),
                # Of an account without a token nothing is right.
                self._digest(each.token.get_secret_value()) if each.token else token_bytes(32),
            )
            for each in accounts
        ]

    def account_of(self, request: web.Request, *, needs_token: bool) -> str | None:
        """The name of the account whose credentials these are, or None.

        ``/2`` needs the token too, ``/1`` does not look at it (External Trigger API, Headers).
        """
        account_id, passcode, token = (self._given(request, name) for name in (ACCOUNT_ID, PASSCODE, TOKEN))
        found = None
        for name, known_id, known_passcode, known_token in self._known:
            same = hmac.compare_digest(account_id, known_id)
            same &= hmac.compare_digest(passcode, known_passcode)
            same &= hmac.compare_digest(token, known_token) | (not needs_token)
            found = name if same and found is None else found
        return found

    def _given(self, request: web.Request, name: str) -> bytes:
        values = request.headers.getall(name, ())
        return self._digest(values[0]) if len(values) == 1 else b""

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(
            text.encode("utf-8", "surrogateescape"), key=self._key, digest_size=32
        ).digest()
