"""The routes to a task's picture and a run's report, in Airflow's own API server: what can be signed at all."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import httpx
import pytest

pytest.importorskip("airflow.api_fastapi.app")  # Airflow 3

from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import select, update

from airflow_provider_bgai.layout import Layout
from airflow_provider_bgai.ui import routes
from airflow_provider_bgai.ui.links import PREFIX
from tests.conftest import vendor_connection
from tests.dags.backgrounds import PARAMS

try:
    from airflow.models.xcom import XComModelV2 as XComModel
except ImportError:  # before Airflow 3.4
    from airflow.models.xcom import XComModel

DAG = "generate_blocking"
FOLDER = "test-routes"


@pytest.fixture(scope="module")
def night(dags, sandbox, s3, storage, product):
    """A task that has landed a picture below ``FOLDER``: its run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_PICWISH_DEFAULT", vendor_connection(sandbox, "picwish"))
        storage.put("s3://catalogue/product.png", product, content_type="image/png")
        run = dags[DAG].test(run_conf=PARAMS | {"destination": f"s3://{s3.bucket}/{FOLDER}/product-{{index}}.{{ext}}"})
    assert str(run.state) == "success"
    return run.run_id


@pytest.fixture
def landed(night):
    """The path of that task's routes; what the test has made of Airflow's records is undone."""
    columns = (XComModel.value, RenderedTaskInstanceFields.rendered_fields)
    with create_session() as session:
        kept = [
            (column, found)
            for column in columns
            for found in [session.scalar(select(column).where(*of(column.class_, night)))]
        ]
    yield f"{PREFIX}/dags/{DAG}/runs/{night}/tasks/generate/-1"
    for column, found in kept:
        change(column, found, night)


def of(table, run_id):
    told = [XComModel.key == "return_value"] if table is XComModel else []
    if not hasattr(table, "task_instance_id"):  # before Airflow 3.4
        return [table.run_id == run_id, *told]
    return [table.task_instance_id.in_(select(TaskInstance.id).where(TaskInstance.run_id == run_id)), *told]


def change(column, value, run_id) -> None:
    with create_session() as session:
        session.execute(update(column.class_).where(*of(column.class_, run_id)).values({column: value}))


def test_a_user_who_is_logged_in_is_sent_to_a_picture_that_opens(client, login, landed):
    answer = client.get(f"{landed}/picture/1", headers=login())
    assert answer.status_code == 302, answer.text
    assert answer.headers["cache-control"] == "no-store"
    picture = httpx.get(answer.headers["location"], trust_env=False)
    assert picture.status_code == 200
    assert picture.headers["content-type"].startswith("image/")
    assert picture.content[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0", b"RIFF", b"\xff\xd8\xff\xe1")
    # Without the signature the bucket is private.
    bare = urlsplit(answer.headers["location"])._replace(query="").geturl()
    assert httpx.get(bare, trust_env=False).status_code == 403


def test_the_session_cookie_of_airflows_pages_is_enough(client, login, landed):
    client.cookies.set("_token", login()["Authorization"].removeprefix("Bearer "))
    try:
        assert client.get(f"{landed}/picture/1").status_code == 302
    finally:
        client.cookies.clear()


@pytest.mark.parametrize(
    "other",
    [
        "s3://{bucket}/private/other-1.png",
        "s3://elsewhere/{folder}/product-1.png",
        "s3://{bucket}/{folder}/product-2.png",
        "s3://{bucket}/{folder}/product-1.x/private.png",
        "s3://{bucket}/{folder}/product-1./../../private/other-1.png",
        "https://example.com/product-1.png",
        "",
    ],
)
def test_nothing_but_the_tasks_own_destination_is_signed_whatever_stands_in_xcom(
    client, login, landed, night, upload, s3, storage, other
):
    uri = other.format(bucket=s3.bucket, folder=FOLDER)
    if uri.startswith(f"s3://{s3.bucket}") and ".." not in uri:
        upload(uri.removeprefix(f"s3://{s3.bucket}/"), b"secret")
        assert storage.head(uri) is not None
    change(XComModel.value, json.dumps({"images": [{"uri": uri}]}), night)
    answer = client.get(f"{landed}/picture/1", headers=login())
    assert answer.status_code == 403
    assert "location" not in answer.headers


@pytest.mark.parametrize("index", ["0", "-1", "2"])
def test_a_picture_that_has_not_landed_is_said_to_be_missing(client, login, landed, index):
    answer = client.get(f"{landed}/picture/{index}", headers=login())
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/plain; charset=utf-8")
    assert answer.text == f"Task generate has not landed picture {index}. Its log says more"


@pytest.mark.parametrize("told", ["kept elsewhere", '{"images": []}', {"images": {}}, [1], None])
def test_what_was_told_by_no_task_of_ours_is_no_picture(client, login, landed, night, told):
    change(XComModel.value, told, night)
    assert client.get(f"{landed}/picture/1", headers=login()).status_code == 404


def test_a_task_that_airflow_remembers_nothing_of_or_that_has_no_s3_is_told_apart(client, login, landed, night):
    other = landed.replace("tasks/generate/", "tasks/nothing/")
    assert (
        "Airflow does not know where task nothing put its things"
        in client.get(f"{other}/picture/1", headers=login()).text
    )
    change(RenderedTaskInstanceFields.rendered_fields, {"destination": "s3://a/b.png"}, night)
    answer = client.get(f"{landed}/report", headers=login())
    assert (answer.status_code, answer.text) == (404, "Task generate puts nothing into S3")


def test_a_report_is_that_of_the_tasks_own_run(client, login, landed, night, storage, s3):
    run = Layout(f"s3://{s3.bucket}/{FOLDER}").run("the-run")
    for fields in (
        {"plan": {"uri": run.plan}, "aws_conn_id": "aws_default"},
        {"shard": f"{run.shards}/0001.jsonl", "aws_conn_id": "aws_default"},
    ):
        storage.delete(run.report)
        change(RenderedTaskInstanceFields.rendered_fields, fields, night)
        answer = client.get(f"{landed}/report", headers=login())
        assert answer.status_code == 404
        assert answer.text == f"There is no report yet. It is written when the run publishes, as {run.report}"
        storage.put(run.report, b"<p>A night</p>", content_type="text/html; charset=utf-8")
        answer = client.get(f"{landed}/report", headers=login())
        assert httpx.get(answer.headers["location"], trust_env=False).text == "<p>A night</p>"
    change(RenderedTaskInstanceFields.rendered_fields, {"plan": {"uri": "s3://a/b"}, "aws_conn_id": None}, night)
    answer = client.get(f"{landed}/report", headers=login())
    assert (answer.status_code, answer.text[:9]) == (404, "'s3://a/b")


def test_a_picture_that_was_deleted_or_a_connection_that_is_gone_is_said_in_words(
    client, login, landed, night, storage, monkeypatch
):
    mine = client.get(f"{landed}/picture/1", headers=login()).headers["location"]
    uri = f"s3:/{urlsplit(mine).path}"
    picture = storage.read(uri)
    storage.delete(uri)
    answer = client.get(f"{landed}/picture/1", headers=login())
    assert (answer.status_code, answer.text) == (404, f"{uri} is not there any more")
    storage.put(uri, picture, content_type="image/png")
    routes._storage.cache_clear()  # a minute is over
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps({"conn_type": "aws", "login": "a", "password": "b" * 9}))
    monkeypatch.setenv("AWS_ENDPOINT_URL", urlsplit(mine)._replace(path="", query="").geturl())
    answer = client.get(f"{landed}/picture/1", headers=login())
    assert (answer.status_code, answer.text[:44]) == (502, f"Airflow's API server cannot read {uri}"[:44])
    routes._storage.cache_clear()
