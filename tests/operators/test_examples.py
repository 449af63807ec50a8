"""The example DAGs, run as they stand."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

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
