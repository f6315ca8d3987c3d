"""The settings of a process: read once, checked against each other, frozen.

    settings = load()
    settings.account("default").max_in_flight

`load` is the only entry; importing this module reads nothing. Whatever is wrong ends in a `SettingsError`
whose text is one sentence that names the setting. Secrets are `SecretStr`: no repr, str or error shows them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import SecretStr

from config.accounts import Account, AccountDraft, CampaignPolicy, Endpoint, Region, Stopped, Unknown
from config.allow_list import AllowList, allow_list, split_list
from config.environment import PREFIX, Environment, LogFormat, LogLevel, Pool, check_names, describe, read
from config.redis_url import RedisAddress, RedisSentinels, RedisServer, address_of
from config.rules import NO_RULES, rules_of, table_rules
from config.sends import Send, checked_send
from config.tables import CampaignTable, Tables, path_words, read_tables
from config.wording import SettingsError, alternatives, number, shown

__all__ = [
    "DEFAULT_ACCOUNT",
    "NO_REDIS",
    "Account",
    "CampaignPolicy",
    "Endpoint",
    "LogFormat",
    "LogLevel",
    "Pool",
    "RedisAddress",
    "RedisSentinels",
    "RedisServer",
    "Region",
    "Send",
    "Settings",
    "SettingsError",
    "Stopped",
    "Unknown",
    "describe",
    "load",
]

#: The name of the account that the environment describes.
DEFAULT_ACCOUNT = "default"

#: What is said where a server is needed and none is given.
NO_REDIS = f"{PREFIX}REDIS_URL is not set: give the URL of a Redis, or use `volley up`, which starts one."


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a process is told from outside. Times are in seconds, sizes in bytes."""

    #: None: no server is given, so `volley up`, the demo and the tests start an embedded one.
    redis_url: SecretStr | None
    #: The Redis URL where nothing else was given; None only together with it.
    broker_url: SecretStr | None
    #: Set exactly where a URL begins with sentinel://.
    sentinel_master: str | None
    #: By name; `default` is the environment's. Empty only where `load` was told that none is needed.
    accounts: Mapping[str, Account]
    #: What holds for campaigns without a policy of their own.
    default_policy: CampaignPolicy
    #: By (account name, campaign id); read it through `campaign`.
    policies: Mapping[tuple[str, int], CampaignPolicy] = field(repr=False)
    #: Recurring sends, in the order of the file.
    sends: tuple[Send, ...]
    backoff_base_seconds: float
    backoff_cap_seconds: float
    #: Window of dedupe keys made from content.
    dedupe_window_seconds: int
    #: Window of dedupe keys that triggers bring.
    dedupe_key_window_seconds: int
    retention_seconds: int
    #: How long a priority may wait without a call before it gets one out of turn.
    aging_seconds: int
    #: Deliveries that one accept script files at most.
    chunk_deliveries: int
    #: Accept tasks that wait at one intake at once.
    accept_tasks: int
    max_trigger_bytes: int
    #: Triggers that may wait in one account's intake; 0, here and below: no bound.
    max_intake: int
    #: Bytes of the server's memory that one account's intake may take.
    max_intake_bytes: int
    #: Deliveries of one account that may be under way.
    max_backlog: int
    #: Share of the server's maxmemory from which on appends are refused.
    max_memory_share: float
    #: Calls that finding the bad part of one refused batch may cost.
    split_calls: int
    #: How long a recipient that CleverTap called invalid is not called again.
    bad_recipient_window_seconds: int
    pool: Pool
    #: Tasks that a worker runs at once.
    concurrency: int
    #: How long a worker may do nothing although work waits before it ends itself; 0: for ever.
    idle_exit_seconds: float
    log_level: LogLevel
    log_format: LogFormat
    sentry_dsn: SecretStr | None
    environment: str

    @property
    def embedded(self) -> bool:
        """Whether no Redis is given, so that an embedded server is to be used."""
        return self.redis_url is None

    def redis_address(self) -> RedisAddress:
        """Where the data is. Raises SettingsError if no Redis is given (see `embedded`)."""
        if self.redis_url is None:
            raise SettingsError(NO_REDIS)
        return address_of(self.redis_url, self.sentinel_master)

    def account(self, name: str = DEFAULT_ACCOUNT) -> Account:
        """The account of that name. Raises SettingsError, naming those that exist, if there is none."""
        try:
            return self.accounts[name]
        except KeyError:
            pass
        known = f"there are {alternatives(sorted(self.accounts))}" if self.accounts else "none is configured"
        raise SettingsError(f"There is no account {shown(name)}: {known}.")

    def campaign(self, account: str, campaign_id: int) -> CampaignPolicy:
        """The policy of an account's campaign, merged with the defaults."""
        return self.policies.get((account, campaign_id), self.default_policy)

    def in_test_mode(self, account: str) -> dict[int, int]:
        """The account's campaigns with a test mode of their own, and how many recipients each one names.

        Where the whole installation is in test mode, 0 stands for all other campaigns.
        """
        found = {
            campaign: len(policy.test_recipients)
            for (name, campaign), policy in sorted(self.policies.items())
            if name == account and policy.test_recipients is not None
        }
        if self.default_policy.test_recipients is not None:
            found[0] = len(self.default_policy.test_recipients)
        return found

    def connected_to(self, redis_url: str) -> "Settings":
        """The same settings for a server that is known only now (the embedded one)."""
        url = SecretStr(redis_url)
        return replace(self, redis_url=url, broker_url=self.broker_url or url)

    def secrets(self) -> list[str]:
        """Every secret value in the clear: for masking them, never for printing."""
        held = [self.redis_url, self.broker_url, self.sentry_dsn]
        for account in self.accounts.values():
            held += [account.passcode, account.token]
        for send in self.sends:
            held += send.secrets()
        return sorted({secret.get_secret_value() for secret in held if secret is not None})


def load(environ: Mapping[str, str] | None = None, *, require_account: bool = True) -> Settings:
    """The settings from `environ` (the process's own if None) and from the file that VOLLEY_CONFIG names.

    `require_account=False` is for what calls no account of its own: the sandbox, the demo.
    Raises SettingsError, whose text is one sentence.
    """
    if environ is None:
        environ = os.environ
    given = read(environ)
    tables = read_tables(given.config) if given.config else None
    check_names(environ, tables.secret_variables() if tables else ())
    if given.backoff_base > given.backoff_cap:
        raise SettingsError(
            f"{PREFIX}BACKOFF_BASE is {number(given.backoff_base)} s but must not exceed {PREFIX}BACKOFF_CAP "
            f"({number(given.backoff_cap)} s)."
        )
    accounts = _accounts(given, tables, environ)
    if require_account and not accounts:
        raise SettingsError(
            f"No account is configured: set {PREFIX}ACCOUNT_ID and {PREFIX}PASSCODE, "
            f"or name a TOML file with accounts in {PREFIX}CONFIG."
        )
    default_policy = CampaignPolicy(
        unknown=given.unknown,
        unknown_by_priority=_by_priority(given),
        stopped=given.stopped,
        test_recipients=_everywhere(given),
        rules=rules_of(given, NO_RULES, given.time_zone, lambda key: f"{PREFIX}{key.upper()}"),
        max_attempts=given.max_attempts,
        max_age_seconds=given.max_age,
    )
    return Settings(
        redis_url=given.redis_url,
        broker_url=given.broker_url or given.redis_url,
        sentinel_master=given.sentinel_master,
        accounts=MappingProxyType(accounts),
        default_policy=default_policy,
        policies=MappingProxyType(
            _policies(tables, default_policy, accounts, given.time_zone) if tables else {}
        ),
        sends=_sends(tables, accounts, environ) if tables else (),
        backoff_base_seconds=given.backoff_base,
        backoff_cap_seconds=given.backoff_cap,
        dedupe_window_seconds=given.dedupe_window,
        dedupe_key_window_seconds=given.dedupe_key_window,
        retention_seconds=given.retention,
        aging_seconds=given.aging,
        chunk_deliveries=given.chunk,
        accept_tasks=given.accept_tasks,
        max_trigger_bytes=given.max_trigger_bytes,
        max_intake=given.max_intake,
        max_intake_bytes=given.max_intake_bytes,
        max_backlog=given.max_backlog,
        max_memory_share=given.max_memory_share,
        split_calls=given.split_calls,
        bad_recipient_window_seconds=given.bad_recipient_window,
        pool=given.pool,
        concurrency=_concurrency(given, accounts, tables),
        idle_exit_seconds=given.idle_exit,
        log_level=given.log_level,
        log_format=given.log_format,
        sentry_dsn=given.sentry_dsn,
        environment=given.environment,
    )


#: Settings of an account that its table may change and that otherwise come from the environment.
_SHARED = (
    "region",
    "base_url",
    "allow_http",
    "endpoint",
    "max_in_flight",
    "reserve",
    "allow_more_in_flight",
    "request_deadline",
    "connect_timeout",
    "read_timeout",
    "permit_lease",
    "single_recipients",
    "calls_per_second",
    "recipients_per_second",
)


def _accounts(given: Environment, tables: Tables | None, environ: Mapping[str, str]) -> dict[str, Account]:
    accounts: dict[str, Account] = {}
    if given.account_id or given.passcode or given.token:
        if tables and DEFAULT_ACCOUNT in tables.accounts:
            raise SettingsError(
                f"The account {DEFAULT_ACCOUNT} is described by {PREFIX}ACCOUNT_ID, {PREFIX}PASSCODE or "
                f"{PREFIX}TOKEN and also{tables.place('accounts', DEFAULT_ACCOUNT)}: keep one of them."
            )
        accounts[DEFAULT_ACCOUNT] = AccountDraft(
            name=DEFAULT_ACCOUNT,
            account_id=given.account_id,
            passcode=given.passcode,
            token=given.token,
            label=lambda key: f"{PREFIX}{key.upper()}",
            **{key: getattr(given, key) for key in _SHARED},
        ).checked()
    if tables:
        accounts |= {name: _tabled(name, given, tables, environ) for name in tables.accounts}
        _check_apart(accounts, tables.path)
    return accounts


def _tabled(name: str, given: Environment, tables: Tables, environ: Mapping[str, str]) -> Account:
    """An account of the file; what its table leaves out comes from the environment."""
    table, place = tables.accounts[name], tables.place("accounts", name)

    def label(key: str) -> str:
        inherited = key in _SHARED and getattr(table, key) is None and not key.startswith("allow_")
        return f"{PREFIX}{key.upper()}" if inherited else f"{key}{place}"

    def value(key: str) -> Any:
        own = getattr(table, key)
        return getattr(given, key) if own is None else own

    if not (table.account_id or table.passcode or table.passcode_env or table.passcode_file):
        raise SettingsError(f"account_id{place} is not set: an account needs its id and its passcode.")
    return AccountDraft(
        name=name,
        account_id=table.account_id,
        passcode=tables.secret(name, "passcode", environ),
        token=tables.secret(name, "token", environ),
        label=label,
        **{key: value(key) for key in _SHARED},
    ).checked()


def _check_apart(accounts: Mapping[str, Account], path: Path) -> None:
    """Two names for one CleverTap account would count its requests in flight twice over."""
    seen: dict[tuple[str, str], str] = {}
    for account in accounts.values():
        first = seen.setdefault((account.account_id, account.base_url), account.name)
        if first != account.name:
            raise SettingsError(
                f"The accounts {first} and {account.name} of {path_words(path)} have the same account_id: "
                "each would have its own requests in flight, and together they would pass CleverTap's limit."
            )


def _policies(
    tables: Tables, default: CampaignPolicy, accounts: Mapping[str, Account], time_zone: str
) -> dict[tuple[str, int], CampaignPolicy]:
    policies: dict[tuple[str, int], CampaignPolicy] = {}
    for campaign_id, table in tables.campaigns.items():
        if table.account is not None and table.account not in accounts:
            known = alternatives(sorted(accounts)) if accounts else "none"
            raise SettingsError(
                f"account{tables.place('campaigns', campaign_id)} is {shown(table.account)} "
                f"but the accounts that exist are {known}."
            )
        policy = CampaignPolicy(
            unknown=table.unknown or default.unknown,
            # A word for the campaign beats a word for the priority; one for both beats either.
            unknown_by_priority={
                **({} if table.unknown else default.unknown_by_priority),
                **_by_priority(table),
            },
            stopped=table.stopped or default.stopped,
            weight=table.weight or default.weight,
            test_recipients=_tested(table, default, tables.place("campaigns", campaign_id)),
            rules=table_rules(table, default.rules, time_zone, tables.place("campaigns", campaign_id)),
            max_attempts=table.max_attempts or default.max_attempts,
            max_age_seconds=table.max_age or default.max_age_seconds,
        )
        for name in accounts if table.account is None else (table.account,):
            policies[name, campaign_id] = policy
    return policies


def _everywhere(given: Environment) -> AllowList | None:
    """The allow-list of the whole installation."""
    if given.test_recipients is None:
        return None
    entries = split_list(given.test_recipients.get_secret_value())
    return allow_list(entries, f"{PREFIX}TEST_RECIPIENTS")


def _tested(table: CampaignTable, default: CampaignPolicy, place: str) -> AllowList | None:
    """A campaign's own allow-list; where the whole installation has one too, both must name a recipient."""
    if table.test_recipients is None:
        return default.test_recipients
    entries = [each.get_secret_value() for each in table.test_recipients]
    return allow_list(entries, f"test_recipients{place}") & default.test_recipients


def _by_priority(given: Environment | CampaignTable) -> dict[str, Unknown]:
    named = {"urgent": given.unknown_urgent, "normal": given.unknown_normal, "bulk": given.unknown_bulk}
    return {priority: unknown for priority, unknown in named.items() if unknown is not None}


def _sends(tables: Tables, accounts: Mapping[str, Account], environ: Mapping[str, str]) -> tuple[Send, ...]:
    for table in tables.sends:
        if table.account not in accounts:
            known = alternatives(sorted(accounts)) if accounts else "none"
            raise SettingsError(
                f"account{tables.send_place(table)} is {shown(table.account)} "
                f"but the accounts that exist are {known}."
            )
    return tuple(checked_send(table, tables.send_place(table), environ) for table in tables.sends)


def _concurrency(given: Environment, accounts: Mapping[str, Account], tables: Tables | None) -> int:
    """Per account the tasks that wait at its intake and one per permit; two for sweeps and enqueueing, and
    two that read and append recurring sends, where there are any.
    """
    if given.pool is Pool.SOLO:
        if given.concurrency not in (None, 1):
            raise SettingsError(
                f"{PREFIX}CONCURRENCY is {given.concurrency} but {PREFIX}POOL is solo, "
                "which runs one task at a time."
            )
        return 1
    firing = 2 if tables and tables.sends else 0
    of_each = (given.accept_tasks + account.max_in_flight for account in accounts.values())
    return given.concurrency or sum(of_each) + 2 + firing
