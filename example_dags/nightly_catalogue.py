"""Every night: a new background behind every product that is new or has changed, from every vendor named.

The catalogue is a file in S3 with the columns sku, image, title and category; the recipe beside it says what to paint
behind which category. Per vendor: `plan` finds out what has changed and what that costs, `generate` buys it, and
`publish` puts it where the shop reads, all at once. A picture is paid for once: a retry, a cleared task or tomorrow's
run finds it in S3, so a night without changes costs nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import Param, dag

from airflow_provider_bgai.get_provider_info import ROWS
from airflow_provider_bgai.task_groups.catalogue import CatalogueTaskGroup

VENDORS = [row.name for row in ROWS]


@dag(
    doc_md=__doc__,
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "shop", "retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "manifest": Param("s3://catalogue/products.csv", type="string", description="The products"),
        "recipe": Param("s3://catalogue/recipe.yaml", type="string", description="What to paint behind them"),
        "destination": Param("s3://catalogue/backgrounds", type="string", description="Where the shop reads"),
    },
    tags=["bgai", "catalogue"],
)
def nightly_catalogue():
    for vendor in VENDORS:
        CatalogueTaskGroup(
            group_id=vendor,
            manifest="{{ params.manifest }}",
            recipe="{{ params.recipe }}",
            destination=f"{{{{ params.destination }}}}/{vendor}",
            conn_id=f"{vendor}_default",
            budget={"day": {"pictures": 500}},  # what does not fit waits for the next night
        )


nightly_catalogue()
