"""The services that the demo and the tests run against: a real S3, the vendors' sandbox, a real Airflow.

Each is a context manager: it listens on free ports of 127.0.0.1, is ready when the `with` block begins, and
is gone with every process it started when the block ends, however it ends. What a service prints goes to a
file in its directory.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import boto3
import botocore.session
import httpx
import psutil
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from airflow_provider_bgai.get_provider_info import ROWS

VENDORS = tuple(row.name for row in ROWS)
SCRIPTS = Path(sys.executable).parent
NO_PROXY = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # everything here talks to this machine only


class ServiceError(RuntimeError):
    """A service ended or did not get ready; the message carries the end of what it printed."""


# A program that runs services


@contextmanager
def work_folder(folder: Path) -> Iterator[None]:
    """An empty folder beside the project's files, for one program at a time.

    A signal stops the program once, in order: a second Ctrl-C must not leave half of the services running.

    :raises ServiceError: if another one runs in this clone.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: Any) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        print("\nStopping …", flush=True)
        raise KeyboardInterrupt

    with (folder.parent / "pyproject.toml").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError("another demo, or cluster, is running in this clone") from None
        for number in signals:
            signal.signal(number, interrupt)
        shutil.rmtree(folder, ignore_errors=True)
        yield


# Ports


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and nobody 10,000 above them either: SeaweedFS speaks gRPC up there.

    Below 32,768 the kernel gives no port away for outgoing connections, so a free port stays free.
    """
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            port = random.randrange(11_000, 22_000)
            try:
                for number in (port, port + 10_000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
        return found


def free_port() -> int:
    return free_ports(1)[0]


# Processes


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    grace: float = 15,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own; afterwards ask the session to stop, and kill it `grace` seconds on.

    A session holds whatever the command starts, process groups too (Airflow makes one for each task).

    :param user: who runs it; None: who runs this. Only root may name somebody else.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**_environment(), **NO_PROXY, **(env or {})},
            cwd=cwd,
            user=user,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process, grace)


def _environment() -> dict[str, str]:
    """This process's environment without what the user set for an Airflow or an AWS account of their own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))}


def _end(leader: subprocess.Popen[bytes], grace: float) -> None:
    asked = session_of(leader.pid)
    _send(asked, signal.SIGTERM)
    psutil.wait_procs(asked, timeout=grace)
    while left := session_of(leader.pid):
        _send(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)
    leader.wait()


def session_of(session: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _is_in(session, process)]


def _is_in(session: int, process: psutil.Process) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def wait_ready(
    name: str, process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool], timeout: float
) -> None:
    """Ask `ready` until it says yes; say why when the process ends first or time runs out."""
    deadline = time.monotonic() + timeout
    while not ready():
        if process.poll() is not None:
            raise ServiceError(f"{name} ended with code {process.returncode}:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise ServiceError(f"{name} was not ready after {timeout:.0f} s:\n{tail(log)}")
        time.sleep(0.1)


def tail(log: Path, lines: int = 40) -> str:
    """The last lines of a log, to print when something went wrong."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=10, trust_env=False)  # never through a proxy: it is this machine


# S3


@dataclass(frozen=True)
class S3Service:
    """Where the S3 server listens and who may use it; `browse` shows a browser the buckets, without a key."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str
    browse: str
    metrics: str

    def page(self, uri: str) -> str:
        """The address at which a browser opens an object, or a folder if it ends in a slash."""
        return f"{self.browse}/{uri.removeprefix('s3://')}"

    def requests(self) -> int:
        """How many requests it has answered, by its own count."""
        lines = _get(self.metrics).raise_for_status().text.splitlines()
        return sum(int(float(it.rpartition(" ")[2])) for it in lines if it.startswith("SeaweedFS_s3_request_total"))

    def client(self) -> Any:
        session = botocore.session.Session({"profile": (None, None, None, None)})  # AWS_PROFILE is not for here
        return boto3.Session(botocore_session=session).client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )

    def aws_connection(self) -> str:
        """The Airflow connection for it, as `AIRFLOW_CONN_AWS_DEFAULT` takes it."""
        return json.dumps(
            {
                "conn_type": "aws",
                "login": self.access_key,
                "password": self.secret_key,
                "extra": {
                    "endpoint_url": self.endpoint,
                    "region_name": "us-east-1",
                    "config_kwargs": {"s3": {"addressing_style": "path"}},
                },
            }
        )


@contextmanager
def seaweedfs(directory: Path, bucket: str = "catalogue") -> Iterator[S3Service]:
    """SeaweedFS, an S3 server that honours conditional writes, with one bucket."""
    directory = directory.resolve()
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    ports = s3, master, volume, filer, admin, metrics = free_ports(6)
    service = S3Service(
        f"http://127.0.0.1:{s3}",
        "demo-access-key",
        secrets.token_urlsafe(24),
        bucket,
        browse=f"http://127.0.0.1:{filer}/buckets",
        metrics=f"http://127.0.0.1:{metrics}/metrics",
    )
    command = [
        str(SCRIPTS / "weed"),
        "mini",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-bucket={bucket}",
        f"-s3.port={s3}",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        f"-admin.port={admin}",
        f"-metricsPort={metrics}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
    ]
    env = {"AWS_ACCESS_KEY_ID": service.access_key, "AWS_SECRET_ACCESS_KEY": service.secret_key}
    log = directory / "seaweedfs.log"
    try:
        # It waits long for idle clients before it stops, and nobody reads the data afterwards: little grace.
        with running(command, log, env=env, cwd=directory, grace=3) as process:
            wait_ready("SeaweedFS", process, log, lambda: _stores(service), timeout=60)
            yield service
    finally:
        _remove_sockets(ports)


def _stores(service: S3Service) -> bool:
    """A round trip, because the server listens a while before it can store."""
    client = service.client()
    try:
        client.put_object(Bucket=service.bucket, Key="ready", Body=b"yes")
        client.delete_object(Bucket=service.bucket, Key="ready")
    except (BotoCoreError, ClientError):
        return False
    return True


def _remove_sockets(ports: Sequence[int]) -> None:
    """SeaweedFS keeps one per port in /tmp, whatever it is told, and leaves them there when it is killed."""
    for port in ports:
        for number in (port, port + 10_000):
            for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                left.unlink(missing_ok=True)


# The vendors' sandbox


@dataclass(frozen=True)
class SandboxService:
    """Where the sandbox listens; it plays all five vendors."""

    url: str

    def charges(self) -> Any:
        """Every call that the vendors would have put on the bill."""
        return _get(f"{self.url}/_sandbox/charges").raise_for_status().json()

    def requests(self) -> dict[str, int]:
        """How many requests of each kind (``submit``, ``poll``, ``download``, …) it has got."""
        kinds: dict[str, int] = _get(f"{self.url}/_sandbox/requests").raise_for_status().json()["kinds"]
        return kinds

    def bill(self) -> dict[str, int]:
        """The pictures that each vendor would have billed."""
        bill: dict[str, int] = _get(f"{self.url}/_sandbox/bill").raise_for_status().json()
        return bill

    def connections(self, price_per_image: float = 0.05) -> dict[str, str]:
        """The Airflow connection of each vendor, under its default ID."""
        extra = {"allow_private_hosts": True, "price_per_image": price_per_image, "currency": "USD"}
        return {
            f"{vendor}_default": json.dumps(
                {"conn_type": f"bgai_{vendor}", "host": self.url, "password": "sandbox-key", "extra": extra}
            )
            for vendor in VENDORS
        }


@contextmanager
def sandbox_process(directory: Path, latency: float = 1.0, *options: str) -> Iterator[SandboxService]:
    """The sandbox as a server of its own; every picture takes it `latency` seconds. `options` are its command's."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    service = SandboxService(f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "airflow_provider_bgai.sandbox", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--latency", str(latency), *options]
    log = directory / "sandbox.log"
    with running(command, log) as process:
        wait_ready("the sandbox", process, log, lambda: _sells(service), timeout=60)
        yield service


def _sells(service: SandboxService) -> bool:
    try:
        service.charges()
    except httpx.HTTPError:
        return False
    return True


# Airflow


@dataclass(frozen=True)
class AirflowService:
    """A running Airflow: where it is, who may log in, and the environment its processes share."""

    url: str
    username: str
    password: str = field(repr=False)
    home: Path
    env: Mapping[str, str] = field(repr=False)


@contextmanager
def airflow_standalone(
    home: Path,
    dags_folder: Path,
    connections: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
    path: str = "",
) -> Iterator[AirflowService]:
    """`airflow standalone` on SQLite: scheduler, API server, DAG processor, triggerer; ready for a DAG run.

    `connections` maps connection IDs to JSON, for its environment, where the UI does not show them; `settings` adds to
    that environment (`AIRFLOW__SECTION__KEY`); `path` is what its addresses begin with, like `/airflow`.
    """
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    settings = {**airflow_settings(home, dags_folder, path), **(settings or {})}
    service = AirflowService(
        url=settings["AIRFLOW__API__BASE_URL"],
        username="admin",
        password=secrets.token_urlsafe(9),
        home=home,
        env=settings | {f"AIRFLOW_CONN_{name.upper()}": value for name, value in (connections or {}).items()},
    )
    passwords = home / "passwords.json"
    passwords.touch(mode=0o600)
    passwords.write_text(json.dumps({service.username: service.password}))
    log = home / "standalone.log"
    with running([str(SCRIPTS / "airflow"), "standalone"], log, env=service.env, cwd=home) as process:
        wait_ready("Airflow", process, log, lambda: _is_healthy(service.url), timeout=300)
        yield service


def airflow_settings(home: Path, dags: Path, path: str) -> dict[str, str]:
    """What differs from a plain Airflow: own directory, free ports, no examples, haste fit for two cores."""
    api, worker_logs, trigger_logs = free_ports(3)
    return {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",  # standalone starts its parts as `airflow …`
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags.resolve()),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}{path}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{api}{path}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_ISSUER": f"http://127.0.0.1:{api}",  # 3.0 signs no token without one
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
        # A worker that overlooks the end of its process sees it at the next heartbeat, and Airflow (3.3.2) fails a
        # deferred task that has gone on by then (https://github.com/apache/airflow/issues/72716).
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",  # at its start a busy machine takes longer than 5 s to answer
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "NO_COLOR": "1",
    }


def _is_healthy(url: str) -> bool:
    """All four parts have reported."""
    try:
        health = _get(f"{url}/api/v2/monitor/health")
    except httpx.HTTPError:
        return False
    parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    return health.is_success and all(health.json()[part]["status"] == "healthy" for part in parts)
