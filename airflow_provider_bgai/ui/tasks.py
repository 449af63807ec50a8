"""What Airflow has on record of our tasks: the template fields they ran with, what they told, which runs were planned.

All that our pages ask Airflow's database stands here. Only the API server imports this.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_provider_bgai.exceptions import BgaiError
from airflow_provider_bgai.layout import Run
from airflow_provider_bgai.ui.links import PREFIX, route, run_in

LATEST = 200
"""Plans that are looked at for a list of all catalogues."""


@dataclass(frozen=True)
class Instance:
    """A task of Airflow in a run; ``map_index`` -1: it is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1


@dataclass(frozen=True)
class Planned:
    """A run of a catalogue, and a task of it.

    :param aws_conn_id: the connection to the S3 that it is in.
    :param at: when it had been planned.
    """

    instance: Instance
    run: Run
    aws_conn_id: str | None
    at: datetime | None = None

    @property
    def task(self) -> str:
        """The address of what is asked about the task, from that of all our pages."""
        return route(self.instance, "").removeprefix(f"{PREFIX.strip('/')}/")

    @property
    def gallery(self) -> str:
        """The address of the page of its run of Airflow, likewise."""
        return f"{self.task.partition('/tasks/')[0]}/gallery"

    @property
    def name(self) -> str:
        """What its catalogue is called beside others of a DAG: the task group that plans it."""
        return self.instance.task_id.rpartition(".")[0] or self.instance.task_id


def fields_of(instance: Instance) -> Mapping[str, Any] | None:
    """The template fields that a task ran with; None if Airflow does not know them (any more)."""
    with create_session(scoped=False) as session:
        return _fields_of(instance, session)


def _fields_of(instance: Instance, session: Session) -> Mapping[str, Any] | None:
    # By Airflow's own methods: from 3.4 on they are kept otherwise.
    task = TaskInstance.get_task_instance(**vars(instance), session=session)
    return (task and RenderedTaskInstanceFields.get_templated_fields(task, session=session)) or None


def landed_by(instance: Instance, index: int) -> str | None:
    """The URI of the ``index``-th picture (from 1) that a task says to have landed (XCom, so: anybody's word)."""
    names: Any = {"dag_ids": instance.dag_id, "task_ids": instance.task_id, "map_indexes": instance.map_index}
    query = XComModel.get_many(key="return_value", run_id=instance.run_id, **names)
    with create_session(scoped=False) as session:
        value = getattr(session.scalar(query.limit(1)), "value", None)
    try:
        told: Any = json.loads(value) if isinstance(value, str) else value
        return str(told["images"][index - 1]["uri"]) if index > 0 else None
    except (ValueError, TypeError, LookupError):
        return None


def planned(dag_ids: Collection[str], run_id: str | None = None) -> Iterator[Planned]:
    """The runs of catalogues that tasks of some DAGs have planned, latest first.

    That a task has planned, it says itself (XCom); which run that is, its template fields say.

    :param run_id: of Airflow's run; None: of the latest ones.
    """
    told = XComModel
    query = (
        select(told.dag_id, told.run_id, told.task_id, told.map_index, told.timestamp)
        .where(told.key == "plan", told.dag_id.in_(dag_ids))
        .order_by(told.timestamp.desc(), told.task_id)
    )
    query = query.limit(LATEST) if run_id is None else query.where(told.run_id == run_id)
    with create_session(scoped=False) as session:
        found = []
        for dag_id, found_run_id, task_id, map_index, at in session.execute(query).all():
            instance = Instance(dag_id, found_run_id, task_id, map_index)
            found.append((instance, at, _fields_of(instance, session) or {}))
    for instance, at, fields in found:
        try:
            run = run_in(fields, instance) if "manifest" in fields and "aws_conn_id" in fields else None
        except BgaiError:
            continue
        if run is not None:
            yield Planned(instance, run, fields["aws_conn_id"], at)
