"""The shape of a recurring send: as it is written in the TOML file, and as everything else sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from config.wording import Says, Unit


class Priority(StrEnum):
    """The priority of a send's triggers."""

    URGENT = "urgent"  #: Before everything else.
    NORMAL = "normal"  #: What triggers have that name none.
    BULK = "bulk"  #: Behind the others: what a send has that names none.


class Kind(StrEnum):
    """How a source names its recipients, in the API's words."""

    EMAIL = "email"  #: E-mail addresses.
    IDENTITY = "identity"  #: The app's own ids.
    OBJECT_ID = "objectId"  #: CleverTap's ids of devices.


class Missed(StrEnum):
    """What becomes of slots at which nobody ran, once a planner looks again."""

    SKIP = "skip"  #: None of them is fired.
    LATEST = "latest"  #: The last one is fired, if it is not older than `missed_within`.
    ALL = "all"  #: All are fired that are not older than `missed_within`, one after the other.


def _choice(value: object) -> object:
    text = value.strip().lower() if isinstance(value, str) else value
    return Kind.OBJECT_ID.value if text == "objectid" else text


_Choice = [Field(strict=False), BeforeValidator(_choice)]
_CampaignId = Annotated[int, Field(ge=1, le=2**47)]
_Seconds = Annotated[int, Field(ge=1, le=86_400), Unit("seconds")]
_Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$"), Says("text")]


class SendTable(BaseModel):
    """`[[sends]]` as it is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$"), Says("1 to 40 of a-z, 0-9, _ and -")]
    account: str = "default"
    cron: Annotated[str, Field(min_length=1, max_length=200), Says("a cron expression such as '0 9 * * MON'")]
    time_zone: Annotated[str, Says("a time zone such as Europe/Berlin")] = "UTC"
    campaigns: Annotated[
        list[_CampaignId], Field(min_length=1, max_length=100), Says("a list of 1 to 100 campaign ids")
    ]
    content: Annotated[dict[str, Any], Says("a table, the ExternalTrigger of the triggers")]
    priority: Annotated[Priority, *_Choice] = Priority.BULK
    file: _Text | None = None
    redis_set: _Text | None = None
    redis_url_env: _Text | None = None
    redis_url_file: _Text | None = None
    url: _Text | None = None
    header: _Text | None = None
    header_env: _Text | None = None
    header_file: _Text | None = None
    allow_http: bool = False
    max_bytes: Annotated[int, Field(ge=1, le=2**40), Unit("bytes")] = 1_073_741_824
    kind: Annotated[Kind | None, *_Choice] = None
    timeout: Annotated[int, Field(ge=1, le=3600), Unit("seconds")] = 300
    expires_after: Annotated[int, Field(ge=1, le=31_536_000), Unit("seconds")] | None = None
    missed: Annotated[Missed, *_Choice] = Missed.LATEST
    missed_within: _Seconds = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A file that workers can read: CSV where its name ends in .csv, else NDJSON."""

    path: Path
    kind: Kind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSource:
    """A Redis set whose members are all recipients of one kind."""

    key: str
    kind: Kind
    url: SecretStr | None  #: None: in Volley's own Redis


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlSource:
    """An address that answers GET with NDJSON."""

    url: str = field(repr=False)  #: its query may hold a key
    kind: Kind | None
    header: str
    header_value: SecretStr | None  #: None: no header is sent
    max_bytes: int


Source = FileSource | SetSource | UrlSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """One recurring send; all its values have been checked against each other."""

    name: str
    account: str
    cron: str
    time_zone: str
    campaigns: tuple[int, ...]
    #: The `ExternalTrigger` of its triggers.
    content: Mapping[str, Any] = field(repr=False)
    priority: Priority
    source: Source
    #: How long reading the source may take, seconds.
    timeout_seconds: int
    #: From a slot to the `expires_at` of its triggers; None: they have none.
    expires_after_seconds: int | None
    missed: Missed
    #: How late a slot may still begin, seconds.
    missed_within_seconds: int

    def secrets(self) -> list[SecretStr | None]:
        """What must be masked wherever it turns up."""
        match self.source:
            case SetSource(url=url):
                return [url]
            case UrlSource(url=url, header_value=value):
                return [SecretStr(url), value]
            case FileSource():
                return []
