"""Reading secrets from files, and checking them without ever showing them."""

import re
from pathlib import Path

from config.wording import SettingsError

#: Bytes that a file with one secret may hold. A bound, so that a path like /dev/zero ends in an error.
MAX_SECRET_FILE_BYTES = 16_384

_HEADER_SAFE = re.compile(r"[!-~]{1,1024}")


def read_secret_file(path: Path, label: str) -> str:
    """The file's text without the line breaks at its end.

    Raises SettingsError, beginning with `label`, if it cannot be read, is empty, too large or not UTF-8.
    """
    fault, content = "", b""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        fault = reason_of(error)
    if fault:
        raise SettingsError(f"{label} names a file that cannot be read: {fault}.")
    if len(content) > MAX_SECRET_FILE_BYTES:
        raise SettingsError(f"{label} names a file of more than {MAX_SECRET_FILE_BYTES} bytes.")
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        fault = "not UTF-8"
    # Raised here and not in the handler, since the handled error would carry the secret's bytes along.
    if fault:
        raise SettingsError(f"{label} names a file that is {fault}.")
    if not text:
        raise SettingsError(f"{label} names an empty file.")
    return text


def reason_of(error: OSError | ValueError) -> str:
    """Why a path could not be opened, without repeating the path."""
    return (error.strerror if isinstance(error, OSError) else None) or "not a usable path"


def check_header_value(value: str, label: str) -> None:
    """Raises SettingsError unless an HTTP header can carry the value; the value is not shown."""
    if not _HEADER_SAFE.fullmatch(value):
        raise SettingsError(
            f"{label} must be 1 to 1024 printable ASCII characters without spaces: an HTTP header carries it."
        )
