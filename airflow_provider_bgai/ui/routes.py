"""The routes below ``/bgai`` of Airflow's API server: they ask who is there, and show what tasks have put into S3.

Airflow mounts this app beside its own, so nothing of Airflow's protects it. What must stay true:

* Every route asks Airflow who is logged in (the app does), and whether they may read that DAG (``MAY_READ``); the one
  that changes something, whether they may edit it (``MAY_EDIT``), and whether a page of ours has sent them (``OURS``).
* What is read or signed is named by the template fields that the task ran with, which no user can edit, and never by a
  request or by XCom: a picture is the task's own ``destination`` with ``{index}`` and ``{ext}`` filled in, a report
  that of its run, and all else lies below that run's destination (:mod:`airflow_provider_bgai.ui.gallery`). XCom says
  which pictures and plans there are, and is compared with that.
* A link that is signed goes to the browser that asked, for minutes, and is kept nowhere. Files of S3 are never passed
  through: what stands in them shall not run as a part of Airflow. Pages are made here, of what is known of a run.

Only the API server imports this.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
from airflow.api_fastapi.core_api.security import DagAccessEntity, GetUserDep, get_user, requires_access_dag
from airflow.providers.common.compat.sdk import AirflowException
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from pydantic import BaseModel, BeforeValidator

from airflow_provider_bgai.buying.decision import Decided
from airflow_provider_bgai.catalogue.report.page import SCRIPT, STYLE, framed
from airflow_provider_bgai.catalogue.review import DECISIONS
from airflow_provider_bgai.exceptions import BgaiError, InvalidRequestError
from airflow_provider_bgai.lines import NDJSON
from airflow_provider_bgai.storage import Storage, store_errors
from airflow_provider_bgai.ui.gallery import BLOCK, Gallery, MovedError
from airflow_provider_bgai.ui.links import run_in
from airflow_provider_bgai.ui.tasks import Instance, Planned, fields_of, landed_by, planned

SECONDS = 300
"""How long a signed link opens what it was made for."""
MAY_READ = Depends(requires_access_dag("GET", DagAccessEntity.XCOM))
MAY_READ_CODE = Depends(requires_access_dag("GET", DagAccessEntity.CODE))
"""Prompts stand in the DAG, or in the recipe that it names."""
MAY_EDIT = Depends(requires_access_dag("PUT"))
RUN = "/dags/{dag_id}/runs/{run_id}"
TASK = RUN + "/tasks/{task_id}/{map_index}"
SELF = "'self'"
HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}

# Airflow leaves its placeholder as it is where a task is not mapped.
MapIndex = Annotated[int, BeforeValidator(lambda given: -1 if given == "{MAP_INDEX}" else given)]

# Without the pages that describe an app: they would be open to everybody.
app = FastAPI(dependencies=[Depends(get_user)], docs_url=None, redoc_url=None, openapi_url=None)


@app.exception_handler(HTTPException)
def say(request: Request, error: HTTPException) -> Response:
    """In words: a person has clicked."""
    return PlainTextResponse(str(error.detail), error.status_code, error.headers)


def ours(request: Request) -> None:
    """Whether a page of ours sends this, and not another site that the login's cookie comes along with.

    A form cannot send JSON, and a script of another site has to ask Airflow first, which refuses it; a browser says
    besides where a request comes from.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "A decision is sent as application/json")
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "A decision is taken in Airflow's own pages")


OURS = Depends(ours)


class Decision(BaseModel):
    """What a page of ours sends: the place of a card, and what is decided; of what is to be bought, perhaps how."""

    at: str
    what: Decided
    seed: int | None = None
    conn_id: str | None = None


def instance_of(dag_id: str, run_id: str, task_id: str, map_index: MapIndex) -> Instance:
    """The task that an address names."""
    return Instance(dag_id, run_id, task_id, map_index)


Task = Annotated[Instance, Depends(instance_of)]


# --- a task that lands one product, and the report of a run


@app.get(f"{TASK}/picture/{{index}}", dependencies=[MAY_READ])
def picture(task: Task, index: int) -> Response:
    """The ``index``-th picture (from 1) that a task has landed."""
    from airflow_provider_bgai.buying.landing import name_output

    fields = known_fields(task)
    uri = landed_by(task, index)
    if uri is None:
        raise HTTPException(404, f"Task {task.task_id} has not landed picture {index}. Its log says more")
    extension = re.search(r"(?:\.([a-z0-9]{1,5}))?$", uri)
    if uri != name_output(str(fields.get("destination")), index, (extension and extension[1]) or ""):
        raise HTTPException(403, f"{uri} is not where task {task.task_id} lands picture {index}")
    return opened(uri, storage_of(fields["aws_conn_id"]), f"{uri} is not there any more")


@app.get(f"{TASK}/report", dependencies=[MAY_READ])
def report(task: Task) -> Response:
    """The report of the run that a task starts or is part of."""
    fields = known_fields(task)
    try:
        run = run_in(fields, task)
    except BgaiError as error:
        raise HTTPException(404, str(error)) from None
    if run is None:
        raise HTTPException(404, f"Task {task.task_id} is part of no catalogue's run")
    missing = f"There is no report yet. It is written when the run publishes, as {run.report}"
    return opened(run.report, storage_of(fields["aws_conn_id"]), missing)


# --- pages


@app.get(f"{RUN}/gallery", dependencies=[MAY_READ])
def run_page(dag_id: str, run_id: str, user: GetUserDep) -> Response:
    """All products of the catalogues that a run of Airflow has planned."""
    found = sorted(planned([dag_id], run_id), key=lambda it: it.instance.task_id)
    return gallery_page(dag_id, run_id, found, user, base="")


@app.get(f"{TASK}/gallery", dependencies=[MAY_READ])
def task_page(task: Task, user: GetUserDep) -> Response:
    """All products of the catalogue's run that a task starts or is part of."""
    fields = fields_of(task) or {}
    try:
        run = run_in(fields, task) if "aws_conn_id" in fields else None
    except BgaiError as error:
        raise HTTPException(404, str(error)) from None
    found = [] if run is None else [Planned(task, run, fields["aws_conn_id"])]
    return gallery_page(task.dag_id, task.run_id, found, user, base="../../../")


def gallery_page(dag_id: str, run_id: str, found: Sequence[Planned], user: Any, *, base: str) -> Response:
    """The page that asks for cards.

    :param base: from the page's address to that of Airflow's run.
    """
    may_edit = get_auth_manager().is_authorized_dag(method="PUT", details=DagDetails(id=dag_id), user=user)
    catalogues = [
        {
            "name": it.name,
            "destination": it.run.layout.root,
            "task": f"{base}tasks/{quote(it.instance.task_id, safe='')}/{it.instance.map_index}/",
        }
        for it in found
    ]
    with told():
        links = {storage_of(it.aws_conn_id).presign(it.run.report) for it in found}
    decisions = {what: words for what, (words, _) in DECISIONS.items()} if may_edit else {}
    return page(
        "gallery",
        pictures_from={urlsplit(link)._replace(path="", query="").geturl() for link in links},
        scripts=(SCRIPT,),
        dag_id=dag_id,
        run_id=run_id,
        known={"catalogues": catalogues, "decisions": decisions},
    )


@app.get("/catalogues", dependencies=[MAY_READ])
def catalogues_page(user: GetUserDep) -> Response:
    """All catalogues of the DAGs that somebody may read."""
    with create_session(scoped=False) as session:
        dag_ids = get_auth_manager().get_authorized_dag_ids(user=user, method="GET", session=session)
    found: dict[tuple[str, str | None], list[Planned]] = {}
    for it in planned(dag_ids):
        found.setdefault((it.run.layout.root, it.aws_conn_id), []).append(it)
    return page("catalogues", catalogues=[runs for _, runs in sorted(found.items(), key=lambda item: item[0][0])])


def page(name: str, *, pictures_from: Collection[str] = (), scripts: Sequence[str] = (), **known: Any) -> Response:
    """A page of ours: it runs its own script, and loads nothing but pictures and what it asks us for.

    :param name: of its files.
    :param pictures_from: origins of pictures, besides Airflow's.
    :param scripts: after its own.
    """
    files = {"styles": (STYLE, "ui/pages.css"), "scripts": ("ui/theme.js", f"ui/{name}.js", *scripts)}
    parts, hashes = framed(f"ui/{name}.html", **files, **known)
    policy = (
        f"default-src 'none'; script-src '{hashes['script_hash']}'; style-src '{hashes['style_hash']}'; "
        f"img-src {' '.join(['data:', SELF, *sorted(pictures_from)])}; connect-src {SELF}; frame-ancestors {SELF}; "
        "base-uri 'none'; form-action 'none'"
    )
    return HTMLResponse("".join(parts), headers=HEADERS | {"Content-Security-Policy": policy})


# --- what the pages ask for


@app.get(f"{TASK}/cards", dependencies=[MAY_READ])
def cards(task: Task) -> Response:
    """The cards of a run as JSON lines, while they are read."""
    with told():
        lines = gallery_of(task).cards()
        first = next(lines)

    def all_of_them() -> Iterator[str]:
        yield first
        try:
            with told():
                yield from lines
        except HTTPException as error:  # the answer is on its way
            yield json.dumps({"error": error.detail}) + "\n"

    return StreamingResponse(all_of_them(), headers=HEADERS, media_type=NDJSON)


@app.get(f"{TASK}/details", dependencies=[MAY_READ])
def details(task: Task, at: Annotated[list[str], Query(max_length=BLOCK)]) -> Response:
    """Thumbnails of some cards, and what was decided about them."""
    with told():
        return JSONResponse(gallery_of(task).details(at), headers=HEADERS)


@app.get(f"{TASK}/full", dependencies=[MAY_READ])
def full(task: Task, at: str, index: int) -> Response:
    """The ``index``-th picture (from 1) of a card, in full."""
    with told():
        gallery = gallery_of(task)
        uri = gallery.picture(at, index)
    return opened(uri, gallery.storage, f"{uri} is not there any more")


@app.get(f"{TASK}/prompt", dependencies=[MAY_READ, MAY_READ_CODE])
def prompt(task: Task, at: str) -> Response:
    """What the vendor was asked to paint."""
    with told():
        return JSONResponse({"prompt": gallery_of(task).prompt(at)}, headers=HEADERS)


@app.get(f"{TASK}/figures", dependencies=[MAY_READ])
def figures(task: Task) -> Response:
    """What a catalogue has spent, and how many products of this run wait for a decision."""
    with told():
        return JSONResponse(gallery_of(task).figures(), headers=HEADERS)


@app.post(f"{TASK}/decisions", dependencies=[MAY_EDIT, OURS])
def decide(task: Task, decision: Decision, user: GetUserDep) -> Response:
    """Write down a decision about a card's call."""
    with told():
        chosen = decision.model_dump(include={"seed", "conn_id"})
        noted = gallery_of(task).decide(decision.at, decision.what, by=user.get_name(), **chosen)
        return JSONResponse(noted, headers=HEADERS)


# --- S3


def gallery_of(task: Instance) -> Gallery:
    """The run that a task is part of, as pages show it."""
    fields = known_fields(task)
    run = run_in(fields, task)
    if run is None:
        raise HTTPException(404, f"Task {task.task_id} is part of no catalogue's run")
    return Gallery(storage_of(fields["aws_conn_id"]), run)


def known_fields(task: Instance) -> Mapping[str, Any]:
    """The template fields that a task of ours ran with."""
    fields = fields_of(task)
    if not fields:
        raise HTTPException(
            404,
            f"Airflow does not know where task {task.task_id} put its things: it has not begun, or not in the last "
            "runs that [core] num_dag_runs_to_retain_rendered_fields keeps",
        )
    if "aws_conn_id" not in fields:  # without a connection of its own, the API server's own rights would be lent
        raise HTTPException(404, f"Task {task.task_id} puts nothing into S3")
    return fields


def storage_of(aws_conn_id: str | None) -> Storage:
    """S3 by a connection, looked up anew each minute: to open one takes a third of a second."""
    return _storage(aws_conn_id, int(time.monotonic() // 60))


@lru_cache(maxsize=4)
def _storage(aws_conn_id: str | None, minute: int) -> Storage:
    return Storage(aws_conn_id)


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong is said in words, with the status it has on the web."""
    try:
        yield
    except MovedError as error:
        raise HTTPException(409, str(error)) from None
    except FileNotFoundError as error:
        raise HTTPException(404, f"{error}. It is there once the run has come so far") from None
    except InvalidRequestError as error:
        raise HTTPException(400, str(error)) from None
    except store_errors(BgaiError, AirflowException) as error:
        raise HTTPException(502, f"Airflow's API server cannot read it from S3: {error}") from None


def opened(uri: str, storage: Storage, missing: str) -> Response:
    """Send a browser to an object, with a link that is signed for it.

    :param missing: what to say if there is no such object.
    """
    try:
        if storage.head(uri) is None:
            raise HTTPException(404, missing)
        link = storage.presign(uri, seconds=SECONDS)
    except store_errors(BgaiError, AirflowException) as error:
        raise HTTPException(502, f"Airflow's API server cannot read {uri}: {error}") from None
    return RedirectResponse(link, 302, HEADERS)
