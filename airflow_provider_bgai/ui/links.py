"""What a task shows in Airflow: buttons to its picture, its report and its place in S3, and what it is for.

A button's address is on record (XCom) before the task does anything, so it is there while the task runs, waits in the
triggerer and has failed. Airflow keeps that record in plain text, so no address in it opens anything by itself: a
picture's and a report's lead to :mod:`airflow_provider_bgai.ui.routes`, which asks who is there.

Airflow before 3.1 has no such routes (in 3.0 a plugin knows no logged-in browser). There the buttons lead to S3 alone.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

from airflow_provider_bgai.exceptions import BgaiError
from airflow_provider_bgai.layout import Layout, Run, run_name_of, run_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context, TaskInstanceKey

PREFIX = "/bgai"
"""Where Airflow's API server serves our routes."""
ROUTES = AIRFLOW_V_3_1_PLUS

_CONSOLES = {"cn-": "console.amazonaws.cn", "us-gov-": "console.amazonaws-us-gov.com"}
"""By how the names of their regions begin."""


class TaskLink(BaseOperatorLink):
    """A button on a task. Its address is looked up where the task has left it, by a worker or by Airflow's pages."""

    name: ClassVar[str]
    xcom_key: ClassVar[str]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address; empty (no button) for a task that has not begun."""
        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""

    def address(self, fields: Mapping[str, Any], instance: Any) -> str | None:
        """What :meth:`get_link` shall answer; None: no button.

        :param fields: the task's template fields, rendered.
        :param instance: whose DAG, run, task and map index it is.
        """
        raise NotImplementedError


class PictureLink(TaskLink):
    """Opens the first picture that the task has landed. Airflow 3.1 and later."""

    name = "Picture"
    xcom_key = "bgai_picture"

    def address(self, fields: Mapping[str, Any], instance: Any) -> str | None:
        """A route of ours."""
        return route(instance, "picture/1") if ROUTES else None


class ReportLink(TaskLink):
    """Opens the run's ``report.html``, which is there once the run has published or refused to."""

    name = "Report"
    xcom_key = "bgai_report"

    def address(self, fields: Mapping[str, Any], instance: Any) -> str | None:
        """A route of ours; before Airflow 3.1 the report's place in S3."""
        run = run_in(fields, instance)
        if run is None:
            return None
        return route(instance, "report") if ROUTES else address_of(run.report, fields.get("aws_conn_id"))


class LocationLink(TaskLink):
    """Shows where in S3 the task's things are."""

    name = "S3 location"
    xcom_key = "bgai_location"

    def address(self, fields: Mapping[str, Any], instance: Any) -> str | None:
        """In AWS's console, or at the endpoint that the connection names."""
        folder = folder_of(fields)
        return folder and address_of(folder, fields.get("aws_conn_id"))


PICTURES = (PictureLink(), LocationLink())
"""Of a task that lands pictures of one product."""
RUN = (ReportLink(), LocationLink())
"""Of a task that is part of a catalogue's run."""


class Shown:
    """What a task of ours shows in Airflow. For operators, before their base class."""

    operator_extra_links: Collection[BaseOperatorLink] = ()
    template_fields: Sequence[str]
    ui_color = "#e8e4f3"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.doc_md: str | None
        if self.doc_md is None:
            self.doc_md = about(type(self))

    def pre_execute(self, context: Context) -> None:
        """Put the buttons there before anything is done, and again when the triggerer gives the task back."""
        super().pre_execute(context)  # type: ignore[misc]
        fields = {name: getattr(self, name) for name in self.template_fields}
        for link in self.operator_extra_links:
            if not isinstance(link, TaskLink):
                continue  # a subclass's own
            try:
                address = link.address(fields, context["ti"])
            except BgaiError:
                continue  # of a field that is wrong the task itself says what
            if address:
                context["ti"].xcom_push(key=link.xcom_key, value=address)


def about(operator: type) -> str:
    """What an operator's docstring says before it comes to parameters, as Markdown."""
    text = re.split(r"^:param|^:ivar", inspect.getdoc(operator) or "", maxsplit=1, flags=re.MULTILINE)[0]
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`").strip()


# --- where a task's things are, by its template fields


def run_in(fields: Mapping[str, Any], instance: Any) -> Run | None:
    """The run that a task starts or is part of; None for a task that is part of none.

    :raises InvalidRequestError: if its plan or shard is none.
    """
    if given := _plan(fields) or fields.get("shard"):
        return run_of(given)
    if "manifest" not in fields or not (destination := fields.get("destination")):
        return None
    return Layout(destination).run(run_name_of(instance))


def folder_of(fields: Mapping[str, Any]) -> str | None:
    """The URI, ending with ``/``, of the folder that a task is about.

    :raises InvalidRequestError: if its plan or shard is none.
    """
    from airflow_provider_bgai.buying.landing import destination_root

    if plan := _plan(fields):
        return f"{run_of(plan).layout.root}/"
    if shard := fields.get("shard"):
        return f"{run_of(shard).folder}/"
    if not (destination := fields.get("destination")):
        return None
    lands_one_product = not fields.keys().isdisjoint({"image", "vendor_task_id"})
    return f"{destination_root(destination) if lands_one_product else destination.rstrip('/')}/"


def _plan(fields: Mapping[str, Any]) -> str | None:
    plan = fields.get("plan")
    return plan.get("uri") if isinstance(plan, Mapping) else None


# --- addresses


def route(instance: Any, what: str) -> str:
    """The address of a route about a task, relative to the base of Airflow's pages, wherever they are served."""
    index = -1 if instance.map_index is None else instance.map_index
    parts = ("dags", instance.dag_id, "runs", instance.run_id, "tasks", instance.task_id, str(index))
    return "/".join((PREFIX.strip("/"), *(quote(part, safe="") for part in parts), what))


def address_of(uri: str, aws_conn_id: str | None) -> str:
    """Where a browser shows an object of S3, or a folder (``uri`` ends with ``/``): by itself it lets nobody in.

    :raises InvalidRequestError: if ``uri`` is none.
    """
    from airflow_provider_bgai.storage import Storage, split_uri

    bucket, key = split_uri(uri)
    config = Storage(aws_conn_id).hook.conn_config
    if endpoint := config.get_service_endpoint_url("s3") or _environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        parts = urlsplit(endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/{bucket}/{quote(key)}"
    region = config.region_name or _environment("AWS_REGION", "AWS_DEFAULT_REGION") or ""
    console = next((host for start, host in _CONSOLES.items() if region.startswith(start)), "console.aws.amazon.com")
    host, query = (f"{region}.{console}", f"region={region}&") if region else (console, "")
    kind = "buckets" if uri.endswith("/") else "object"
    return f"https://{host}/s3/{kind}/{bucket}?{query}prefix={quote(key)}"


def _environment(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
