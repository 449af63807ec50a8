"""The example DAGs, run as they stand, and what their forms take."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from tests.conftest import VENDORS

EXAMPLES = Path(__file__).parents[2] / "example_dags"


def test_each_says_in_airflow_what_its_file_says(airflow_db):
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 2.11
        from airflow.models.dagbag import DagBag  # type: ignore[no-redef]

    bag = DagBag(EXAMPLES)
    assert bag.import_errors == {}
    said = {Path(dag.fileloc): dag.doc_md for dag in bag.dags.values()}
    assert said == {path: ast.get_docstring(ast.parse(path.read_text()), clean=False) for path in said}
    assert set(said) == set(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("vendor", VENDORS)
def test_step_by_step_lands_one_picture_with_any_vendor(dags, box, s3, connections, storage, product, vendor):
    """Airflow runs what is in its own folder, so a link to the example stands there."""
    assert s3.bucket == "catalogue"
    storage.put("s3://catalogue/images/glass-tea-mug.png", product)
    run = dags["submit_sensor_land"].test(run_conf={"vendor": vendor})
    assert str(run.state) == "success"
    assert box.images_charged() == box.images_charged(vendor) == 1
    assert len(list(storage.list(f"s3://catalogue/step-by-step/{vendor}-1."))) == 1


# --- the forms -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def forms(dags):
    """What the forms hold when they open: `dag.test()` keeps a run's values as the DAG's defaults for the next one."""
    return {dag_id: dags[dag_id].params.dump() for dag_id in ("on_demand", "nightly_catalogue")}


@pytest.fixture
def submit(dags, forms, box, connections, upload, product):
    """Send a form with some fields filled in; states of the tasks that ran, by ID, and the run."""
    rows = "".join(f"SKU-{name},product.png,Thing {name}\n" for name in "ABC")
    upload("form/product.png", product)
    filled = {
        "on_demand": {"image": "s3://catalogue/form/product.png", "skus": ["SKU-A"]},
        "nightly_catalogue": {
            "manifest": upload("form/products.csv", f"sku,image,title\n{rows}".encode(), "text/csv"),
            "recipe": upload("form/recipe.yaml", b"prompt: '{{ title }} on oak'", "application/yaml"),
        },
    }

    def submit(dag_id, folder, **fields):
        conf = forms[dag_id] | filled[dag_id] | {"destination": folder} | fields
        run = dags[dag_id].test(run_conf=conf)
        return run, Counter((each.task_id, str(each.state)) for each in run.get_task_instances())

    return submit


def test_each_field_of_a_form_has_a_title_a_description_and_a_way_to_know_what_to_write(dags, forms):
    for dag_id in forms:
        for name, value in dags[dag_id].params.items():
            param = dags[dag_id].params.get_param(name)
            assert param.schema["title"], name
            assert param.description, name
            shown = {"enum", "examples"} & set(param.schema) or value or param.schema["type"] == "boolean"
            assert shown or "such as" in param.description, name
            assert "pattern" not in param.schema, name


def test_on_demand_buys_one_picture_of_each_sku_however_often_it_is_typed(submit, box, folder, storage):
    skus = ["SKU-A", " SKU-B", "", "SKU-A", "  "]
    for _ in range(2):  # the second time all is there
        run, states = submit("on_demand", folder, skus=skus)
        assert states == {("products", "success"): 1, ("generate", "success"): 2}
        assert box.images_charged() == 2
    names = {each.uri.removeprefix(f"{folder}/") for each in storage.list(f"{folder}/") if "_bgai" not in each.uri}
    assert names == {"SKU-A/picwish-1.png", "SKU-B/picwish-1.png"}


def test_a_list_of_blanks_buys_nothing(submit, box, folder):
    _, states = submit("on_demand", folder, skus=[" ", ""])
    assert ("generate", "success") not in states
    assert box.images_charged() == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", "3"),  # of PicWish's two
        ("seed", "7"),  # which PicWish does not have
        ("seed", "0x10"),
        ("seed", "1.9"),
    ],
)
def test_on_demand_refuses_what_the_vendor_does_not_take_before_it_is_paid(submit, box, folder, field, value):
    run, states = submit("on_demand", folder, **{field: value})
    assert states == {("products", "success"): 1, ("generate", "failed"): 1}
    assert box.images_charged() == 0


@pytest.mark.parametrize(
    ("dag_id", "field", "value"),
    [
        ("on_demand", "vendor", "picwhish"),
        ("on_demand", "count", "0x10"),
        ("on_demand", "count", "5"),
        ("on_demand", "count", 3),
        ("on_demand", "count", 1.9),
        ("on_demand", "skus", "SKU-A"),
        ("on_demand", "skus", []),
        ("on_demand", "skus", [f"SKU-{place}" for place in range(21)]),
        ("on_demand", "prompt", ""),
        ("nightly_catalogue", "only", "evrything"),
        ("nightly_catalogue", "limit", 1.9),
        ("nightly_catalogue", "pictures_a_day", None),
        ("nightly_catalogue", "dry_run", "maybe"),
    ],
)
def test_airflow_refuses_what_is_not_in_a_forms_lists(submit, box, folder, dag_id, field, value):
    with pytest.raises((ValueError, AirflowException), match=field):  # as Airflow 3 and 2.11 call it
        submit(dag_id, folder, **{field: value})
    assert box.requests == []


def test_a_limit_that_is_no_number_plans_nothing(submit, box, folder):
    _, states = submit("nightly_catalogue", folder, limit="0x10", dry_run=True)
    assert {state for (task_id, state) in states if task_id.endswith(".plan")} == {"failed"}
    assert box.images_charged() == 0


def test_a_dry_run_plans_and_buys_nothing_and_skus_limit_what_is_bought(submit, box, folder):
    run, states = submit("nightly_catalogue", folder, dry_run=True)
    assert str(run.state) == "success"
    ended = {name: state for name, state in states if name.startswith("picwish.")}
    assert ended.pop("picwish.plan") == "success"
    assert {"picwish.generate", "picwish.publish"} <= ended.keys()
    assert set(ended.values()) == {"skipped"}
    (plan,) = (
        each.xcom_pull(task_ids=each.task_id, key="plan")
        for each in run.get_task_instances()
        if each.task_id == "picwish.plan"
    )
    assert (plan["calls"], plan["price"]) == (3, "0.09")
    assert box.images_charged() == 0

    submit("nightly_catalogue", folder, skus=["SKU-B", "", " SKU-C "], limit="1")
    assert {vendor: box.images_charged(vendor) for vendor in VENDORS} == dict.fromkeys(VENDORS, 1)
