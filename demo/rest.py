"""What the demo and the tests ask of Airflow, through its REST API as any script would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import httpx
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

from demo.services import AirflowService

PAGE = 100


def _may_pass(error: BaseException) -> bool:
    """Airflow on SQLite is busy at times; asking again helps then."""
    refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
    return isinstance(error, httpx.HTTPError) and not refused


class AirflowApi:
    """Airflow's REST API (version 2), logged in."""

    def __init__(self, airflow: AirflowService) -> None:
        self._http = httpx.Client(base_url=airflow.url, timeout=30, trust_env=False)
        login = {"username": airflow.username, "password": airflow.password}
        token = self._ask("POST", "/auth/token", json=login)["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def add_connection(self, conn_id: str, connection: str) -> None:
        """Store a connection, given as JSON, where Admin > Connections shows it."""
        parts = json.loads(connection)
        body = {**parts, "connection_id": conn_id, "extra": json.dumps(parts["extra"])}
        self._ask("POST", "/api/v2/connections", json=body)

    def import_errors(self) -> dict[str, str]:
        """What went wrong with DAG files, by file name."""
        return {each["filename"]: each["stack_trace"] for each in self._all("importErrors", "import_errors")}

    def dag_ids(self) -> set[str]:
        """The DAGs that have been read so far."""
        return {each["dag_id"] for each in self._all("dags", "dags")}

    def turn_on(self, pattern: str) -> None:
        """Let DAGs run; `%` in the pattern stands for anything."""
        self._ask("PATCH", "/api/v2/dags", params={"dag_id_pattern": pattern}, json={"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run, with values for the DAG's params; its ID."""
        body = {"logical_date": None, "conf": conf or {}}
        return self._ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)["dag_run_id"]

    def run_ids(self, dag_id: str) -> list[str]:
        return [each["dag_run_id"] for each in self._all(f"dags/{dag_id}/dagRuns", "dag_runs")]

    def run_state(self, dag_id: str, run_id: str) -> str:
        return self._get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"]

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return list(self._all(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances"))

    def set_state(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task as failed or successful, as a user does in the UI."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self._ask("PATCH", path, json={"new_state": state})

    def clear(self, dag_id: str, run_id: str) -> None:
        """Clear all tasks of a run, so that they run again."""
        body = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, "reset_dag_runs": True}
        self._ask("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", json=body)

    def result(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, key: str = "return_value") -> Any:
        """What a task returned, or pushed under another key."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self._get(path, params={"map_index": map_index})["value"]

    def question(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """What a task asks a person."""
        return self._get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails")

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str) -> None:
        """Answer it, as a person does in the UI."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"
        self._ask("PATCH", path, json={"chosen_options": [option], "params_input": {}})

    def links(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, str]:
        """The buttons that Airflow's pages show on a task, and where they lead."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
        found = self._get(path, params={"map_index": map_index})["extra_links"]
        return {name: address for name, address in found.items() if address}

    def follow(self, link: str) -> httpx.Response:
        """What answers where a button leads; one to S3 is followed without our login."""
        answer = self._http.get(link)
        return httpx.get(answer.headers["Location"], trust_env=False) if answer.is_redirect else answer

    def log(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, attempt: int = 1) -> str:
        """What a task's attempt wrote to its log."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        lines = self._get(path, params={"map_index": map_index, "full_content": True})["content"]
        return "\n".join(line if isinstance(line, str) else line.get("event", "") for line in lines)

    def _all(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        """Every item of a list that comes in pages."""
        seen, total = 0, 1
        while seen < total:
            page = self._get(f"/api/v2/{path}", params={"limit": PAGE, "offset": seen})
            yield from page[key]
            seen, total = seen + PAGE, page["total_entries"]

    @retry(retry=retry_if_exception(_may_pass), stop=stop_after_attempt(5), wait=wait_fixed(1), reraise=True)
    def _get(self, path: str, **arguments: Any) -> Any:
        return self._ask("GET", path, **arguments)

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        return self._http.request(method, path, **arguments).raise_for_status().json()
