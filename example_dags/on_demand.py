"""By day: press "Trigger", fill in the form, and each product that it names gets a new background.

Airflow makes the form from the params below and refuses what is not in its lists; what a vendor does not take is
refused by name, before anything is paid. Numbers are picked or typed as text: Airflow's fields for numbers turn `0x10`
into 10, and what is out of range into what is not.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_provider_bgai.get_provider_info import ROWS
from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator

VENDORS = [row.name for row in ROWS]


@dag(
    dag_display_name="Pictures on demand",
    doc_md=__doc__,
    schedule=None,
    default_args={"owner": "shop"},
    params={
        "vendor": Param(
            VENDORS[0],
            type="string",
            enum=VENDORS,
            values_display={row.name: row.label for row in ROWS},
            title="Vendor",
            description="Who paints them, by the connection <vendor>_default",
        ),
        "skus": Param(
            ["SHOE-001"],
            type="array",
            items={"type": "string"},
            minItems=1,
            maxItems=20,
            title="SKUs",
            description="The products, one a line, such as SHOE-001",
        ),
        "prompt": Param(
            "on wet cobblestones in morning light",
            type="string",
            format="multiline",
            minLength=1,
            maxLength=1024,
            title="Prompt",
            description="What the background should look like",
        ),
        "count": Param(
            "1",
            type="string",
            enum=["1", "2", "3", "4"],
            title="Pictures of each",
            description="Each is billed. Photoroom and Imagine make one at a time, PicWish up to two",
        ),
        "seed": Param(
            None,
            type=["null", "string"],
            examples=["7", "1234"],
            title="Seed",
            description="A whole number; the same one paints the same picture. Photoroom and Imagine only",
        ),
        "image": Param(
            "s3://catalogue/cutouts/{sku}.png",
            type="string",
            examples=["s3://catalogue/cutouts/{sku}.png"],
            title="Cut-outs",
            description="Where the products' pictures are, s3:// or https://; {sku} stands for the SKU",
        ),
        "destination": Param(
            "s3://catalogue/on-demand",
            type="string",
            examples=["s3://catalogue/on-demand"],
            title="Destination",
            description="Where the pictures land, in a folder for each SKU",
        ),
    },
    tags=["bgai", "on demand"],
)
def on_demand():
    @task
    def products(**context: Any) -> list[dict[str, str]]:
        """Where each product's picture is, and where its new ones go; a SKU that was typed twice is one product."""
        params = context["params"]
        skus = dict.fromkeys(sku.strip() for sku in params["skus"] if sku.strip())
        name = params["vendor"] + "-{index}.{ext}"
        return [
            {"image": params["image"].replace("{sku}", sku), "destination": f"{params['destination']}/{sku}/{name}"}
            for sku in skus
        ]

    GenerateBackgroundOperator.partial(
        task_id="generate",
        conn_id="{{ params.vendor }}_default",
        prompt="{{ params.prompt }}",
        count="{{ params.count }}",
        seed="{{ params.seed or '' }}",
    ).expand_kwargs(products())


on_demand()
