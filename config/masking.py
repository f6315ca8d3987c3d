"""Taking secrets and addresses out of texts, before a log or an error report carries them away.

This is the second line of defence. The first is that no code puts them into a text: recipients that are
neither e-mail addresses nor telephone numbers (`identity`, `objectId`) have no form that could be recognised
here.
"""

import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote, urlsplit

from config.settings import Settings

#: What stands in the place of a masked value.
MASK = "[masked]"

#: Secrets shorter than this are masked only as whole words, or they would spoil every text.
SHORT_SECRET_CHARACTERS = 6

#: Bounded repetitions keep the search linear in the text's length; 64 and 63 are the limits of addresses. A
#: local part may hold almost anything, so `to=a@b.example` goes as a whole.
_EMAIL = re.compile(r"""[^\s@"<>()\[\],;:\\]{0,64}(?:@|%40)(?:[\w-]{1,63}\.){1,8}[\w-]{1,63}""")
#: International telephone numbers, a common choice for `identity`.
_TELEPHONE = re.compile(r"\+[0-9]{8,15}(?![0-9])")


class Masker:
    """Masks the secrets that it was given, e-mail addresses and telephone numbers."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        # The longest first, or a secret that begins like another one would leave that one's end behind.
        patterns = [_pattern(form) for form in sorted(forms, key=lambda form: (-len(form), form))]
        self._secrets = re.compile("|".join(patterns)) if patterns else None

    def text(self, text: str) -> str:
        """The text with everything masked."""
        if self._secrets is not None:
            text = self._secrets.sub(MASK, text)
        if "@" in text or "%40" in text:
            text = _EMAIL.sub(MASK, text)
        return _TELEPHONE.sub(MASK, text) if "+" in text else text

    def tree(self, value: object) -> object:
        """The same for every text in dictionaries (keys too), lists and tuples; what is no text stays."""
        match value:
            case str():
                return self.text(value)
            case bytes():
                return self.text(value.decode(errors="replace"))
            case Mapping():
                return {self.tree(key): self.tree(inner) for key, inner in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.tree(inner) for inner in value]
            case _:
                return value


def masker_of(settings: Settings | None) -> Masker:
    """A masker that knows the secrets of these settings, the passwords inside URLs included."""
    if settings is None:
        return Masker()
    secrets = settings.secrets()
    return Masker([*secrets, *(password for secret in secrets for password in _passwords(secret))])


def mask(text: str, settings: Settings | None = None) -> str:
    """The text without the settings' secrets, e-mail addresses and telephone numbers."""
    return masker_of(settings).text(text)


def _forms(secret: str) -> Iterable[str]:
    """A secret as it may appear: as it is, in a URL, in a repr, in JSON."""
    if not secret:
        return ()
    return {secret, quote(secret, safe=""), quote(secret), repr(secret)[1:-1], json.dumps(secret)[1:-1]}


def _pattern(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= SHORT_SECRET_CHARACTERS else rf"(?<!\w){escaped}(?!\w)"


def _passwords(url: str) -> Iterable[str]:
    """The passwords in a URL, or in several with `;` between; none where it is not a URL."""
    if "://" not in url:
        return
    for piece in url.split(";"):
        try:
            password = urlsplit(piece).password
        except ValueError:
            continue
        if password:
            yield password
            yield unquote(password)
