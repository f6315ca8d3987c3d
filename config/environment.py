"""The settings as the environment gives them: one field per variable, each described for people.

`Environment` is the outer form, in the words and units of the variables; `config.settings` makes the inner.
"""

import re
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from config.accounts import (
    AgeSeconds,
    Attempts,
    CallSeconds,
    Endpoint,
    EndpointChoice,
    InFlight,
    Recipients,
    Region,
    RegionChoice,
    Reserve,
    Stopped,
    StoppedChoice,
    Unknown,
    UnknownChoice,
    choice,
)
from config.redis_url import check_redis_url, is_sentinel
from config.rules import CallRate, LingerSeconds, Messages, Rate, WaitSeconds
from config.secret_values import read_secret_file
from config.wording import Says, SettingsError, Unit, first_fault, nearest, number, shape_of, shown

PREFIX = "VOLLEY_"

#: Kubernetes gives every pod such variables for a Service named `volley` or `volley-…`: they are not ours.
_KUBERNETES = re.compile(
    r"VOLLEY_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)


class Pool(StrEnum):
    """Celery's worker pools that Volley has been tried with."""

    THREADS = "threads"  #: One process, calls overlap in threads: the default, since the work is waiting.
    PREFORK = "prefork"  #: A process per slot: more memory, and hard time limits.
    SOLO = "solo"  #: One task at a time, for debugging.


class LogLevel(StrEnum):
    """The least severe record that is logged."""

    DEBUG = "debug"  #: Everything.
    INFO = "info"  #: One line per attempt, and changes of state.
    WARNING = "warning"  #: What needs a look.
    ERROR = "error"  #: What failed.
    CRITICAL = "critical"  #: What stopped the process.


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"  #: For people.
    JSON = "json"  #: One JSON object a line, for collectors.


Deliveries = Annotated[int, Field(ge=1, le=1000)]
Calls = Annotated[int, Field(ge=2, le=10_000)]
Tasks = Annotated[int, Field(ge=1, le=1000)]
Places = Annotated[int, Field(ge=1, le=16)]
BackoffSeconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False), Unit("seconds")]
IdleSeconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False), Unit("seconds")]
Bytes = Annotated[int, Field(ge=1024, le=67_108_864), Unit("bytes")]
Bound = Annotated[int, Field(ge=0, le=10**15)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Environment(BaseSettings):
    """What the `VOLLEY_` variables say. Loaded by `read`, which alone gives errors fit for people."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, env_prefix=PREFIX, env_ignore_empty=True
    )

    redis_url: SecretStr | None = Field(
        None,
        description="Redis or Valkey that holds everything: redis://, rediss://, unix:// or "
        "sentinel://host:26379;sentinel://host:26379/0; without it `volley up`, the demo and the tests start "
        "an embedded server.",
    )
    redis_url_file: Path | None = Field(None, description="File to read VOLLEY_REDIS_URL from instead.")
    broker_url: SecretStr | None = Field(
        None,
        description="Redis that carries Celery's hints, in the same forms; by default VOLLEY_REDIS_URL.",
    )
    broker_url_file: Path | None = Field(None, description="File to read VOLLEY_BROKER_URL from instead.")
    sentinel_master: str | None = Field(
        None,
        description="Name of the master that the sentinels watch; needed with sentinel:// and only there.",
    )
    account_id: str | None = Field(
        None, description="CleverTap account id (X-CleverTap-Account-Id) of the account `default`."
    )
    passcode: SecretStr | None = Field(None, description="Passcode of that account (X-CleverTap-Passcode).")
    passcode_file: Path | None = Field(None, description="File to read VOLLEY_PASSCODE from instead.")
    token: SecretStr | None = Field(
        None, description="Token of that account (X-CleverTap-Token); without it only the /1 API can be used."
    )
    token_file: Path | None = Field(None, description="File to read VOLLEY_TOKEN from instead.")
    region: RegionChoice = Field(
        Region.EU,
        description="Region of the account: in1 India, sg1 Singapore, us1 United States, aps3 Indonesia, "
        "mec1 UAE, eu (api.clevertap.com) or eu1 Europe; a wrong one looks like wrong credentials.",
    )
    base_url: str | None = Field(
        None, description="http(s) URL to call instead of the region's host: the sandbox, tests, a proxy."
    )
    allow_http: bool = Field(
        False,
        description="Permits a plain http base URL on another machine: the passcode travels unencrypted.",
    )
    endpoint: EndpointChoice = Field(
        Endpoint.AUTO,
        description="API to use: 1, 2, or auto, which is 2 where there is a token and 1 otherwise.",
    )
    max_in_flight: InFlight = Field(
        3,
        description="Requests in flight per account, over all workers; lower it if others use its API too.",
    )
    reserve: Reserve = Field(
        0, description="Requests in flight per account that bulk triggers leave to more urgent ones."
    )
    allow_more_in_flight: bool = Field(
        False, description="Permits more than the 3 requests in flight that CleverTap documents."
    )
    request_deadline: CallSeconds = Field(
        30, description="Seconds that a whole request may take, from connecting to the answer's last byte."
    )
    connect_timeout: CallSeconds | None = Field(
        None,
        description="Seconds to wait for a connection: 5, or the deadline where that is shorter.",
        json_schema_extra={"default_words": "5"},
    )
    read_timeout: CallSeconds | None = Field(
        None,
        description="Seconds to wait for one read of the answer; by default the whole deadline.",
        json_schema_extra={"default_words": "the deadline"},
    )
    permit_lease: CallSeconds = Field(
        45,
        description="Seconds after which the permit of a dead worker is free: the deadline and 5 or more.",
    )
    single_recipients: Recipients = Field(
        1,
        description="Recipients in one call to /1, which is documented as taking one and as taking several.",
    )
    calls_per_second: CallRate = Field(
        0, description="Calls that may begin in a second per account, over all workers; 0: no bound."
    )
    recipients_per_second: Rate = Field(
        0,
        description="Recipients whose calls may begin in a second per account, over all workers; 0: no "
        "bound.",
    )
    config: Path | None = Field(
        None, description="TOML file with more accounts, policies per campaign and recurring sends."
    )
    unknown: UnknownChoice = Field(
        Unknown.HOLD,
        description="What becomes of a delivery that may have been sent and got no answer: hold leaves it to "
        "an operator, resend tries again and may send twice.",
    )
    unknown_urgent: UnknownChoice | None = Field(
        None,
        description="The same for urgent triggers.",
        json_schema_extra={"default_words": "VOLLEY_UNKNOWN"},
    )
    unknown_normal: UnknownChoice | None = Field(
        None,
        description="The same for normal triggers.",
        json_schema_extra={"default_words": "VOLLEY_UNKNOWN"},
    )
    unknown_bulk: UnknownChoice | None = Field(
        None,
        description="The same for bulk triggers.",
        json_schema_extra={"default_words": "VOLLEY_UNKNOWN"},
    )
    stopped: StoppedChoice = Field(
        Stopped.REJECT,
        description="What becomes of deliveries of a campaign that CleverTap calls stopped, not ready or not "
        "approved: reject ends them, wait keeps them until it runs; either way it is probed now and then.",
    )
    split_calls: Calls = Field(
        100,
        description="Calls that may be spent on finding the bad part of one refused batch; what is not found "
        "then ends rejected.",
    )
    bad_recipient_window: AgeSeconds = Field(
        604_800,
        description="Seconds in which a recipient that CleverTap called invalid is not called again.",
    )
    max_attempts: Attempts = Field(
        8, description="Attempts per delivery, the first included, before it is failed."
    )
    max_age: AgeSeconds = Field(
        86_400, description="Seconds in which a delivery may be retried before it is failed."
    )
    backoff_base: BackoffSeconds = Field(
        1,
        description="Seconds that the wait before the first retry is drawn from; doubled for each one after.",
    )
    backoff_cap: BackoffSeconds = Field(300, description="Seconds that a wait between retries never exceeds.")
    dedupe_window: AgeSeconds = Field(
        3600, description="Seconds in which equal content to the same recipient and campaign is a duplicate."
    )
    dedupe_key_window: AgeSeconds = Field(
        86_400, description="Seconds in which a trigger's own dedupe_key makes a duplicate."
    )
    aging: AgeSeconds = Field(
        30,
        description="Seconds after which a priority that waits gets a call before more urgent ones.",
    )
    quiet_hours: str | None = Field(
        None,
        description="Times of the day in which no campaign is sent, such as 22:00-08:00, 13:00-14:00; what "
        "is due then waits, urgent triggers too.",
    )
    time_zone: str = Field("UTC", description="Time zone of quiet hours, such as Asia/Kolkata.")
    recipients_per_hour: Messages = Field(
        0, description="Recipients that each campaign gets in an hour at most, spread over it; 0: no bound."
    )
    linger: LingerSeconds = Field(
        0,
        description="Seconds that deliveries wait for a fuller call, urgent ones excepted; 0: none while a "
        "permit is free.",
    )
    max_per_hour: Messages = Field(
        0,
        description="Recipients of one campaign in any hour beyond which it is held and reported; 0: no "
        "bound.",
    )
    max_per_day: Messages = Field(
        0,
        description="Recipients of one campaign in any day beyond which it is held and reported; 0: no "
        "bound.",
    )
    canary: Messages = Field(
        0,
        description="Deliveries of a campaign that go out first when it begins to send; the rest is held "
        "until somebody has looked (volley resume). 0: none are held.",
    )
    canary_wait: WaitSeconds = Field(
        0, description="Seconds after which the rest goes on by itself; 0: it waits for an operator."
    )
    test_recipients: SecretStr | None = Field(
        None,
        description="Test mode for everything: recipients, with commas or one a line (email:a@example.com, "
        "identity:u-17, objectId:...), that alone are really sent to; all others end suppressed.",
    )
    test_recipients_file: Path | None = Field(
        None, description="File to read VOLLEY_TEST_RECIPIENTS from instead."
    )
    retention: AgeSeconds = Field(
        604_800, description="Seconds that outcomes are kept after a delivery has ended."
    )
    chunk: Deliveries = Field(
        1000,
        description="Deliveries that one accept script files; 1000 block Redis for about 7 ms, and fill a "
        "call: of fewer, the first call of many that wait may be taken half full.",
    )
    accept_tasks: Places = Field(
        1,
        description="Accept tasks that wait at an account's intake at once; more of them, in worker "
        "processes of their own, take in more, no longer in the triggers' order.",
    )
    max_trigger_bytes: Bytes = Field(
        4_194_304, description="Bytes of one trigger; a larger one is a dead letter."
    )
    max_intake: Bound = Field(
        1_000_000,
        description="Triggers that may wait in an account's intake before appends are refused; 0: no bound.",
    )
    max_intake_bytes: Bound = Field(
        1_073_741_824,
        description="Bytes of Redis's memory, about, that an account's intake may take; 0: no bound.",
    )
    max_backlog: Bound = Field(
        10_000_000,
        description="Deliveries of an account that may be under way before appends are refused and the "
        "intake is no longer read; one that waits takes about 200 bytes, or 1,000 where its content is its "
        "own; 0: no bound.",
    )
    max_memory_share: Share = Field(
        0.9,
        description="Share of the server's maxmemory, if it has one, from which on appends are refused; the "
        "rest is for what was taken in already. 1: only the server itself refuses.",
    )
    pool: Annotated[Pool, BeforeValidator(choice)] = Field(
        Pool.THREADS, description="Celery's worker pool: threads, prefork or solo."
    )
    concurrency: Tasks | None = Field(
        None,
        description="Tasks that a worker runs at once; by default for every account its requests in flight "
        "and one more, and 2 over all, 4 with recurring sends (1 in the solo pool).",
        json_schema_extra={"default_words": "computed"},
    )
    idle_exit: IdleSeconds = Field(
        60,
        description="Seconds after which a worker that does nothing although work waits ends itself, so that "
        "its supervisor starts it again; 0: never.",
    )
    log_level: Annotated[LogLevel, BeforeValidator(choice)] = Field(
        LogLevel.INFO, description="Least severe record that is logged."
    )
    log_format: Annotated[LogFormat, BeforeValidator(choice)] = Field(
        LogFormat.TEXT, description="Log lines for people (text) or one JSON object a line (json)."
    )
    sentry_dsn: SecretStr | None = Field(
        None, description="Where bugs are reported; without it nothing is sent to Sentry."
    )
    sentry_dsn_file: Path | None = Field(None, description="File to read VOLLEY_SENTRY_DSN from instead.")
    environment: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$"), Says("1 to 64 letters, digits or _.-")
    ] = Field("production", description="Name of this installation in Sentry.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the signature is pydantic-settings'
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `read` passes: the class itself never looks at the process's environment."""
        return (init_settings,)


class _GivenEnvironment(EnvSettingsSource):
    """pydantic-settings' reading of variables, from a given mapping."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {name.lower(): value for name, value in environ.items() if value.strip()}
        super().__init__(Environment)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._environ


def read(environ: Mapping[str, str]) -> Environment:
    """What the variables say, `*_FILE` variables read. An empty variable is an unset one.

    Raises SettingsError for the first value that is not of its type; unknown names are for `check_names`.
    """
    values: dict[str, Any] = dict(_GivenEnvironment(environ)())
    for secret in (name.removesuffix("_file") for name in Environment.model_fields if name.endswith("_file")):
        path, label = values.get(f"{secret}_file"), f"{PREFIX}{secret.upper()}"
        if path is None:
            continue
        if secret in values:
            raise SettingsError(f"{label} and {label}_FILE are both set: keep one of them.")
        values[secret] = read_secret_file(Path(path), f"{label}_FILE")
    fault = ""
    try:
        environment = Environment(**values)
    except ValidationError as error:
        fault = first_fault(error, Environment.model_fields, prefix=PREFIX)
    # Raised here and not in the handler, since pydantic's error would carry the values along.
    if fault:
        raise SettingsError(fault)
    _check_urls(environment)
    return environment


def check_names(environ: Mapping[str, str], also_known: Collection[str] = ()) -> None:
    """Raises SettingsError for a `VOLLEY_` variable that is not a setting, naming the nearest one that is."""
    known = {f"{PREFIX}{name.upper()}" for name in Environment.model_fields} | set(also_known)
    for name in sorted(environ):
        upper = name.upper()
        if not upper.startswith(PREFIX) or name in known or upper in known or _KUBERNETES.fullmatch(upper):
            continue
        raise SettingsError(f"{shown(name)[1:-1]} is not a setting of Volley{nearest(upper, known)}.")


def describe() -> list[tuple[str, str, str, str]]:
    """Every variable as (name, type, default, description), in documentation order; '' is no default."""
    return [
        (f"{PREFIX}{name.upper()}", shape_of(field).kind, _default_words(field), field.description or "")
        for name, field in Environment.model_fields.items()
    ]


def _default_words(field: Any) -> str:
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["default_words"])
    match field.default:
        case None:
            return ""
        case bool(default):
            return str(default).lower()
        case int(default) | float(default):
            return number(default)
        case default:
            return str(default)


def _check_urls(environment: Environment) -> None:
    urls = {"REDIS_URL": environment.redis_url, "BROKER_URL": environment.broker_url}
    for name, url in urls.items():
        if url is not None:
            check_redis_url(url, f"{PREFIX}{name}")
    sentinels = any(is_sentinel(url) for url in urls.values())
    if sentinels and not environment.sentinel_master:
        raise SettingsError(
            f"{PREFIX}SENTINEL_MASTER is not set, but a sentinel:// URL needs the name of its master."
        )
    if environment.sentinel_master and not sentinels:
        raise SettingsError(f"{PREFIX}SENTINEL_MASTER is set, but no URL begins with sentinel://.")
