"""Operators and sensor in real DAG runs (`dag.test()`), against the sandbox and a real S3."""

from __future__ import annotations

import json

import pytest


def pictures(s3, prefix: str) -> list[str]:
    """Keys under a prefix, records left out."""
    found = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=prefix).get("Contents", [])
    return [item["Key"] for item in found if "/_bgai/" not in item["Key"]]


def records(s3, prefix: str, kind: str) -> list[dict]:
    client = s3.client()
    found = client.list_objects_v2(Bucket=s3.bucket, Prefix=f"{prefix}/_bgai/{kind}/").get("Contents", [])
    return [json.loads(client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read()) for item in found]


@pytest.fixture
def folder(request) -> str:
    return request.node.name.replace("[", "-").replace("]", "")


# Every vendor once, and every way for each kind of vendor: with tasks, answering with bytes, answering with links.
WAYS = [(shape, waiting) for shape in ("generate", "steps") for waiting in ("blocking", "deferred")]
KINDS = [(*way, vendor) for way in WAYS for vendor in ("picwish", "photoroom", "katalis")]


@pytest.mark.parametrize(
    ("shape", "waiting", "vendor"), [*KINDS, ("generate", "blocking", "imagine"), ("steps", "deferred", "gptge")]
)
def test_every_vendor_lands_a_picture_once_in_every_way_of_waiting(run, box, s3, vendor, waiting, shape, folder):
    done = run(f"{shape}_{waiting}", conn_id=f"{vendor}_default")
    assert done["state"] == "success"
    (image,) = done["result"]["images"]
    assert box.images_charged(vendor) == box.images_charged() == 1
    head = s3.client().head_object(Bucket=s3.bucket, Key=image["uri"].removeprefix(f"s3://{s3.bucket}/"))
    assert head["ContentType"] == image["content_type"] == "image/png"
    assert head["ContentLength"] == image["bytes"]
    assert head["Metadata"]["sha256"] == image["sha256"]
    assert head["Metadata"]["vendor"] == vendor
    assert len(head["Metadata"]["prompt-sha256"]) == 64
    assert pictures(s3, folder) == [f"{folder}/product-1.png"]

    again = run(f"generate_{waiting}", conn_id=f"{vendor}_default")
    assert again["result"]["reused"] is True
    assert again["result"]["cost"] == 0
    assert box.images_charged() == 1


def test_seed_and_model_are_read_back(run, s3, folder):
    done = run("generate_blocking", conn_id="photoroom_default", seed=117879368)
    assert done["result"]["seed"] == 117879368
    key = done["result"]["images"][0]["uri"].removeprefix(f"s3://{s3.bucket}/")
    assert s3.client().head_object(Bucket=s3.bucket, Key=key)["Metadata"]["seed"] == "117879368"


def test_two_pictures_of_one_task_get_two_keys(run, box, s3, folder):
    run("generate_deferred", count=2)
    assert pictures(s3, folder) == [f"{folder}/product-1.png", f"{folder}/product-2.png"]
    assert box.images_charged() == 2


def test_an_epoch_buys_the_same_picture_anew(run, box):
    run("generate_blocking")
    run("generate_blocking", epoch="spring")
    run("generate_blocking", epoch="spring")
    assert box.images_charged() == 2


def test_a_deleted_copy_is_put_there_again_and_a_deleted_original_is_bought_again(run, box, s3, folder):
    run("generate_blocking")
    s3.client().delete_object(Bucket=s3.bucket, Key=f"{folder}/product-1.png")
    assert run("generate_blocking")["result"]["cost"] == 0
    assert pictures(s3, folder) == [f"{folder}/product-1.png"]
    assert box.images_charged() == 1

    originals = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=f"{folder}/_bgai/pictures/")["Contents"]
    s3.client().delete_object(Bucket=s3.bucket, Key=originals[0]["Key"])
    assert run("generate_blocking")["result"]["reused"] is False
    assert box.images_charged() == 2


def test_prompt_a_then_b_then_a_shows_a_and_costs_nothing_the_third_time(run, box, s3, folder):
    def shown() -> bytes:
        return s3.client().get_object(Bucket=s3.bucket, Key=f"{folder}/product-1.png")["Body"].read()

    run("generate_blocking", prompt="on a beach")
    first = shown()
    run("generate_blocking", prompt="on a table")
    assert shown() != first
    third = run("generate_blocking", prompt="on a beach")
    assert (third["result"]["reused"], third["result"]["cost"], shown()) == (True, 0, first)
    assert box.images_charged() == 2


def test_a_ledger_of_its_own_keeps_a_dated_destination_from_paying_every_day(run, box, s3, folder):
    for day in ("2026-11-23", "2026-11-24", "2026-11-25"):
        destination = f"s3://{s3.bucket}/{folder}/{day}/product-{{index}}.{{ext}}"
        done = run("generate_blocking", destination=destination, ledger=f"s3://{s3.bucket}/{folder}")
        assert done["state"] == "success"
    assert len(pictures(s3, folder)) == 3
    assert box.images_charged() == 1


def test_one_wallet_caps_tasks_of_different_destinations(run, box, s3, folder):
    # A month, because a day may end between the two.
    budget = {"root": f"s3://{s3.bucket}/{folder}-wallet", "month": {"pictures": 1}}
    first = run("generate_blocking", budget=budget)
    other = f"s3://{s3.bucket}/{folder}-other/product-{{index}}.{{ext}}"
    second = run("generate_blocking", budget=budget, destination=other)
    assert (first["state"], second["state"]) == ("success", "failed")
    assert box.images_charged() == 1


@pytest.mark.parametrize("waiting", ["impatient", "impatient_deferred"])
def test_a_timeout_keeps_the_task_and_a_later_run_collects_it(run, box, s3, waiting, folder):
    box.fault("picwish", "server_error", times=1000, on="poll")
    assert run(f"generate_{waiting}")["state"] == "failed"
    (call,) = records(s3, folder, "calls")
    assert call["state"] == "answered"
    assert call["task_id"]
    box.clear_faults()
    done = run("generate_blocking")
    assert done["result"]["task_id"] == call["task_id"]
    assert box.images_charged() == 1


def test_a_bare_task_id_from_anywhere_is_waited_for_and_landed(run, box, s3, folder):
    from airflow_provider_bgai.hooks import get_hook
    from airflow_provider_bgai.models import BackgroundRequest

    hook = get_hook("picwish_default")
    request = BackgroundRequest(f"s3://{s3.bucket}/product.png", "in a forest")
    hook.prepare_blocking(request)
    import asyncio

    async def submit():
        async with hook:
            return (await hook.submit(request)).task_id

    done = run("land_deferred", vendor_task_id=asyncio.run(submit()))
    assert done["state"] == "success"
    assert pictures(s3, folder) == [f"{folder}/product-1.png"]
    assert done["result"]["cost"] == 0


def test_an_unknown_outcome_is_held_and_never_repeated_silently(run, box, s3, folder):
    box.fault("picwish", "drop_after_charge", times=1, on="submit")
    first = run("generate_blocking")
    assert (first["state"], first["tries"]) == ("failed", 1)
    (call,) = records(s3, folder, "calls")
    assert (call["state"], call["task_id"]) == ("sent", None)
    expire(s3, folder, answer_by=1.0)
    sent = len(box.requests)
    assert run("generate_blocking")["state"] == "failed"
    assert len(box.requests) == sent
    assert box.images_charged() == 1


def test_an_unknown_outcome_may_be_bought_again_by_policy_and_is_counted(run, box):
    box.fault("picwish", "drop_after_charge", times=1, on="submit")
    done = run("generate_again")
    assert done["state"] == "success"
    assert done["result"]["unknown_outcomes"] == 1
    assert box.images_charged() == 2


def test_a_held_picture_is_released_when_its_time_has_come(run, box, s3, folder):
    box.fault("picwish", "drop_before_charge", times=1, on="submit")
    run("generate_blocking")
    expire(s3, folder, answer_by=1.0, held_until=1.0)
    done = run("generate_blocking")
    assert done["state"] == "success"
    assert [call["state"] for call in records(s3, folder, "calls")] == ["unknown", "landed"]
    assert box.images_charged() == 1


def expire(s3, folder: str, **times: float) -> None:
    """Let the time of a call be over."""
    (call,) = records(s3, folder, "calls")
    key = f"{folder}/_bgai/calls/{call['fingerprint']}.{call['number']:03}"
    s3.client().put_object(Bucket=s3.bucket, Key=key, Body=json.dumps(call | times).encode())


@pytest.mark.parametrize("fault", ["state_-1", "state_-2", "state_-8", "rate_limited"])
def test_a_definite_fault_of_the_vendor_is_repeated_and_charged_once(run, box, fault):
    box.fault("picwish", fault, times=1, on="submit")
    assert run("generate_blocking")["state"] == "success"
    assert box.images_charged() == 1


@pytest.mark.parametrize(
    ("vendor", "fault"),
    [
        ("picwish", "state_-7"),
        ("picwish", "bad_key"),
        ("photoroom", "quota_spent"),
        ("imagine", "moderation"),
        ("gptge", "quota_spent"),
    ],
)
def test_what_no_retry_can_help_fails_at_once_and_costs_nothing(run, box, s3, vendor, fault, folder):
    box.fault(vendor, fault, times=1, on="submit")
    done = run("generate_blocking", conn_id=f"{vendor}_default")
    assert (done["state"], done["tries"]) == ("failed", 1)
    assert box.images_charged() == 0
    assert pictures(s3, folder) == []


@pytest.mark.parametrize("fault", ["truncated_image", "html_200", "bomb_image"])
def test_a_damaged_result_leaves_no_object_and_is_reported_lost(run, box, s3, fault, folder):
    box.fault("picwish", fault, times=20, on="download")
    done = run("generate_blocking")
    assert (done["state"], done["tries"]) == ("failed", 1)
    assert pictures(s3, folder) == []
    (call,) = records(s3, folder, "calls")
    assert (call["state"], call["reason"]) == ("lost", "lost")


def test_one_damaged_download_is_fetched_again(run, box):
    box.fault("picwish", "truncated_image", times=1, on="download")
    assert run("generate_blocking")["state"] == "success"
    assert box.images_charged() == 1


def test_the_content_type_is_decided_by_the_bytes(run, box, s3, folder):
    box.fault("picwish", "wrong_content_type", times=1, on="download")
    assert run("generate_blocking")["result"]["images"][0]["content_type"] == "image/png"


def test_the_next_connection_serves_what_the_first_refuses(run, box):
    box.fault("photoroom", "quota_spent", times=1, on="submit")
    done = run("generate_blocking", conn_id=["photoroom_default", "picwish_default"])
    assert done["result"]["vendor"] == "picwish"
    assert box.images_charged() == 1


def test_an_unknown_outcome_is_not_handed_to_the_next_connection(run, box):
    box.fault("photoroom", "drop_after_charge", times=1, on="submit")
    done = run("generate_blocking", conn_id=["photoroom_default", "picwish_default"])
    assert done["state"] == "failed"
    assert box.images_charged() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"destination": "s3://catalogue/../x-{index}.{ext}"},
        {"destination": "s3://catalogue/x.{ext}", "count": 2},
        {"destination": "/tmp/x-{index}.{ext}"},
        {"image": "s3://catalogue/missing.png"},
        {"prompt": "x" * 1025},
        {"count": 3},
        {"seed": 7},
        {"conn_id": "aws_default"},
    ],
)
def test_a_wrong_input_fails_before_anything_is_sent_or_written(run, box, s3, wrong, folder):
    done = run("generate_blocking", **wrong)
    assert (done["state"], done["tries"]) == ("failed", 1)
    assert box.requests == []
    assert records(s3, folder, "calls") == []
