"""A newcomer's mistakes: the log ends with what is wrong, where, and what would be right; none costs a cent.

Each is made with the real operators, against the sandbox and a real S3. Most are not retried, because no retry mends
them; a host that cannot be reached is: it may be up again in a minute, and nothing was paid.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import airflow as installed
import pytest
from packaging.version import Version

from tests.catalogue.test_excel import workbook
from tests.dags.catalogue import CATALOGUE_PARAMS
from tests.servers import closed_port


class Log(NamedTuple):
    """The end of a task's log: the last line of its traceback, and the frames above it that are not Airflow's own."""

    sentence: str
    frames: list[str]
    chained: bool


def read_log(text: str) -> Log:
    if Version(installed.__version__) < Version("3.1") and "─ Traceback (most recent call last) ─" in text:
        pytest.skip("Airflow 3.0 draws tracebacks as boxes, and breaks their lines; what became of the task was seen")
    _, found, traceback = text.rpartition("Traceback (most recent call last):")
    assert found, text[-2000:]
    chained = "During handling of" in text or "direct cause of" in text
    frames = re.findall(r'^ *File "([^"]+)", line \d+, in (\w+)', traceback, re.MULTILINE)
    (sentence,) = re.findall(r"^[\w.]*(?:AirflowFailException|RetryableError): (.*)$", traceback, re.MULTILINE)
    return Log(sentence, [name for path, name in frames if "site-packages/airflow/" not in path], chained)


@pytest.fixture
def log(capfd, caplog) -> Callable[[], str]:
    """What was logged so far."""
    return lambda: capfd.readouterr().out + caplog.text


@pytest.fixture
def s3_connection(s3, monkeypatch) -> Callable[..., None]:
    """Type the connection to S3 with something wrong, or not at all."""

    def s3_connection(**wrong: str) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # boto3 looks there, and waits, where it finds no key
        if wrong:
            monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(json.loads(s3.aws_connection()) | wrong))
        else:
            monkeypatch.delenv("AIRFLOW_CONN_AWS_DEFAULT")

    return s3_connection


def check(found: Log, words: str, kind: str) -> None:
    assert re.search(rf"^Not retried \({kind}\): .*{words}", found.sentence), found.sentence
    assert found.frames[-1] == "fail"
    assert len(found.frames) <= 5
    assert not found.chained


# --- one picture


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"image": "s3://catalogue/no.png"}, "refused", "image='s3://catalogue/no.png': there is no such object in S3"),
        ({"image": "s3://no-bucket/a.png"}, "refused", "image='s3://no-bucket/a.png': there is no bucket 'no-bucket'"),
        ({"prompt": ""}, "refused", "prompt.*give exactly one of the two"),
        ({"budget": {"dai": {"pictures": 3}}}, "refused", "budget, dai: there is no such field; is day meant"),
        ({"budget": {"week": {"pictures": 3}}}, "refused", "budget, week: .*; there are root, run, day, month"),
        ({"budget": {"day": {"images": 3}}}, "refused", "budget, day.images=3: .*; there are pictures, money"),
        (
            {"conn_id": "picwish_new"},
            "authentication",
            "no connection 'picwish_new': create it .*with the type bgai_picwish, and the API key as its password",
        ),
        (
            {"conn_id": "mine"},
            "authentication",
            "no connection 'mine': .* type one of bgai_gptge, .*, bgai_picwish",
        ),
        ({"conn_id": "aws_default"}, "authentication", "'aws_default' has type 'aws'; it must be one of bgai_gptge, "),
    ],
)
def test_what_is_asked_for_wrongly_is_said_in_a_sentence(run, box, log, wrong, kind, words):
    done = run("generate_blocking", **wrong)
    assert (done["state"], done["tries"], box.requests) == ("failed", 1, [])
    check(read_log(log()), words, kind)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {},
            "no credentials for S3: create a connection 'aws_default' of type aws, with the access key ID as its",
        ),
        ({"login": "wrong"}, "does not take the key of connection 'aws_default' .*login must be the access key ID"),
        ({"password": "wrong"}, "does not take the key of connection 'aws_default' .*password the secret access key"),
    ],
)
def test_wrong_credentials_of_s3_are_named(run, box, log, s3_connection, wrong, words):
    s3_connection(**wrong)
    done = run("generate_blocking")
    assert (done["state"], done["tries"], box.requests) == ("failed", 1, [])
    check(read_log(log()), f"s3://catalogue/.*: .*{words}", "authentication")


def test_a_bucket_that_is_not_there_is_named(run, box, log, bad):
    bad.fault("no_bucket", methods="HEAD GET PUT LIST DELETE", key="_bgai/")
    done = run("generate_blocking")
    assert (done["state"], done["tries"], box.requests) == ("failed", 1, [])
    check(read_log(log()), "there is no bucket 'catalogue': create it, or name one that is there", "authentication")


def test_a_wrong_key_is_said_once_and_asked_once(run, box, log):
    box.fault("picwish", "bad_key", on="submit")
    done = run("generate_blocking")
    assert (done["state"], done["tries"], box.images_charged(), len(box.requests)) == ("failed", 1, 0, 1)
    check(read_log(log()), "401: .*look at the password and the host of connection 'picwish_default'", "authentication")


def test_a_host_that_cannot_be_reached_is_tried_again_and_costs_nothing(run, box, log, connect):
    with closed_port() as port:
        connect("picwish", host=f"http://127.0.0.1:{port}")
        done = run("generate_blocking")
    assert (done["state"], done["tries"], box.images_charged()) == ("failed", 2, 0)
    found = read_log(log())
    assert re.search(
        rf"no connection to http://127\.0\.0\.1:{port}: .* host of connection 'picwish_default'", found.sentence
    ), found.sentence
    assert (len(found.frames) <= 5, found.chained) == (True, False)


# --- a catalogue


@pytest.fixture
def night(dags, box, s3, connections, upload, product, request):
    """A night with a product list as a file; the states of its tasks, and of the run."""

    def night(
        data: bytes | str = "sku,image,title\nSKU-0,product.png,Cup\nSKU-1,product.png,Pot\n",
        name: str = "products.csv",
        recipe: str = "prompt: '{{ title }} on a table'\n",
        then: Callable[[], None] = lambda: None,
        **conf: Any,
    ) -> dict[str, str]:
        folder = re.sub(r"[^\w]+", "-", request.node.name)
        upload(f"{folder}/product.png", product)
        conf = {
            "manifest": upload(f"{folder}/{name}", data.encode() if isinstance(data, str) else data, "text/plain"),
            "recipe": upload(f"{folder}/recipe.yaml", recipe.encode(), "application/yaml"),
            "destination": f"s3://{s3.bucket}/{folder}/shop",
            **conf,
        }
        then()
        dag_run = dags["catalogue_blocking"].test(run_conf=CATALOGUE_PARAMS | conf)
        states = {it.task_id.rpartition(".")[2]: str(it.state) for it in dag_run.get_task_instances()}
        return {**states, "run": str(dag_run.state)}

    return night


PLAN_FAILED = {
    "plan": "failed",
    "generate": "upstream_failed",
    "generated": "success",
    "publish": "upstream_failed",
    "run": "failed",
}


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        (
            {"recipe": "prompt: '{{ titel }} on a table'\n"},
            "refused",
            "products.csv: All 2 products are refused.* SKU 'SKU-0'.*prompt.*'titel' is undefined; "
            "the manifest's columns are sku, image, title",
        ),
        ({"recipe": "version: 2\n"}, "refused", "All 2 products are refused.* SKU 'SKU-0'.*prompt.*give exactly one"),
        (
            {"recipe": "prompt: a table\npriority: rank\n"},
            "refused",
            "All 2 .*'rank' is not a column of the manifest; the manifest's columns are sku, image, title",
        ),
        (
            {"recipe": "promt: a table\n"},
            "refused",
            'recipe.yaml, promt="a table": there is no such field; is prompt',
        ),
        (
            {"data": "sku,picture\na,a.png\n"},
            "refused",
            r"products.csv: column\(s\) image missing; it has 'sku'",
        ),
        (
            {"data": "sku,image,title\na,no.png,Cup\n"},
            "refused",
            "The only product is refused.* SKU 'a'.*no such",
        ),
        ({"data": b"PK", "name": "p.xlsx"}, "refused", "p.xlsx: is no .xlsx file, or damaged"),
        ({"data": "", "name": "p.ods"}, "refused", r"p.ods: must end in one of \.csv, .*\.xlsx"),
        ({"budget": {"dai": {"pictures": 3}}}, "refused", "budget, dai: there is no such field; is day meant"),
        ({"budget": {"day": {"pictures": "1_0"}}}, "refused", 'budget, day.pictures="1_0": .*must be a number'),
        ({"limit": "ten"}, "refused", "limit='ten': must be an integer"),
        ({"manifest": "s3://no-bucket/p.csv"}, "refused", "s3://no-bucket/p.csv: there is no bucket 'no-bucket'"),
        ({"manifest": "s3://catalogue/no.csv"}, "refused", "s3://catalogue/no.csv: there is no such object in S3"),
        ({"conn_id": "picwish_new"}, "authentication", "no connection 'picwish_new': create it .* bgai_picwish"),
        ({"conn_id": "aws_default"}, "authentication", "'aws_default' has type 'aws'; it must be one of bgai_gptge"),
    ],
)
def test_what_is_wrong_with_a_whole_night_fails_its_plan_and_nothing_else_runs(night, box, log, wrong, kind, words):
    assert night(**wrong) == PLAN_FAILED
    assert box.requests == []
    check(read_log(log()), words, kind)


def test_excel_without_its_extra_says_what_to_install(night, box, log, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert night(workbook([["sku", "image"], ["a", "product.png"]]), "p.xlsx") == PLAN_FAILED
    check(read_log(log()), r"p\.xlsx: Excel needs the extra: pip install 'airflow-provider-bgai\[xlsx\]'", "refused")


@pytest.mark.parametrize("wrong", [{}, {"login": "wrong"}])
def test_a_plan_names_wrong_credentials_of_s3_although_it_looks_at_its_budget(night, box, log, s3_connection, wrong):
    asked = {"budget": {"day": {"pictures": 1}}, "recipe": "version: 1\nprompt: a table\n"}
    assert night(**asked, then=lambda: s3_connection(**wrong)) == PLAN_FAILED
    check(read_log(log()), "recipe.yaml: .*(for S3|connection 'aws_default')", "refused")


ROWS = [["SKU", "IMAGE", "title"], ["a", "product.png", "Tasse; weiß"]]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p.csv", '\ufeffSKU;IMAGE;title\r\na;product.png;"Tasse; weiß"\r\n;;\r\n'),
        ("p.csv", "SKU\tIMAGE\ttitle\na\tproduct.png\tTasse; weiß\n".encode("utf-16")),
        ("p.csv", "SKU,IMAGE,title\na,product.png,Tasse; weiß\n\n,,\nTotal,,1\n"),
        ("p.xlsx", workbook([*ROWS, [], ["Total", None, 1]])),
    ],
)
def test_a_list_that_a_spreadsheet_wrote_in_its_own_way_is_read(night, box, name, data):
    assert night(data, name)["run"] == "success"
    assert box.images_charged() == 1


def test_where_only_some_products_are_wrong_the_others_are_bought(night, box):
    rows = "sku,image,title\na,product.png,Cup\nb,product.png,\nc,no.png,Pot\n"
    assert night(rows, max_failure_ratio=0.9)["run"] == "success"
    assert box.images_charged() == 1


def test_a_wrong_key_is_asked_few_times_by_a_whole_night_and_the_log_says_so(night, box, log):
    box.fault("picwish", "bad_key", times=1000, on="submit")
    states = night()
    assert (states["plan"], states["publish"], states["run"]) == ("success", "failed", "failed")
    assert box.images_charged() == 0
    assert re.search("failed .authentication.: SKU-0: .*password and the host of connection 'picwish_default'", log())


def test_a_share_that_is_no_number_is_named_and_what_was_bought_stays(night, box, log):
    assert night(max_failure_ratio="a few")["publish"] == "failed"
    check(read_log(log()), "max_failure_ratio='a few': must be a number", "refused")
    assert (night(max_failure_ratio="0.2")["run"], box.images_charged()) == ("success", 2)


# --- where a plan is missing, and where shards are


def test_a_night_with_nothing_to_buy_publishes_although_no_shard_has_run(night, box):
    rows = "sku,image,title\na,product.png,Cup\n"
    assert night(rows)["run"] == "success"
    assert night(rows) == {
        "plan": "success",
        "generate": "skipped",
        "generated": "success",
        "publish": "success",
        "run": "success",
    }


def test_a_broken_shard_keeps_nobody_from_publishing(night, monkeypatch):
    from airflow_provider_bgai.exceptions import RetiredError
    from airflow_provider_bgai.operators import catalogue

    def broken(*_: Any) -> None:
        raise RetiredError("broken")

    monkeypatch.setattr(catalogue.ShardTask, "read", broken)
    states = night(max_failure_ratio=1.0)
    assert (states["generate"], states["generated"], states["publish"]) == ("failed", "success", "success")


def test_who_publishes_without_a_plan_is_told_where_to_look():
    from airflow.providers.common.compat.sdk import AirflowFailException

    from airflow_provider_bgai.operators.catalogue import PublishCatalogueOperator

    with pytest.raises(AirflowFailException, match="no plan to publish: the planning task has failed; its log"):
        PublishCatalogueOperator(task_id="publish", plan={}).execute({})
