"""Celery's configuration: what Celery and kombu understand, and a consumed queue for every task."""

import ssl
from importlib.metadata import version

import pytest
from celery import Celery
from celery.app.defaults import DEFAULTS
from kombu import Connection
from kombu.transport.redis import SentinelChannel

from config.celeryconfig import QUEUES, SWEEP_QUEUE, celery_settings
from config.settings import SettingsError, load

KOMBU = [int(number) for number in version("kombu").split(".")[:2]]
ACCOUNT = {"VOLLEY_ACCOUNT_ID": "ABC-123", "VOLLEY_PASSCODE": "invented-passcode"}


def configured(redis_url: str = "redis://localhost", **environ: str) -> Celery:
    app = Celery("test", set_as_current=False)
    app.conf.update(celery_settings(load(ACCOUNT | {"VOLLEY_REDIS_URL": redis_url} | environ)))
    return app


def connection(app: Celery) -> Connection:
    # No socket is opened before it is used.
    return app.connection_for_read()


def test_every_setting_is_one_that_celery_knows() -> None:
    assert set(celery_settings(load(ACCOUNT | {"VOLLEY_REDIS_URL": "redis://h"}))) <= set(DEFAULTS)


def test_every_transport_option_is_one_that_kombu_reads() -> None:
    url = "sentinel://h1:1;sentinel://h2:2"
    options = configured(url, VOLLEY_SENTINEL_MASTER="main").conf.broker_transport_options
    # Older releases ignore what they do not know: there, lost hints are looked for less often.
    newer = {"unacked_restore_interval", "unacked_restore_throttle"} if KOMBU < [5, 7] else set()
    assert set(options) <= {*SentinelChannel.from_transport_options, *newer}


def test_without_a_redis_there_is_no_broker() -> None:
    with pytest.raises(SettingsError, match=r"^VOLLEY_REDIS_URL is not set"):
        celery_settings(load(ACCOUNT))


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("triggers.accept", "volley.accept"),
        ("triggers.enqueue", "volley.enqueue"),
        ("deliveries.deliver", "volley.deliver"),
        ("deliveries.anything", "volley.deliver"),
        ("scheduled.sweep", "volley.sweep"),
        ("scheduled.retain", "volley.sweep"),
        ("something.else", "volley.enqueue"),
    ],
)
def test_every_task_is_routed_to_a_queue_of_ours(task: str, queue: str) -> None:
    assert configured().amqp.router.route({}, task)["queue"].name == queue


def test_a_worker_without_q_consumes_all_queues() -> None:
    app = configured()
    assert set(app.amqp.queues.consume_from) == set(QUEUES)


def test_only_json_is_taken_and_given() -> None:
    conf = configured().conf
    assert conf.accept_content == ["json"]
    assert {conf.task_serializer, conf.result_serializer, conf.event_serializer} == {"json"}


def test_beats_hints_expire_and_go_to_the_sweep_queue() -> None:
    schedule = configured().conf.beat_schedule
    assert {entry["task"] for entry in schedule.values()} == {"scheduled.sweep", "scheduled.retain"}
    for entry in schedule.values():
        assert entry["options"]["queue"] == SWEEP_QUEUE
        assert entry["options"]["expires"] >= entry["schedule"]


def test_pool_and_concurrency_come_from_the_settings() -> None:
    conf = configured(VOLLEY_POOL="prefork", VOLLEY_CONCURRENCY="7").conf
    assert (conf.worker_pool, conf.worker_concurrency) == ("prefork", 7)
    assert conf.broker_pool_limit >= 7


def test_tls_verifies_the_servers_certificate() -> None:
    assert connection(configured("rediss://:p@h:1/2")).ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    given = "rediss://h:1/2?ssl_ca_certs=/ca.pem"
    assert connection(configured(given)).ssl == {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_ca_certs": "/ca.pem",
    }


def test_a_unix_socket_is_told_in_kombus_words() -> None:
    assert configured("unix:///run/redis.sock?db=3").conf.broker_url == (
        "redis+socket:///run/redis.sock?virtual_host=3"
    )


def test_sentinels_keep_their_order_the_masters_name_and_its_password() -> None:
    app = configured("sentinel://:p%40ss@h1:1/2;sentinel://h2", VOLLEY_SENTINEL_MASTER="main")
    assert app.conf.broker_url == "sentinel://:p%40ss@h1:1/2;sentinel://:p%40ss@h2:26379/2"
    assert app.conf.broker_transport_options["master_name"] == "main"
    assert connection(app).password == "p@ss"


def test_only_the_broker_says_sentinel_where_only_the_broker_has_sentinels() -> None:
    settings = load(
        ACCOUNT
        | {
            "VOLLEY_REDIS_URL": "redis://h1",
            "VOLLEY_BROKER_URL": "sentinel://h2:1",
            "VOLLEY_SENTINEL_MASTER": "main",
        }
    )
    assert celery_settings(settings)["broker_url"] == "sentinel://h2:1/0"
