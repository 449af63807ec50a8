"""Every night: a new background behind every product that is new or has changed, from every vendor named.

The catalogue is a file in S3 with the columns sku, image, title and category; the recipe beside it says what to paint
behind which category. Per vendor: `plan` finds out what has changed and what that costs, `generate` buys it, and
`publish` puts it where the shop reads, all at once. A picture is paid for once: a retry, a cleared task or tomorrow's
run finds it in S3, so a night without changes costs nothing.

"Trigger" asks for some of the products only, for a limit, or for a dry run, which plans and buys nothing. Amounts are
typed as text: Airflow's fields for numbers turn `0x10` into 10, and what is out of range into what is not.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_provider_bgai.get_provider_info import ROWS
from airflow_provider_bgai.task_groups.catalogue import CatalogueTaskGroup

VENDORS = [row.name for row in ROWS]


@dag(
    dag_display_name="Nightly catalogue",
    doc_md=__doc__,
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "shop", "retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "only": Param(
            "changed",
            type="string",
            enum=["changed", "all", "failed"],
            values_display={
                "changed": "What is new or has changed",
                "all": "Everything",
                "failed": "What failed before",
            },
            title="Which products",
            description="What has landed is never bought again",
        ),
        "skus": Param(
            None,
            type=["null", "array"],
            items={"type": "string"},
            title="SKUs",
            description="These products instead, one a line, such as SHOE-001",
        ),
        "limit": Param(
            None,
            type=["null", "string"],
            examples=["10", "100"],
            title="Limit",
            description="At most so many pictures of each vendor tonight; empty: as many as the budget allows",
        ),
        "pictures_a_day": Param(
            "500",
            type="string",
            examples=["50", "500"],
            title="Budget",
            description="At most so many pictures of each vendor a day; what does not fit waits for the next night",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Plan only: what would be bought, at what price, stands in the log of each plan task",
        ),
        "manifest": Param(
            "s3://catalogue/products.csv",
            type="string",
            examples=["s3://catalogue/products.csv"],
            title="Products",
            description="The shop's list: CSV, JSON lines or Parquet",
        ),
        "recipe": Param(
            "s3://catalogue/recipe.yaml",
            type="string",
            examples=["s3://catalogue/recipe.yaml"],
            title="Recipe",
            description="What to paint behind them: YAML or JSON",
        ),
        "destination": Param(
            "s3://catalogue/backgrounds",
            type="string",
            examples=["s3://catalogue/backgrounds"],
            title="Destination",
            description="Where the shop reads, with a folder for each vendor",
        ),
    },
    tags=["bgai", "catalogue"],
)
def nightly_catalogue():
    @task.short_circuit
    def may_buy(**context: Any) -> bool:
        """Nothing after this one runs in a dry run: neither `generate` nor `publish`."""
        return not context["params"]["dry_run"]

    gate = may_buy()
    for vendor in VENDORS:
        group = CatalogueTaskGroup(
            group_id=vendor,
            manifest="{{ params.manifest }}",
            recipe="{{ params.recipe }}",
            destination=f"{{{{ params.destination }}}}/{vendor}",
            conn_id=f"{vendor}_default",
            only="{% for sku in params.skus or [] %}{{ sku }}\n{% else %}{{ params.only }}{% endfor %}",
            limit="{{ params.limit or '' }}",
            budget={"day": {"pictures": "{{ params.pictures_a_day }}"}},
        )
        gate >> group.get_child_by_label("generate")


nightly_catalogue()
