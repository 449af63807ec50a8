"""By day: press "Trigger", fill in the form, and one product gets a new background.

The form is made from the params below, so Airflow refuses a wrong vendor or count before anything is bought.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import Param, dag

from airflow_provider_bgai.get_provider_info import ROWS
from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator

VENDORS = [row.name for row in ROWS]


@dag(
    doc_md=__doc__,
    schedule=None,
    default_args={"owner": "shop"},
    params={
        "vendor": Param(
            VENDORS[0],
            enum=VENDORS,
            description="Who paints it",
        ),
        "sku": Param("SHOE-001", type="string", pattern="^[A-Za-z0-9_-]+$", description="The product"),
        "image": Param(
            "s3://catalogue/images/tennis-shoe.png",
            type="string",
            pattern="^(s3|https)://",
            description="The cut-out product, a transparent PNG",
        ),
        "prompt": Param(
            "on wet cobblestones in morning light",
            type="string",
            format="multiline",
            minLength=1,
            maxLength=1024,
            description="What the background should look like",
        ),
        "count": Param(1, type="integer", minimum=1, maximum=2, description="How many; each is billed"),
        "seed": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            description="The same seed paints the same picture (Photoroom and Imagine only)",
        ),
        "destination": Param("s3://catalogue/on-demand", type="string", description="Where pictures land"),
    },
    tags=["bgai", "on demand"],
)
def on_demand():
    GenerateBackgroundOperator(
        task_id="generate",
        conn_id="{{ params.vendor }}_default",
        image="{{ params.image }}",
        prompt="{{ params.prompt }}",
        count="{{ params.count }}",
        seed="{{ params.seed or '' }}",
        destination="{{ params.destination }}/{{ params.sku }}/{{ params.vendor }}-{index}.{ext}",
    )


on_demand()
