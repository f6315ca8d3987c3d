"""Error reports to Sentry, with everything taken out that could name a person or open a door.

An event leaves with its exception types and texts (masked), its stack without values, its tags and the
masked messages that led to it. Local variables, source lines, arguments of tasks and log calls, `extra`,
requests, users and the data of breadcrumbs are dropped, not masked: they are where recipients are.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from config.masking import Masker, masker_of
from config.settings import Settings, SettingsError

if TYPE_CHECKING:
    from sentry_sdk.transport import Transport
    from sentry_sdk.types import Breadcrumb, BreadcrumbHint, Event, Hint

#: Names of values that Sentry's own scrubber removes, besides its default list.
SENSITIVE_NAMES = (
    "passcode",
    "token",
    "x-clevertap-passcode",
    "x-clevertap-token",
    "to",
    "email",
    "identity",
    "objectid",
    "recipient",
    "recipients",
    "externaltrigger",
    "dsn",
    "redis_url",
    "broker_url",
)

_DROPPED_FROM_EVENT = ("extra", "request", "user")
_DROPPED_FROM_FRAME = ("vars", "pre_context", "context_line", "post_context")
#: Breadcrumbs of these categories describe commands and requests; logs say the same in our own words.
_DROPPED_CATEGORIES = ("httplib", "httpx", "redis", "subprocess")


def start_sentry(settings: Settings, transport: "Transport | None" = None) -> bool:
    """Reports errors of this process from now on; does nothing and returns False without a DSN.

    `transport` replaces the HTTP one, for tests. Raises SettingsError for a DSN that Sentry does not
    understand.
    """
    if settings.sentry_dsn is None:
        return False
    # Imported only where it is used: it takes longer than all the rest of the settings.
    import sentry_sdk
    from sentry_sdk.integrations.argv import ArgvIntegration
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.integrations.stdlib import StdlibIntegration
    from sentry_sdk.scrubber import DEFAULT_DENYLIST, EventScrubber
    from sentry_sdk.utils import BadDsn

    scrub = EventCleaner(masker_of(settings))
    usable = True
    try:
        sentry_sdk.init(
            dsn=settings.sentry_dsn.get_secret_value(),
            transport=transport,
            environment=settings.environment,
            auto_enabling_integrations=False,
            integrations=[CeleryIntegration(monitor_beat_tasks=False, propagate_traces=False)],
            # One sends the command line, the other commands of child processes.
            disabled_integrations=[ArgvIntegration(), StdlibIntegration()],
            include_local_variables=False,
            include_source_context=False,
            # `send_default_pii` is left out: off is its default, and naming it is deprecated.
            max_request_body_size="never",
            auto_session_tracking=False,
            enable_logs=False,
            event_scrubber=EventScrubber(denylist=[*DEFAULT_DENYLIST, *SENSITIVE_NAMES], recursive=True),
            before_send=scrub.event,
            before_send_transaction=scrub.event,
            before_breadcrumb=scrub.breadcrumb,
        )
    except BadDsn:
        usable = False
    # Raised here and not in the handler, since Sentry's error may carry parts of the DSN along.
    if not usable:
        raise SettingsError("VOLLEY_SENTRY_DSN is not a DSN of Sentry.")
    return True


class EventCleaner:
    """What every event and breadcrumb passes on its way out. If it raises, Sentry's SDK sends nothing."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker

    def event(self, event: "Event", _hint: "Hint") -> "Event":
        """The event without values, masked."""
        cleaned = {key: value for key, value in event.items() if key not in _DROPPED_FROM_EVENT}
        return cast("Event", self._masker.tree(_without_values(cleaned)))

    def breadcrumb(self, crumb: "Breadcrumb", _hint: "BreadcrumbHint") -> "Breadcrumb | None":
        """The breadcrumb without data, masked; none for requests and commands."""
        if crumb.get("category") in _DROPPED_CATEGORIES:
            return None
        return cast("Breadcrumb", self._masker.tree({k: v for k, v in crumb.items() if k != "data"}))


def _without_values(node: Any) -> Any:
    """Drops what holds values, wherever in the event it is: stacks appear under exceptions and threads."""
    match node:
        case Mapping():
            kept = {key: _without_values(inner) for key, inner in node.items()}
            if "filename" in kept or "abs_path" in kept:
                kept = {key: inner for key, inner in kept.items() if key not in _DROPPED_FROM_FRAME}
            if "logentry" in kept and isinstance(kept["logentry"], dict):
                kept["logentry"].pop("params", None)
            if "breadcrumbs" in kept:
                kept["breadcrumbs"] = _crumbs_without_data(kept["breadcrumbs"])
            return kept
        case list() | tuple():
            return [_without_values(inner) for inner in node]
        case _:
            return node


def _crumbs_without_data(crumbs: Any) -> Any:
    values = crumbs.get("values", []) if isinstance(crumbs, dict) else crumbs
    return {"values": [{k: v for k, v in crumb.items() if k != "data"} for crumb in values]}
