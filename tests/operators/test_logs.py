"""What a person reads in the logs of a good night, of one with every kind of failure, and of a failed plan.

It stands in ``docs/logs/``, made here; with ``WRITE_LOGS=1`` the files are written anew.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable

import pytest
from PIL import Image, ImageOps

from airflow_provider_bgai.catalogue import shard
from tests.conftest import ROOT
from tests.dags.backgrounds import PARAMS
from tests.dags.catalogue import CATALOGUE_PARAMS
from tests.operators.hearing import hearing

LOGS = ROOT / "docs" / "logs"
LAST = 20
"""Lines that a person reads, who opens a log and does not scroll."""

FAILED = "ERROR   Task failed with exception"
MONEY = re.compile(r"\d USD|paid: 0 |pa(id|ys) nothing|to buy: nothing")
WHERE = re.compile(r"s3://\S+/(plan\.json|results/\d+\.jsonl|report\.html|_bgai/calls/\S+)|LandBackgroundOperator")
TO_DO = re.compile(r"[Ww]hat to do:|bgai-ledger \w+ s3://|is not a template|See why .* max_failure_ratio")

Told = dict[str, list[str]]


@pytest.fixture
def tell(dags, box, s3, connect, monkeypatch) -> Callable[..., Told]:
    """Run a DAG; what each of its tasks says, under a heading."""
    connect("picwish", extra={"timeout": 5})
    box.set_latency("picwish", 0)  # or the faster Airflow, the more often a sensor says that it waits
    monkeypatch.setattr(shard, "TELL_EVERY", 3600.0)  # or the slower the machine, the more lines

    def tell(heading: str, dag_id: str, **conf: object) -> Told:
        params = CATALOGUE_PARAMS if dag_id.startswith("night") else PARAMS
        with hearing() as heard:
            dags[dag_id].test(run_conf=params | conf)
        heard.tasks.pop(("catalogue.generated", -1), None)  # Airflow's own, and has nothing to say
        order = list(dict.fromkeys(task for task, _ in heard.tasks))
        places = sorted(heard.tasks, key=lambda it: (order.index(it[0]), it[1]))
        return {f"{heading}: {task}" + (f", {index}" if index >= 0 else ""): heard.tasks[task, index]
                for task, index in places}  # fmt: skip

    return tell


@pytest.fixture
def image(upload, product, request) -> str:
    """A cut-out that leaves nothing to say: with room around the product."""
    file = io.BytesIO()
    ImageOps.expand(Image.open(io.BytesIO(product)).convert("RGBA"), border=20).save(file, "PNG")
    return upload(f"{_folder(request)}/cut-out.png", file.getvalue())


def _folder(request: pytest.FixtureRequest) -> str:
    return request.node.name.removeprefix("test_").replace("_", "-")


@pytest.fixture
def shop(s3, upload, image, request) -> Callable[..., dict[str, object]]:
    """``shop("SKU-1", …)``: a list with these products, a recipe, and where the pictures go.

    A whole row may be given instead of a SKU.
    """
    folder = _folder(request)

    def shop(*rows: str, prompt: str = "{{ title }} on a table") -> dict[str, object]:
        lines = [row if "," in row else f"{row},cut-out.png,A thing called {row}" for row in rows]
        table = "\n".join(["sku,image,title", *lines])
        manifest = upload(f"{folder}/products.csv", table.encode(), "text/csv")
        recipe = upload(f"{folder}/recipe.yaml", f'version: 1\nprompt: "{prompt}"\n'.encode(), "application/yaml")
        return {"manifest": manifest, "recipe": recipe, "destination": f"s3://{s3.bucket}/{folder}/pictures"}

    return shop


@pytest.fixture
def wish(s3, image, request) -> dict[str, object]:
    """For one picture by day."""
    return {"image": image, "destination": f"s3://{s3.bucket}/{_folder(request)}/by-day-{{index}}.{{ext}}"}


def as_committed(name: str, told: Told) -> None:
    """Compare with the file in ``docs/logs/``, or write it; whatever is told in it, its end says it all."""
    text = "\n".join(f"=== {heading} ===\n" + "".join(f"{line}\n" for line in lines) for heading, lines in told.items())
    file = LOGS / name
    if os.environ.get("WRITE_LOGS"):
        file.write_text(text)
    for heading, lines in told.items():
        # A failed task's last words come after a stack trace, so they have to say it by themselves.
        failed = FAILED in lines
        end = lines[-1] if failed else "\n".join(lines[-LAST:])
        assert MONEY.search(end), f"{heading}: what did it cost?"
        assert WHERE.search(end) or TO_DO.search(end), f"{heading}: where to look?"
        assert TO_DO.search(end) or not failed, f"{heading}: what to do?"
        assert not any("Traceback" in line for line in lines)
    assert text == file.read_text(), f"docs/logs/{name} says something else; WRITE_LOGS=1 writes it anew"


def test_a_good_night(tell, shop, wish):
    products = shop("SKU-1", "SKU-2", "SKU-3")
    told = tell("the first night", "night_good", **products)
    told |= tell("the next night", "night_good", **products)
    told |= tell("by day", "by_day", **wish, prompt="on a beach")
    told |= tell("by day, once more", "by_day", **wish, prompt="on a beach")
    told |= tell("by day, step by step", "by_steps", **wish, prompt="in a forest")
    as_committed("good-night.txt", told)
    assert "0.09 USD" in "\n".join(told["the first night: catalogue.publish"][-LAST:])
    assert told["the first night: catalogue.publish"][-1].startswith("INFO    Published: s3://")


def test_a_night_of_failures(tell, shop, wish, box):
    skus = ("GOOD", "REFUSED", "MODERATED", "SLOWED", "HELD", "ALSO-GOOD", "LOST", "REDRAWN", "FAULTY")
    dead_link = f"DEAD-LINK,{box.url}/nothing-here.png,A thing"
    wrong = (
        "NO-IMAGE,gone.png,A thing",
        "NO-TITLE,cut-out.png,",
        "../evil,cut-out.png,A thing",
        "GOOD,cut-out.png,Twice",
    )
    products = shop(*skus, dead_link, "NO-QUOTA", "STOPPED", "DEAR", *wrong)
    _strike(box, "submit", None, "state_-7", "moderation", "rate_limited", None, "drop_after_charge", None, None, None)
    _strike(box, "submit", "state_-1", "state_-1", "state_-1", "quota_spent")
    _strike(
        box, "download", None, None, None, "truncated_image", "truncated_image", "truncated_image", "redrawn_product"
    )
    told = tell("the night", "night_bad", **products, budget={"run": {"pictures": len(skus) + 3}})
    box.clear_faults()
    for number, (what, fault) in enumerate({
        "a prompt that the vendor refuses": "moderation",
        "no credits": "quota_spent",
        "a line that drops": "drop_after_charge",
    }.items()):  # fmt: skip
        box.fault("picwish", fault, on="submit")
        told |= tell(f"by day, {what}", "by_day", **wish, prompt=f"on a beach {number}")
    box.fault("picwish", "truncated_image", times=3, on="download")
    told |= tell("by day, a picture that is lost", "by_day", **wish, prompt="in a forest")
    as_committed("night-of-failures.txt", told)

    bad = {*skus, "DEAD-LINK", "NO-QUOTA", "STOPPED"} - {"GOOD", "SLOWED", "ALSO-GOOD"}
    generated, published = (told[f"the night: catalogue.{it}"] for it in ("generate, 0", "publish"))
    ends = {sku for sku in bad if any(f": {sku}: " in line for line in generated[-LAST:])}
    assert ends == bad
    table = "\n".join(published)
    assert {sku for sku in (*bad, "DEAR", "NO-IMAGE", "NO-TITLE", "../evil") if sku in table} == bad | {
        *("DEAR", "NO-IMAGE", "NO-TITLE", "../evil")
    }
    assert f"of {len(skus) + 7} products failed" in published[-1]


def _strike(box, on: str, *faults: str | None) -> None:
    """One request after another; None: this one goes well."""
    for fault in faults:
        details = {} if fault else {"delay": 0}
        box.fault("picwish", fault or "slow", on=on, **details)


def test_a_failed_plan(tell, shop, box):
    told = tell("the night", "night_bad", **shop("SKU-1", "SKU-2", prompt="{{ title"))
    assert list(told) == ["the night: catalogue.plan"]
    as_committed("failed-plan.txt", told)
    assert box.requests == []
