"""What a task tells of its data: asset events that start other DAGs, and OpenLineage's inputs and outputs."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, Asset, AssetAlias
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_1_PLUS

from airflow_provider_bgai.operators._lineage import dataset_name, update
from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator
from airflow_provider_bgai.task_groups.catalogue import CatalogueTaskGroup

WISH: dict[str, Any] = {"conn_id": "picwish_default", "image": "s3://shop/a.png", "prompt": "on a beach"}


def test_a_picture_has_an_alias_named_by_its_task_unless_its_author_names_something():
    with DAG("shoes"):
        own = GenerateBackgroundOperator(task_id="paint", **WISH, destination="s3://shop/a.{ext}")
        named = GenerateBackgroundOperator(task_id="a", **WISH, destination="s3://shop/a.{ext}", outlets=[Asset("b")])
        none = GenerateBackgroundOperator(task_id="b", **WISH, destination="s3://shop/a.{ext}", outlets=[])
    alias = [AssetAlias(name="shoes.paint")] if AIRFLOW_V_3_0_PLUS else []
    assert (own.outlets, named.outlets, none.outlets) == (alias, [Asset("b")], [])


def test_a_mapped_task_has_the_outlets_that_airflow_knows_of():
    wish = {name: value for name, value in WISH.items() if name != "image"}
    with DAG("shoes"):
        mapped = GenerateBackgroundOperator.partial(task_id="a", **wish, destination="s3://shop/a.{ext}")
        task = mapped.expand(image=["s3://shop/a.png"])
    assert not task.unmap({"image": "s3://shop/a.png"}).outlets


def test_a_group_publishes_the_asset_of_its_destination_or_an_alias_named_by_the_group():
    night: dict[str, Any] = {"manifest": "s3://shop/a.csv", "recipe": {}, "conn_id": "picwish_default"}
    with DAG("nights") as dag:
        CatalogueTaskGroup("fixed", **night, destination="s3://shop/pictures")
        CatalogueTaskGroup("templated", **night, destination="{{ params.destination }}")
        CatalogueTaskGroup("silent", **night, destination="s3://shop/pictures", outlets=())
    assert dag.get_task("fixed.publish").outlets == [Asset(uri="s3://shop/pictures")]
    alias = [AssetAlias(name="nights.templated")] if AIRFLOW_V_3_0_PLUS else []
    assert dag.get_task("templated.publish").outlets == alias
    assert dag.get_task("silent.publish").outlets == []


def test_an_alias_that_an_author_names_stands_for_the_folder_and_carries_what_airflow_can_hash():
    try:
        from airflow.sdk.execution_time.context import OutletEventAccessors
    except ImportError:  # Airflow 2.11
        from airflow.utils.context import OutletEventAccessors
    events: Any = OutletEventAccessors()
    context: Any = {"outlet_events": events}
    asset, alias = Asset(uri="s3://shop/a"), AssetAlias(name="shop")
    report = {"products": 2, "paid": {"USD": 0.06}, "examples": ["SKU-1"]}
    update(context, [asset, alias], "s3://shop/b", report)
    assert events[asset].extra == report
    flat = report if AIRFLOW_V_3_1_PLUS else {"products": 2}
    if AIRFLOW_V_3_0_PLUS:
        (event,) = events[alias].asset_alias_events
        assert (event.dest_asset_key.uri, event.extra) == ("s3://shop/b", flat)
    else:
        (event,) = events[alias].dataset_alias_events
        assert (event["dest_dataset_uri"], event["extra"]) == ("s3://shop/b", flat)


# --- in real runs

of_airflow_3 = pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="no default aliases")


@pytest.fixture
def events(airflow_db):
    """``events("s3://…")``: what the events of an asset carry, oldest first."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    def found(uri: str) -> list[dict[str, Any]]:
        query = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        with create_session() as session:
            return [each.extra for each in session.scalars(query.where(AssetModel.uri == uri).order_by(AssetEvent.id))]

    return found


@of_airflow_3
@pytest.mark.parametrize("waiting", ["blocking", "deferred"])
def test_a_landed_picture_is_an_event_of_its_folder(run, events, folder, waiting):
    destination = f"{folder}/product-{{index}}.{{ext}}"
    for _ in range(2):
        assert run(f"generate_{waiting}", destination=destination)["state"] == "success"
    assert events(folder) == [{"pictures": 1, "bought": 1}, {"pictures": 1, "bought": 0}]


@of_airflow_3
def test_step_by_step_the_landing_is_the_event(run, events, folder):
    assert run("steps_blocking", destination=f"{folder}/product-{{index}}.{{ext}}")["state"] == "success"
    assert events(folder) == [{"pictures": 1}]


@of_airflow_3
def test_a_published_night_is_an_event_of_its_destination_and_a_failed_one_none(night, catalogue, events, box, shop):
    products = catalogue(4)
    for _ in range(3):
        box.fault("picwish", "state_-7", times=1, on="submit")
    assert night(**products)["state"] == "failed"
    assert events(shop) == []
    assert night(**products)["state"] == "success"
    (extra,) = events(shop)
    assert (extra["products"], extra["charged"], extra["failures"]) == (4, 3, 0)  # of the failed night, one was bought
    assert extra["outcomes_uri"].startswith(f"{shop}/_bgai/runs/")


# --- OpenLineage


@pytest.fixture
def lineage():
    """What OpenLineage's provider reads of each task that succeeds, by task ID: namespaces and names, in and out."""
    base = pytest.importorskip("airflow.providers.openlineage.extractors.base")
    from airflow.providers.common.compat.sdk import get_listener_manager, hookimpl

    found: dict[str, tuple[list[str], list[str]]] = {}

    class Listener:
        @hookimpl
        def on_task_instance_success(self, previous_state, task_instance):
            told = base.DefaultExtractor(task_instance.task).extract_on_complete(task_instance)
            sides = ([f"{each.namespace} {each.name}" for each in side] for side in (told.inputs, told.outputs))
            found[task_instance.task_id] = tuple(sides)  # type: ignore[assignment]

    listener, manager = Listener(), get_listener_manager()
    manager.pm.register(listener)
    yield found
    manager.pm.unregister(listener)


@of_airflow_3
def test_a_night_is_one_line_from_the_manifest_to_the_shop(night, catalogue, lineage, s3, shop):
    done = night(**catalogue(2))
    bucket, name = f"s3://{s3.bucket}", shop.rpartition("/")[2]
    plan = done["plan"][0]["uri"].removeprefix(f"{bucket}/")
    assert {task: sides for task, sides in lineage.items() if any(sides)} == {
        "catalogue.plan": (
            [f"{bucket} {name}-source/products.csv", f"{bucket} {name}-source/recipe.yaml"],
            [f"{bucket} {plan}"],
        ),
        "catalogue.generate": ([f"{bucket} {plan}"], [f"{bucket} {name}/_bgai/pictures"]),
        "catalogue.publish": ([f"{bucket} {plan}", f"{bucket} {name}/_bgai/pictures"], [f"{bucket} {name}"]),
    }


@of_airflow_3
@pytest.mark.parametrize("waiting", ["blocking", "deferred"])
def test_of_one_product_the_image_goes_in_and_the_pictures_come_out(run, lineage, s3, folder, waiting):
    run(f"generate_{waiting}", destination=f"{folder}/product-{{index}}.{{ext}}", count=2)
    bucket, name = f"s3://{s3.bucket}", folder.rpartition("/")[2]
    pictures = [f"{bucket} {name}/product-{index}.png" for index in (1, 2)]
    assert lineage == {"generate": ([f"{bucket} product.png"], pictures)}


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://shop/a/b.png", ("s3://shop", "a/b.png")),
        ("s3://shop", ("s3://shop", "/")),
        ("https://me:secret@shop.example/a.csv?X-Signature=secret", ("https://shop.example", "a.csv")),
        ("/data/products.csv", ("file", "/data/products.csv")),
    ],
)
def test_openlineage_hears_no_secret_of_a_link(uri, name):
    assert dataset_name(uri) == name
