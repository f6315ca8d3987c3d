"""A CleverTap account as Volley calls it, the policies of campaigns, and the contradictions refused in them.

A permit must outlive the request that it stands for: a lease that ends while a call may still be on the
wire lets a fourth request in. So lease, deadline and timeouts are checked against each
other before anything is sent.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr

from config.allow_list import AllowList
from config.rules import NO_RULES, CampaignRules
from config.secret_values import check_header_value
from config.wording import SettingsError, Unit, number

#: Requests in flight that CleverTap allows per account (API Request Limit: External Trigger, 3 concurrent).
DOCUMENTED_MAX_IN_FLIGHT = 3
#: Seconds that a permit's lease must exceed the whole-request deadline by: settling takes time too.
LEASE_MARGIN_SECONDS = 5.0
#: Seconds that connecting may take where nothing is set and the deadline is not shorter.
DEFAULT_CONNECT_TIMEOUT_SECONDS = 5.0
#: What an account may be named: the name becomes a hash tag in Redis keys.
ACCOUNT_NAME = re.compile(r"[a-z0-9_-]{1,32}")


class Region(StrEnum):
    """Where an account lives. A call to another region's host looks like a credential failure."""

    IN1 = "in1"  #: India.
    SG1 = "sg1"  #: Singapore.
    US1 = "us1"  #: United States.
    APS3 = "aps3"  #: Indonesia.
    MEC1 = "mec1"  #: Middle East (UAE).
    EU1 = "eu1"  #: Europe, by the name that the External Trigger API's samples use.
    EU = "eu"  #: Europe, the vendor's default host without a region in its name.

    @property
    def base_url(self) -> str:
        """Scheme and host, without a path (Common API Components, "Region")."""
        return "https://api.clevertap.com" if self is Region.EU else f"https://{self}.api.clevertap.com"


class Endpoint(StrEnum):
    """Which form of the External Trigger API an account uses."""

    AUTO = "auto"  #: /2 where the account has a token, /1 otherwise.
    SINGLE = "1"  #: /1: one campaign a call, `single_recipients` recipients.
    MULTIPLE = "2"  #: /2: up to 5 campaigns and 1000 recipients a call; needs a token.


class Unknown(StrEnum):
    """What to do with a delivery whose request may have been sent and got no answer."""

    HOLD = "hold"  #: It stays `unknown` until an operator decides: never a second message by itself.
    RESEND = "resend"  #: It is retried like a failure: never a lost message, now and then a doubled one.


class Stopped(StrEnum):
    """What becomes of the deliveries of a campaign that CleverTap calls stopped, not ready or not
    approved.
    """

    REJECT = "reject"  #: They end rejected, without further calls but a probe now and then.
    WAIT = "wait"  #: They wait until a probe or an operator finds the campaign running.


def choice(value: object) -> object:
    """Choices may be written in any case, and `endpoint = 2` as a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip().lower() if isinstance(value, str) else value


RegionChoice = Annotated[Region, Field(strict=False), BeforeValidator(choice)]
EndpointChoice = Annotated[Endpoint, Field(strict=False), BeforeValidator(choice)]
StoppedChoice = Annotated[Stopped, Field(strict=False), BeforeValidator(choice)]
UnknownChoice = Annotated[Unknown, Field(strict=False), BeforeValidator(choice)]
InFlight = Annotated[int, Field(ge=1, le=100)]
CallSeconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False), Unit("seconds")]
Reserve = Annotated[int, Field(ge=0, le=99)]
Weight = Annotated[int, Field(ge=1, le=1000)]
Recipients = Annotated[int, Field(ge=1, le=1000)]
Attempts = Annotated[int, Field(ge=1, le=100)]
AgeSeconds = Annotated[int, Field(ge=1, le=31_536_000), Unit("seconds")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One CleverTap account. All its values have been checked against each other."""

    #: `default` for the account of the environment, else its table's name; the hash tag of its Redis keys.
    name: str
    account_id: str
    passcode: SecretStr
    #: None: the account has none, so /2 is out of reach.
    token: SecretStr | None
    #: Scheme, host and port, perhaps a path; no slash at the end.
    base_url: str
    #: `AUTO` is resolved: this is `SINGLE` or `MULTIPLE`.
    endpoint: Endpoint
    #: Requests in flight over all workers.
    max_in_flight: int
    #: How many of them bulk leaves to more urgent triggers.
    reserve: int
    #: The whole request, from connecting to the last byte of the answer.
    request_deadline_seconds: float
    connect_timeout_seconds: float
    #: One read of the answer.
    read_timeout_seconds: float
    #: How long a permit lives without its holder; at least the deadline and `LEASE_MARGIN_SECONDS`.
    permit_lease_seconds: float
    #: Recipients in one call to /1.
    single_recipients: int
    #: Calls, and recipients of calls, that may begin in a second; 0: as many as the permits let through.
    calls_per_second: float = 0
    recipients_per_second: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignPolicy:
    """How far a campaign's deliveries go before they are given up, and what an unknown one does."""

    unknown: Unknown
    #: The same by priority (urgent, normal, bulk), where it differs.
    unknown_by_priority: Mapping[str, Unknown] = field(default_factory=dict)
    stopped: Stopped = Stopped.REJECT
    #: Calls that it gets for one of a campaign of weight 1, where both wait with the same priority.
    weight: int = 1
    #: Test mode: only these are really sent to. None: all are.
    test_recipients: AllowList | None = None
    #: When and how fast it may be sent.
    rules: CampaignRules = NO_RULES
    #: Attempts that a delivery gets at most, the first one included.
    max_attempts: int
    #: Seconds since it was accepted from the intake in which a delivery may be tried again.
    max_age_seconds: int

    def unknown_of(self, priority: str) -> Unknown:
        """What becomes of an unknown delivery of that priority."""
        return self.unknown_by_priority.get(priority, self.unknown)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountDraft:
    """The values of one account before they are checked; `label` tells where a value came from."""

    name: str
    account_id: str | None
    passcode: SecretStr | None
    token: SecretStr | None
    region: Region
    base_url: str | None
    endpoint: Endpoint
    max_in_flight: int
    reserve: int
    allow_more_in_flight: bool
    request_deadline: float
    connect_timeout: float | None
    read_timeout: float | None
    permit_lease: float
    single_recipients: int
    calls_per_second: float
    recipients_per_second: float
    allow_http: bool
    #: From a key (`permit_lease`) to the setting's name for the reader (`VOLLEY_PERMIT_LEASE`).
    label: Callable[[str], str]

    def checked(self) -> Account:
        """The account. Raises SettingsError for a value that another one contradicts."""
        account_id, passcode = self._credentials()
        self._check_in_flight()
        return Account(
            name=self.name,
            account_id=account_id,
            passcode=passcode,
            token=self.token,
            base_url=self._address(),
            endpoint=self._endpoint(),
            max_in_flight=self.max_in_flight,
            reserve=self._reserve(),
            request_deadline_seconds=self.request_deadline,
            connect_timeout_seconds=self._timeout("connect_timeout", self.connect_timeout)
            or min(DEFAULT_CONNECT_TIMEOUT_SECONDS, self.request_deadline),
            read_timeout_seconds=self._timeout("read_timeout", self.read_timeout) or self.request_deadline,
            permit_lease_seconds=self._lease(),
            single_recipients=self.single_recipients,
            calls_per_second=self.calls_per_second,
            recipients_per_second=self.recipients_per_second,
        )

    def _credentials(self) -> tuple[str, SecretStr]:
        id_label, passcode_label = self.label("account_id"), self.label("passcode")
        if self.account_id is None:
            half = passcode_label if self.passcode else self.label("token")
            raise SettingsError(
                f"{half} is set but {id_label} is not: an account needs its id and its passcode."
            )
        if self.passcode is None:
            raise SettingsError(f"{id_label} is set but {passcode_label} is not: an account needs both.")
        check_header_value(self.account_id, id_label)
        check_header_value(self.passcode.get_secret_value(), passcode_label)
        if self.token is not None:
            check_header_value(self.token.get_secret_value(), self.label("token"))
        return self.account_id, self.passcode

    def _endpoint(self) -> Endpoint:
        if self.endpoint is Endpoint.MULTIPLE and self.token is None:
            raise SettingsError(
                f"{self.label('endpoint')} is 2 but {self.label('token')} is not set: "
                "the multiple-campaign API (/2) needs a token."
            )
        if self.endpoint is Endpoint.AUTO:
            return Endpoint.MULTIPLE if self.token else Endpoint.SINGLE
        return self.endpoint

    def _check_in_flight(self) -> None:
        if self.max_in_flight > DOCUMENTED_MAX_IN_FLIGHT and not self.allow_more_in_flight:
            raise SettingsError(
                f"{self.label('max_in_flight')} is {self.max_in_flight} but CleverTap allows "
                f"{DOCUMENTED_MAX_IN_FLIGHT} requests in flight per account: lower it, or set "
                f"{self.label('allow_more_in_flight')} to true if CleverTap has raised the account's limit."
            )

    def _reserve(self) -> int:
        if self.reserve >= self.max_in_flight:
            raise SettingsError(
                f"{self.label('reserve')} is {self.reserve} but must be less than "
                f"{self.label('max_in_flight')} ({self.max_in_flight}), or bulk triggers would never be sent."
            )
        return self.reserve

    def _timeout(self, key: str, seconds: float | None) -> float | None:
        if seconds is not None and seconds > self.request_deadline:
            raise SettingsError(
                f"{self.label(key)} is {number(seconds)} s but must not exceed "
                f"{self.label('request_deadline')} ({number(self.request_deadline)} s), "
                "or a call could outlast its deadline."
            )
        return seconds

    def _lease(self) -> float:
        if self.permit_lease < self.request_deadline + LEASE_MARGIN_SECONDS:
            raise SettingsError(
                f"{self.label('permit_lease')} is {number(self.permit_lease)} s but must exceed "
                f"{self.label('request_deadline')} ({number(self.request_deadline)} s) by at least "
                f"{number(LEASE_MARGIN_SECONDS)} s, or a slow call would outlive its permit: "
                "raise the lease or lower the deadline."
            )
        return self.permit_lease

    def _address(self) -> str:
        """The resolved base URL. The URL is not shown in errors: it may hold a password by mistake."""
        if self.base_url is None:
            return self.region.base_url
        label = self.label("base_url")
        fault = SettingsError(
            f"{label} must be an http or https URL with a host, without user, password, query or fragment."
        )
        if not re.fullmatch(r"[!-~]+", self.base_url):
            raise fault
        try:
            parts = urlsplit(self.base_url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if (
            not host
            or parts.scheme not in ("http", "https")
            or port == 0
            or set("@?#\\") & set(self.base_url)
        ):
            raise fault
        if parts.scheme == "http" and not self.allow_http and not _is_loopback(host):
            raise SettingsError(
                f"{label} is http for a host other than this machine, which would send the passcode in the "
                f"clear: use https, or set {self.label('allow_http')} to true for a trusted network."
            )
        return self.base_url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
