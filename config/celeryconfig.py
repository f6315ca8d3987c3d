"""Celery's configuration: it carries hints and keeps the clock, nothing more.

A hint may be lost or doubled without harm, so everything here prefers liveness: hints are acknowledged before
they run, lost ones are looked for every few seconds, stale ones expire, and a broken connection is retried
without end. Every blocking call to the broker has a time-out, since kombu waits for ever on a dead link
otherwise.
"""

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from kombu import Exchange, Queue
from pydantic import SecretStr

from config.redis_url import RedisSentinels, RedisServer, address_of
from config.settings import NO_REDIS, Settings, SettingsError

#: The queues, by what their tasks do. A worker that is started without -Q consumes all of them.
ACCEPT_QUEUE = "volley.accept"
DELIVER_QUEUE = "volley.deliver"
SWEEP_QUEUE = "volley.sweep"
ENQUEUE_QUEUE = "volley.enqueue"
QUEUES = (ACCEPT_QUEUE, DELIVER_QUEUE, SWEEP_QUEUE, ENQUEUE_QUEUE)

#: Seconds after which a hint that a dead worker had taken is given out again.
VISIBILITY_TIMEOUT_SECONDS = 60
#: Seconds between two looks for such hints.
RESTORE_INTERVAL_SECONDS = 5
#: Seconds that one command to the broker may take.
BROKER_TIMEOUT_SECONDS = 10
#: Seconds that connecting to the broker may take.
BROKER_CONNECT_TIMEOUT_SECONDS = 5
#: Seconds between two sweeps, and after which an unread one is dropped. Expiry is an absolute time of beat's
#: clock, so it also is the difference between the clocks of two machines that does no harm.
SWEEP_EVERY_SECONDS, SWEEP_EXPIRES_SECONDS = 1.0, 10.0
#: The same for looking which recurring sends are due, where there are any.
FIRE_EVERY_SECONDS, FIRE_EXPIRES_SECONDS = 1.0, 10.0
#: The same for removing what is past its retention.
RETAIN_EVERY_SECONDS, RETAIN_EXPIRES_SECONDS = 60.0, 60.0


def celery_settings(settings: Settings) -> dict[str, object]:
    """What `app.conf.update` takes. It holds the broker's password: do not print it.

    Raises SettingsError if no Redis is given.
    """
    if settings.broker_url is None:
        raise SettingsError(NO_REDIS)
    broker_url, address_options = _broker(settings.broker_url, settings.sentinel_master)
    return {
        "broker_url": broker_url,
        "broker_transport_options": _TRANSPORT_OPTIONS | address_options,
        "broker_connection_timeout": BROKER_CONNECT_TIMEOUT_SECONDS,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # for ever
        # A failover answers READONLY, which counts as a channel error.
        "broker_channel_error_retry": True,
        # Every running task may publish a hint.
        "broker_pool_limit": max(10, settings.concurrency),
        # JSON only: a pickle from the broker would be code from the broker.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "task_queues": [Queue(name, _EXCHANGE, routing_key=name) for name in QUEUES],
        "task_default_queue": ENQUEUE_QUEUE,
        "task_default_exchange": _EXCHANGE.name,
        "task_default_routing_key": ENQUEUE_QUEUE,
        "task_routes": {
            "triggers.accept": {"queue": ACCEPT_QUEUE},
            "triggers.enqueue": {"queue": ENQUEUE_QUEUE},
            "deliveries.*": {"queue": DELIVER_QUEUE},
            "scheduled.*": {"queue": SWEEP_QUEUE},
        },
        # No result backend: outcomes are in the store, and nobody waits for a hint.
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_publish_retry_policy": {
            "max_retries": 3,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 1,
        },
        "task_send_sent_event": False,
        "worker_send_task_events": False,
        "worker_prefetch_multiplier": 1,
        # Celery cannot tell `-P prefork` from no -P at all, so this wins over it; other pools win over this.
        "worker_pool": settings.pool.value,
        "worker_concurrency": settings.concurrency,
        # Logs are set up by config.observability.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # It ends only tasks with late acknowledgement, which could be given out twice after the loss.
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "timezone": "UTC",
        "enable_utc": True,
        # Plain intervals need no memory of the last run, hence no schedule file in the working folder.
        "beat_scheduler": "celery.beat:Scheduler",
        "beat_schedule": {
            "sweep": {
                "task": "scheduled.sweep",
                "schedule": SWEEP_EVERY_SECONDS,
                "options": {"queue": SWEEP_QUEUE, "expires": SWEEP_EXPIRES_SECONDS},
            },
            "retain": {
                "task": "scheduled.retain",
                "schedule": RETAIN_EVERY_SECONDS,
                "options": {"queue": SWEEP_QUEUE, "expires": RETAIN_EXPIRES_SECONDS},
            },
            **(_FIRE if settings.sends else {}),
        },
    }


_EXCHANGE = Exchange("volley", type="direct")

_FIRE: dict[str, object] = {
    "fire": {
        "task": "scheduled.fire",
        "schedule": FIRE_EVERY_SECONDS,
        "options": {"queue": SWEEP_QUEUE, "expires": FIRE_EXPIRES_SECONDS},
    }
}

_TRANSPORT_OPTIONS: dict[str, Any] = {
    "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
    "unacked_restore_interval": RESTORE_INTERVAL_SECONDS,
    "unacked_restore_throttle": 1,
    "socket_timeout": BROKER_TIMEOUT_SECONDS,
    "socket_connect_timeout": BROKER_CONNECT_TIMEOUT_SECONDS,
    "socket_keepalive": True,
    "health_check_interval": 10,
}


def _broker(broker_url: SecretStr, sentinel_master: str | None) -> tuple[str, dict[str, object]]:
    """The broker's URL in kombu's own forms, with the transport options that go with it."""
    match address_of(broker_url, sentinel_master):
        case RedisServer(url):
            return _kombu_url(url.get_secret_value()), {}
        case RedisSentinels(sentinels, master, username, password, database):
            secret = password.get_secret_value() if password else ""
            user = f"{quote(username or '', safe='')}:{quote(secret, safe='')}@" if username or secret else ""
            # Host by host the same user and database: kombu reads them from whichever comes first.
            urls = (f"sentinel://{user}{host}:{port}/{database}" for host, port in sentinels)
            return ";".join(urls), {"master_name": master}


def _kombu_url(url: str) -> str:
    """redis-py's `unix://` and `rediss://` as kombu wants them."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "unix":
        return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={query.get('db', '0')}"
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in query:
        # redis-py verifies the server's certificate by default, kombu only when it is told to.
        return parts._replace(query=urlencode(query | {"ssl_cert_reqs": "required"})).geturl()
    return url
