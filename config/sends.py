"""Recurring sends: `[[sends]]` of the TOML file, checked whole before anything runs.

[[sends]]
name = "weekly-offer"
cron = "0 9 * * MON"                # minute, hour, day of the month, month, day of the week
time_zone = "Europe/Berlin"
campaigns = [1709550110]
content = { Name = "Offer of the week" }
file = "people.csv"                 # or redis_set, or url
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import SecretStr, ValidationError

from config.redis_url import check_redis_url, is_sentinel
from config.secret_values import read_secret_file
from config.send_table import (
    FileSource,
    Kind,
    Missed,
    Priority,
    Send,
    SendTable,
    SetSource,
    Source,
    UrlSource,
)
from config.wording import SettingsError, first_fault, nearest, shown

__all__ = [
    "FileSource",
    "Kind",
    "Missed",
    "Priority",
    "Send",
    "SendTable",
    "SetSource",
    "Source",
    "UrlSource",
    "checked_send",
    "read_sends",
    "send_place",
]

#: The largest content, in bytes of JSON, and the deepest: the bounds of a trigger's `ExternalTrigger`.
CONTENT_MAX_BYTES, CONTENT_MAX_DEPTH = 65_536, 8


def read_sends(document: object, path: Path, words: str) -> tuple[SendTable, ...]:
    """The tables of a file's `[[sends]]`; `words` names the file. Raises SettingsError.

    Paths of files become absolute, seen from the TOML file's folder.
    """
    if not isinstance(document, list) or not all(isinstance(each, dict) for each in document):
        raise SettingsError(f"sends in {words} must be tables such as [[sends]].")
    tables: dict[str, SendTable] = {}
    for number, each in enumerate(document, start=1):
        table = _validated(each, _place(each.get("name"), words, number))
        if table.name in tables:
            raise SettingsError(f"Two [[sends]] in {words} are named {table.name}: each needs its own name.")
        if table.file is not None:
            table = table.model_copy(update={"file": str(path.resolve().parent / table.file)})
        tables[table.name] = table
    return tuple(tables.values())


def send_place(table: SendTable, words: str) -> str:
    """' in [[sends]] weekly-offer of volley.toml'."""
    return _place(table.name, words, 0)


def checked_send(table: SendTable, place: str, environ: Mapping[str, str]) -> Send:
    """The send. Raises SettingsError for a value that is wrong by itself or contradicts another one."""
    _check_zone(table.time_zone, place)
    _check_cron(table.cron, table.time_zone, place)
    _check_content(table.content, f"content{place}")
    return Send(
        name=table.name,
        account=table.account,
        cron=table.cron,
        time_zone=table.time_zone,
        campaigns=tuple(sorted(set(table.campaigns))),
        content=table.content,
        priority=table.priority,
        source=_source(table, place, environ),
        timeout_seconds=table.timeout,
        expires_after_seconds=table.expires_after,
        missed=table.missed,
        missed_within_seconds=table.missed_within,
    )


def _place(name: object, words: str, number: int) -> str:
    known = isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name)
    return f" in [[sends]] {name if known else f'number {number}'} of {words}"


def _validated(table: Mapping[str, Any], place: str) -> SendTable:
    fault = ""
    try:
        return SendTable.model_validate(table)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        # A key that was misspelt is missing too: the misspelling says more.
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            fault = f"{shown(key)}{place} is not a setting{nearest(key, SendTable.model_fields)}."
        elif first["type"] == "missing":
            fault = f"{key}{place} is not set: a recurring send needs it."
        else:
            fault = first_fault(error, SendTable.model_fields, place)
    # Raised here and not in the handler, since pydantic's error would carry the values along.
    raise SettingsError(fault)


def _check_zone(zone: str, place: str) -> None:
    known = available_timezones()
    if zone not in known:
        raise SettingsError(
            f"time_zone{place} is {shown(zone)}, which is no time zone{nearest(zone, known)}."
        )


def _check_cron(cron: str, zone: str, place: str) -> None:
    label = f"cron{place} is {shown(cron)}"
    fault = ""
    try:
        # Any start will do: the library looks fifty years ahead.
        next(CronSim(cron, datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))))
    except CronSimError as error:
        part = re.fullmatch(r"Bad ([a-z-]+)", str(error))
        fault = f" but its {part[1]} cannot be understood" if part else " but must be five fields"
    except (StopIteration, ValueError, OverflowError):
        fault = ", a time that never comes"
    if fault:
        raise SettingsError(f"{label}{fault}: minute, hour, day of the month, month, day of the week.")


def _check_content(content: Mapping[str, Any], label: str) -> None:
    fault = _content_fault(content, 1)
    if fault:
        raise SettingsError(f"{label} {fault}.")
    try:
        size = len(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
    except UnicodeEncodeError:
        size = CONTENT_MAX_BYTES + 1
    if size > CONTENT_MAX_BYTES:
        raise SettingsError(f"{label} is longer than {CONTENT_MAX_BYTES} bytes.")


def _content_fault(value: object, depth: int) -> str:
    """What is wrong with a part of the content, or nothing."""
    if isinstance(value, str):
        return ""
    if not isinstance(value, dict | list):
        return "may hold only texts, and lists and tables of texts"
    if depth > CONTENT_MAX_DEPTH:
        return f"is nested deeper than {CONTENT_MAX_DEPTH} levels"
    if isinstance(value, dict) and "" in value:
        return "has an empty key"
    inner = value.values() if isinstance(value, dict) else value
    return next((fault for each in inner if (fault := _content_fault(each, depth + 1))), "")


def _source(table: SendTable, place: str, environ: Mapping[str, str]) -> Source:
    given = [key for key in ("file", "redis_set", "url") if getattr(table, key) is not None]
    if len(given) != 1:
        fault = f"{given[0]} and {given[1]} are both set" if given else "none of them is set"
        raise SettingsError(f"A send takes its recipients from file, redis_set or url, but {fault}{place}.")
    _check_belongs(table, given[0], place)
    if table.file is not None:
        return FileSource(path=Path(table.file), kind=table.kind)
    if table.redis_set is not None:
        if table.kind is None:
            raise SettingsError(f"kind{place} is not set: redis_set needs email, identity or objectId.")
        return SetSource(key=table.redis_set, kind=table.kind, url=_redis_url(table, place, environ))
    return UrlSource(
        url=_checked_url(table, place),
        kind=table.kind,
        header=_header(table, place),
        header_value=_header_value(table, place, environ),
        max_bytes=table.max_bytes,
    )


#: Keys that mean something for one kind of source alone.
_ONLY_FOR = {
    "redis_url_env": "redis_set",
    "redis_url_file": "redis_set",
    "header": "url",
    "header_env": "url",
    "header_file": "url",
    "allow_http": "url",
    "max_bytes": "url",
}


def _check_belongs(table: SendTable, source: str, place: str) -> None:
    for key, belongs in _ONLY_FOR.items():
        if key in table.model_fields_set and belongs != source:
            raise SettingsError(
                f"{key}{place} is set, but it belongs to {belongs} and this send has {source}."
            )


def _redis_url(table: SendTable, place: str, environ: Mapping[str, str]) -> SecretStr | None:
    found = _secret(table, "redis_url", place, environ)
    if found is None:
        return None
    value, label = SecretStr(found[0]), found[1]
    check_redis_url(value, label)
    if is_sentinel(value):
        raise SettingsError(f"{label} must not be a sentinel:// URL.")
    return value


def _checked_url(table: SendTable, place: str) -> str:
    """The address to call. It is not shown in errors: it may hold a key."""
    url = table.url or ""

    def refuse(words: str) -> NoReturn:
        raise SettingsError(f"url{place} {words}.")

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if (
        not host
        or not re.fullmatch(r"[!-~]+", url)
        or parts.scheme not in ("http", "https")
        or port == 0
        or "@" in parts.netloc
        or parts.fragment
    ):
        refuse("must be an http or https URL with a host, without user, password or fragment")
    if parts.scheme == "http" and not table.allow_http and not _is_loopback(host):
        refuse(
            "is http for a host other than this machine, so recipients would travel in the clear: use https, "
            "or set allow_http to true for a trusted network"
        )
    return url


#: Headers that say how a request is read: the client sets them.
_FRAMING = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "upgrade", "te"}


def _header(table: SendTable, place: str) -> str:
    if table.header is None:
        return "Authorization"
    if table.header_env is None and table.header_file is None:
        raise SettingsError(
            f"header{place} is set, but neither header_env nor header_file, which say where its value is."
        )
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", table.header) or table.header.lower() in _FRAMING:
        raise SettingsError(f"header{place} must be the name of an HTTP header such as Authorization.")
    return table.header


def _header_value(table: SendTable, place: str, environ: Mapping[str, str]) -> SecretStr | None:
    found = _secret(table, "header", place, environ)
    if found is None:
        return None
    value, label = found
    if not re.fullmatch(r"[!-~]([ -~]{0,4094}[!-~])?", value):
        raise SettingsError(
            f"{label} must hold 1 to 4096 printable ASCII characters: an HTTP header carries it."
        )
    return SecretStr(value)


def _secret(table: SendTable, key: str, place: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The secret that KEY_env or KEY_file names, and what errors call its place; None: neither is set."""
    variable, file = getattr(table, f"{key}_env"), getattr(table, f"{key}_file")
    if variable is not None and file is not None:
        raise SettingsError(f"{key}_env and {key}_file are both set{place}: keep one of them.")
    if file is not None:
        label = f"{key}_file{place}"
        return read_secret_file(Path(file), label), f"The file that {label} names"
    if variable is None:
        return None
    label = f"{key}_env{place}"
    if not environ.get(variable):
        raise SettingsError(f"{label} names the variable {shown(variable)}, which is not set.")
    return environ[variable], f"The variable that {label} names"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
