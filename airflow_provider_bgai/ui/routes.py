"""The routes below ``/bgai`` of Airflow's API server: they ask who is there, and open what a task has put into S3.

Airflow mounts this app beside its own, so nothing of Airflow's protects it. What must stay true:

* Every route asks Airflow who is logged in (the app does), and whether they may read that DAG (``MAY_READ``).
* What is signed is named by the template fields that the task ran with, which no user can edit, and never by a request
  or by XCom: a picture is the task's own ``destination`` with ``{index}`` and ``{ext}`` filled in, a report that of its
  run. XCom says which pictures there are, and is compared with that.
* A link that is signed goes to the browser that asked, for minutes, and is kept nowhere. Files of S3 are never passed
  through: what stands in them shall not run as a part of Airflow.

Only the API server imports this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from airflow.api_fastapi.core_api.security import DagAccessEntity, get_user, requires_access_dag
from airflow.providers.common.compat.sdk import AirflowException
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response

from airflow_provider_bgai.exceptions import BgaiError
from airflow_provider_bgai.ui.links import report_of

SECONDS = 300
"""How long a signed link opens what it was made for."""
MAY_READ = Depends(requires_access_dag("GET", DagAccessEntity.XCOM))
TASK = "/dags/{dag_id}/runs/{run_id}/tasks/{task_id}/{map_index}"

# Without the pages that describe an app: they would be open to everybody.
app = FastAPI(dependencies=[Depends(get_user)], docs_url=None, redoc_url=None, openapi_url=None)


@app.exception_handler(HTTPException)
def say(request: Request, error: HTTPException) -> Response:
    """In words: a person has clicked."""
    return PlainTextResponse(str(error.detail), error.status_code, error.headers)


@app.get(f"{TASK}/picture/{{index}}", dependencies=[MAY_READ])
def picture(dag_id: str, run_id: str, task_id: str, map_index: int, index: int) -> Response:
    """The ``index``-th picture (from 1) that a task has landed."""
    from airflow_provider_bgai.buying.landing import name_output

    instance = SimpleNamespace(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index)
    fields = fields_of(instance)
    uri = landed_by(instance, index)
    if uri is None:
        raise HTTPException(404, f"Task {task_id} has not landed picture {index}. Its log says more")
    extension = re.search(r"(?:\.([a-z0-9]{1,5}))?$", uri)
    if uri != name_output(str(fields.get("destination")), index, (extension and extension[1]) or ""):
        raise HTTPException(403, f"{uri} is not where task {task_id} lands picture {index}")
    return opened(uri, fields, f"{uri} is not there any more")


@app.get(f"{TASK}/report", dependencies=[MAY_READ])
def report(dag_id: str, run_id: str, task_id: str, map_index: int) -> Response:
    """The report of the run that a task starts or is part of."""
    instance = SimpleNamespace(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index)
    fields = fields_of(instance)
    try:
        uri = report_of(fields, instance)
    except BgaiError as error:
        raise HTTPException(404, str(error)) from None
    if uri is None:
        raise HTTPException(404, f"Task {task_id} is part of no catalogue's run")
    return opened(uri, fields, f"There is no report yet. It is written when the run publishes, as {uri}")


def fields_of(instance: Any) -> Mapping[str, Any]:
    """The template fields that a task of ours ran with."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields

    fields = RenderedTaskInstanceFields.get_templated_fields(instance)
    if fields is None:
        raise HTTPException(
            404,
            f"Airflow does not know where task {instance.task_id} put its things: it has not begun, or not in the last "
            "runs that [core] num_dag_runs_to_retain_rendered_fields keeps",
        )
    if "aws_conn_id" not in fields:  # without a connection of its own, the API server's own rights would be lent
        raise HTTPException(404, f"Task {instance.task_id} puts nothing into S3")
    return fields


def landed_by(instance: Any, index: int) -> str | None:
    """The URI of the ``index``-th picture (from 1) that a task says to have landed (XCom, so: anybody's word)."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    names = {"dag_ids": instance.dag_id, "task_ids": instance.task_id, "map_indexes": instance.map_index}
    query = XComModel.get_many(key="return_value", run_id=instance.run_id, **names)
    with create_session(scoped=False) as session:
        value = session.scalar(query.with_only_columns(XComModel.value))
    try:
        told: Any = json.loads(value) if isinstance(value, str) else value
        return str(told["images"][index - 1]["uri"]) if index > 0 else None
    except (ValueError, TypeError, LookupError):
        return None


def opened(uri: str, fields: Mapping[str, Any], missing: str) -> Response:
    """Send a browser to an object, with a link that is signed for it.

    :param fields: name the connection to S3.
    :param missing: what to say if there is no such object.
    """
    from airflow_provider_bgai.storage import Storage, store_errors

    storage = Storage(fields.get("aws_conn_id"))
    try:
        if storage.head(uri) is None:
            raise HTTPException(404, missing)
        link = storage.presign(uri, seconds=SECONDS)
    except store_errors(BgaiError, AirflowException) as error:
        raise HTTPException(502, f"Airflow's API server cannot read {uri}: {error}") from None
    return RedirectResponse(link, 302, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
