"""Every night: a new background behind every product of the catalogue, from every vendor named, landed in S3.

The catalogue is a CSV file in S3 with the columns sku, image, title and category; an image is an `s3://` or
`https://` address, or a path beside the file. Each picture is one mapped task: it can be seen, retried and
cleared on its own. A picture that S3 already holds for the same image and prompt is not bought again, so a
night without changes costs nothing.

One mapping holds at most `[core] max_map_length` pictures (1,024 unless changed).
"""

from __future__ import annotations

import csv
import io
import logging
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator

log = logging.getLogger(__name__)

VENDORS = ["picwish", "photoroom", "imagine", "katalis", "gptge"]

SCENES = {
    "footwear": "on wet cobblestones in morning light",
    "music": "on a small stage with warm spotlights",
    "kitchen": "on a marble worktop beside a sunny window",
    "sport": "on a coastal road at golden hour",
    "travel": "in a bright hotel lobby",
    "office": "on an oak desk in a quiet study",
    "toys": "on a soft rug in a playroom",
}
ANYWHERE = "on a plain light backdrop"


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,  # two runs at once would wait for each other's pictures
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "manifest": Param("s3://catalogue/products.csv", type="string", description="The catalogue, CSV"),
        "destination": Param("s3://catalogue/backgrounds", type="string", description="Where pictures land"),
        "vendors": Param(
            VENDORS, type="array", items={"type": "string"}, examples=VENDORS, description="Who paints them"
        ),
    },
    tags=["bgai"],
)
def nightly_catalogue():
    @task
    def wanted(params: dict) -> list[dict]:
        """One picture for each product and vendor, as the operator's arguments."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        manifest, destination = params["manifest"], params["destination"].rstrip("/")
        products = csv.DictReader(io.StringIO(S3Hook("aws_default").read_key(manifest)))
        return [
            {
                "conn_id": f"{vendor}_default",
                "image": product["image"],
                "prompt": f"{product['title']} {SCENES.get(product['category'], ANYWHERE)}",
                "destination": f"{destination}/{vendor}/{product['sku']}-{{index}}.{{ext}}",
            }
            for product in checked(products, manifest)
            for vendor in params["vendors"]
        ]

    GenerateBackgroundOperator.partial(task_id="generate").expand_kwargs(wanted())


def checked(rows: csv.DictReader, manifest: str) -> list[dict]:
    """The rows, with full image addresses. A wrong row is reported and stops no other."""
    folder, _, _ = manifest.rpartition("/")
    products = []
    for row in rows:
        empty = [name for name in ("sku", "image", "title", "category") if not (row.get(name) or "").strip()]
        if empty:
            log.error("%s, line %d left out: %s missing or empty", manifest, rows.line_num, ", ".join(empty))
            continue
        image = row["image"] if "://" in row["image"] else f"{folder}/{row['image']}"
        products.append({**row, "image": image})
    return products


nightly_catalogue()
