"""The TOML file: more accounts and policies per campaign, held to a strict form.

[accounts.shop]
account_id = "ABC-123"
passcode_env = "SHOP_PASSCODE"      # or passcode_file, or passcode
region = "in1"

[campaigns.1709550110]
account = "shop"                    # left out: this campaign of every account
unknown = "resend"                  # or unknown_urgent, unknown_normal, unknown_bulk
stopped = "wait"
weight = 3                          # three calls for one of a campaign of weight 1
max_attempts = 3

[[sends]]                           # see config/sends.py
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from config.accounts import (
    ACCOUNT_NAME,
    AgeSeconds,
    Attempts,
    CallSeconds,
    EndpointChoice,
    InFlight,
    Recipients,
    RegionChoice,
    Reserve,
    StoppedChoice,
    UnknownChoice,
    Weight,
)
from config.rules import CallRate, LingerSeconds, Messages, Rate, WaitSeconds
from config.secret_values import read_secret_file, reason_of
from config.sends import SendTable, read_sends, send_place
from config.wording import Says, SettingsError, first_fault, nearest, shown

#: Bytes of a configuration file. A bound, so that a path like /dev/zero ends in an error.
MAX_FILE_BYTES = 4_194_304

TableT = TypeVar("TableT", bound="_Table")

#: The tables that a file may hold, with an example of a name in each.
_EXAMPLES = {"accounts": "shop", "campaigns": "1709550110"}

TestRecipients = Annotated[list[SecretStr], Says('a list such as ["email:a@example.com"]')]

_CAMPAIGN_ID = re.compile(r"[1-9][0-9]{0,18}")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class AccountTable(_Table):
    """`[accounts.<name>]`. What it leaves out comes from the `VOLLEY_` variables, credentials excepted."""

    account_id: str | None = None
    passcode: SecretStr | None = None
    passcode_env: str | None = None
    passcode_file: str | None = None
    token: SecretStr | None = None
    token_env: str | None = None
    token_file: str | None = None
    region: RegionChoice | None = None
    base_url: str | None = None
    allow_http: bool | None = None
    endpoint: EndpointChoice | None = None
    max_in_flight: InFlight | None = None
    reserve: Reserve | None = None
    allow_more_in_flight: bool | None = None
    request_deadline: CallSeconds | None = None
    connect_timeout: CallSeconds | None = None
    read_timeout: CallSeconds | None = None
    permit_lease: CallSeconds | None = None
    single_recipients: Recipients | None = None
    calls_per_second: CallRate | None = None
    recipients_per_second: Rate | None = None


class CampaignTable(_Table):
    """`[campaigns.<id>]`. What it leaves out comes from the `VOLLEY_` variables."""

    account: str | None = None
    unknown: UnknownChoice | None = None
    unknown_urgent: UnknownChoice | None = None
    unknown_normal: UnknownChoice | None = None
    unknown_bulk: UnknownChoice | None = None
    stopped: StoppedChoice | None = None
    weight: Weight | None = None
    quiet_hours: str | None = None
    time_zone: str | None = None
    recipients_per_hour: Messages | None = None
    linger: LingerSeconds | None = None
    max_per_hour: Messages | None = None
    max_per_day: Messages | None = None
    canary: Messages | None = None
    canary_wait: WaitSeconds | None = None
    test_recipients: TestRecipients | None = None
    max_attempts: Attempts | None = None
    max_age: AgeSeconds | None = None


class Tables(_Table):
    """A whole file; `path` is there for error texts."""

    path: Path
    accounts: Mapping[str, AccountTable]
    campaigns: Mapping[int, CampaignTable]
    sends: tuple[SendTable, ...] = ()

    def send_place(self, table: SendTable) -> str:
        """' in [[sends]] weekly-offer of volley.toml'."""
        return send_place(table, path_words(self.path))

    def place(self, kind: str, name: object) -> str:
        """' in [accounts.shop] of volley.toml'."""
        return _place(kind, name, self.path)

    def secret_variables(self) -> set[str]:
        """The names of variables that the file takes secrets from."""
        named = ((table.passcode_env, table.token_env) for table in self.accounts.values())
        of_sends = ((table.redis_url_env, table.header_env) for table in self.sends)
        return {name for pair in (*named, *of_sends) for name in pair if name}

    def secret(self, name: str, key: str, environ: Mapping[str, str]) -> SecretStr | None:
        """The passcode or token of an account, from wherever its table says.

        Raises SettingsError if the table names two places, or one that holds nothing.
        """
        table, place = self.accounts[name], self.place("accounts", name)
        ways = [way for way in (key, f"{key}_env", f"{key}_file") if getattr(table, way) is not None]
        if len(ways) > 1:
            raise SettingsError(f"{ways[0]} and {ways[1]} are both set{place}: keep one of them.")
        if not ways:
            return None
        given = getattr(table, ways[0])
        if isinstance(given, SecretStr):
            return given
        if ways[0].endswith("_file"):
            return SecretStr(read_secret_file(Path(given), f"{ways[0]}{place}"))
        if not environ.get(given):
            raise SettingsError(f"{ways[0]}{place} names the variable {shown(given)}, which is not set.")
        return SecretStr(environ[given])


def read_tables(path: Path) -> Tables:
    """The file at `path`. Raises SettingsError that names the file, the table and the key."""
    document, words = _document(path), path_words(path)
    for name in document:
        if name != "sends" and name not in _EXAMPLES:
            known = [*_EXAMPLES, "sends"]
            raise SettingsError(f"{shown(name)} in {words} is not a setting{nearest(name, known)}.")
    accounts: dict[str, AccountTable] = {}
    for name, table in _tables_of(document, "accounts", path).items():
        if not ACCOUNT_NAME.fullmatch(name):
            raise SettingsError(
                f"{shown(name)} in {words} is not an account's name: 1 to 32 of a-z, 0-9, _ and -."
            )
        accounts[name] = _validated(AccountTable, table, _place("accounts", name, path))
    campaigns: dict[int, CampaignTable] = {}
    for name, table in _tables_of(document, "campaigns", path).items():
        if not _CAMPAIGN_ID.fullmatch(name):
            raise SettingsError(
                f"{shown(name)} in {words} is not a campaign's id: it is a whole number above 0."
            )
        campaigns[int(name)] = _validated(CampaignTable, table, _place("campaigns", name, path))
    sends = read_sends(document.get("sends", []), path, words)
    return Tables(path=path, accounts=accounts, campaigns=campaigns, sends=sends)


def _document(path: Path) -> dict[str, Any]:
    content, fault = b"", ""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        fault = reason_of(error)
    if fault:
        raise SettingsError(f"VOLLEY_CONFIG names {path_words(path)}, which cannot be read: {fault}.")
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError(f"VOLLEY_CONFIG names {path_words(path)}, which is over {MAX_FILE_BYTES} bytes.")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError:
        fault = "not UTF-8"
    except tomllib.TOMLDecodeError as error:
        fault = f"not valid TOML: {error}"
    except (ValueError, RecursionError):
        # A date out of range or a number of thousands of digits; tables nested without end.
        fault = "not valid TOML: a value is out of range"
    raise SettingsError(f"{path_words(path)} is {fault}.")


def path_words(path: Path) -> str:
    """The path, unless printing it would break the line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _tables_of(document: Mapping[str, Any], kind: str, path: Path) -> Mapping[str, Any]:
    tables = document.get(kind, {})
    if not isinstance(tables, dict):
        raise SettingsError(
            f"{kind} in {path_words(path)} must be tables such as [{kind}.{_EXAMPLES[kind]}]."
        )
    return tables


def _place(kind: str, name: object, path: Path) -> str:
    return f" in [{kind}.{name}] of {path_words(path)}"


def _validated(model: type[TableT], table: object, place: str) -> TableT:
    if not isinstance(table, dict):
        raise SettingsError(f"The value{place} must be a table.")
    fault = ""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        fault = first_fault(error, model.model_fields, place)
    # Raised here and not in the handler, since pydantic's error would carry the values along.
    raise SettingsError(fault)
