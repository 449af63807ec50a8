"""What a task shows in Airflow: where its buttons lead, and that they are there whatever becomes of it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.layout import Layout
from airflow_provider_bgai.operators.catalogue import (
    CatalogueCostOperator,
    GenerateCatalogueOperator,
    PlanCatalogueOperator,
    PublishCatalogueOperator,
    RollbackCatalogueOperator,
)
from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator
from airflow_provider_bgai.operators.land import LandBackgroundOperator
from airflow_provider_bgai.sensors.background import BackgroundTaskSensor
from airflow_provider_bgai.ui import links
from tests.conftest import SECRET

RUN = Layout("s3://shop/pictures").run("night")
PLACE: dict[str, Any] = {"destination": "s3://shop/pictures", "aws_conn_id": "aws"}
INSTANCE = {"dag_id": "d", "run_id": "manual__2026-11-26T00:00:00+00:00", "task_id": "group.task", "map_index": -1}


def operators() -> dict[str, Any]:
    one: dict[str, Any] = {
        "conn_id": "picwish_default",
        "destination": "s3://shop/one/{index}.{ext}",
        "aws_conn_id": "aws",
    }
    return {
        "generate": GenerateBackgroundOperator(task_id="generate", image="s3://shop/a.png", **one),
        "land": LandBackgroundOperator(task_id="land", vendor_task_id="x", **one),
        "wait": BackgroundTaskSensor(task_id="wait", conn_id="picwish_default", vendor_task_id="x"),
        "plan": PlanCatalogueOperator(task_id="plan", manifest="m", recipe="r", conn_id="picwish_default", **PLACE),
        "shard": GenerateCatalogueOperator(
            task_id="shard", shard=f"{RUN.shards}/0003.jsonl", conn_id="picwish_default", aws_conn_id="aws"
        ),
        "publish": PublishCatalogueOperator(task_id="publish", plan={"uri": RUN.plan}, aws_conn_id="aws"),
        "costs": CatalogueCostOperator(task_id="costs", **PLACE),
        "rollback": RollbackCatalogueOperator(task_id="rollback", **PLACE),
    }


@pytest.fixture
def pushed(monkeypatch):
    """What an operator tells Airflow before it does anything, by the names of its buttons."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS", '{"conn_type": "aws", "extra": {"region_name": "eu-west-1"}}')

    def pushed(operator) -> dict[str, str]:
        told: dict[str, str] = {}
        instance = SimpleNamespace(**INSTANCE, xcom_push=lambda key, value: told.update({key: value}))
        operator.pre_execute({"ti": instance})
        return {link.name: told[link.xcom_key] for link in operator.operator_extra_links if link.xcom_key in told}

    return pushed


def test_every_task_that_puts_something_into_s3_shows_where(pushed):
    console = "https://eu-west-1.console.aws.amazon.com/s3/buckets/shop?region=eu-west-1&prefix="
    found = {name: pushed(operator).get("S3 location") for name, operator in operators().items()}
    assert found == {
        "generate": f"{console}one/",
        "land": f"{console}one/",
        "wait": None,
        "plan": f"{console}pictures/",
        "shard": f"{console}pictures/_bgai/runs/night/",
        "publish": f"{console}pictures/",
        "costs": f"{console}pictures/",
        "rollback": f"{console}pictures/",
    }


@pytest.mark.skipif(not links.ROUTES, reason="the routes are for Airflow 3.1 and later")
def test_pictures_and_reports_are_opened_by_our_routes(pushed):
    route = "bgai/dags/d/runs/manual__2026-11-26T00%3A00%3A00%2B00%3A00/tasks/group.task/-1"
    found = {name: pushed(operator) for name, operator in operators().items()}
    opens = {name: (told.get("Picture"), told.get("Report")) for name, told in found.items()}
    assert opens == dict.fromkeys(("generate", "land"), (f"{route}/picture/1", None)) | dict.fromkeys(
        ("plan", "shard", "publish"), (None, f"{route}/report")
    ) | dict.fromkeys(("wait", "costs", "rollback"), (None, None))


def test_where_there_are_no_routes_the_report_is_shown_in_s3(pushed, monkeypatch):
    monkeypatch.setattr(links, "ROUTES", False)
    console = "https://eu-west-1.console.aws.amazon.com/s3/object/shop?region=eu-west-1&prefix="
    assert pushed(operators()["publish"])["Report"] == f"{console}pictures/_bgai/runs/night/report.html"
    planned = quote("d+group.task+manual__2026-11-26T00=3A00=3A00=2B00=3A00")
    assert pushed(operators()["plan"])["Report"] == f"{console}pictures/_bgai/runs/{planned}/report.html"
    assert "Picture" not in pushed(operators()["generate"])


def test_a_field_that_is_wrong_is_left_to_the_task(pushed):
    shard = operators()["shard"]
    shard.shard = "s3://nowhere/near-a-run"
    assert pushed(shard) == {}
    publish = operators()["publish"]
    publish.plan = None
    assert pushed(publish) == {}
    generate = operators()["generate"]
    generate.destination = "not in S3/"
    assert "S3 location" not in pushed(generate)


@pytest.mark.parametrize(
    ("extra", "address"),
    [
        ({}, "https://console.aws.amazon.com/s3/object/shop?prefix=a%20b/c.png"),
        (
            {"region_name": "cn-north-1"},
            "https://cn-north-1.console.amazonaws.cn/s3/object/shop?region=cn-north-1&prefix=a%20b/c.png",
        ),
        (
            {"region_name": "us-gov-west-1"},
            "https://us-gov-west-1.console.amazonaws-us-gov.com/s3/object/shop?region=us-gov-west-1&prefix=a%20b/c.png",
        ),
        ({"endpoint_url": f"https://me:{SECRET}@minio:9000/s3/"}, "https://minio:9000/s3/shop/a%20b/c.png"),
        ({"service_config": {"s3": {"endpoint_url": "http://minio"}}}, "http://minio/shop/a%20b/c.png"),
    ],
)
def test_an_address_is_in_the_regions_console_or_at_the_endpoint_and_has_no_key(monkeypatch, extra, address):
    value = {"conn_type": "aws", "login": "AKIA", "password": SECRET, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS", json.dumps(value))
    assert links.address_of("s3://shop/a b/c.png", "aws") == address


def test_the_environment_says_what_the_connection_does_not(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert links.address_of("s3://shop/", None).startswith(
        "https://eu-central-1.console.aws.amazon.com/s3/buckets/shop?"
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    assert links.address_of("s3://shop/", None) == "http://minio:9000/shop/"
    with pytest.raises(InvalidRequestError):
        links.address_of("s3://shop/a/../b", None)


def test_a_task_without_a_description_has_its_operators_and_one_with_its_own_keeps_it():
    for operator in operators().values():
        assert operator.doc_md == links.about(type(operator))
        assert operator.doc_md
        assert not {":param", ":class:", "``"} & set(operator.doc_md.split())
    described = LandBackgroundOperator(
        task_id="land", conn_id="picwish_default", vendor_task_id="x", destination="s3://a/b.png", doc_md="Ours"
    )
    assert described.doc_md == "Ours"
