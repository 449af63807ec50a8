"""A plan reads no photo: how it looks from outside tells which one it is; one that cannot be seen stops no other."""

from __future__ import annotations

import json

import pytest

from airflow_provider_bgai.catalogue.planning.images import FEW_IN_FOLDER
from airflow_provider_bgai.storage import Storage


@pytest.mark.parametrize("count", [5, FEW_IN_FOLDER + 5])
def test_few_and_many_are_found_alike(catalogue, count):
    """The photos of a folder are asked for one by one, or the folder is listed."""
    for number in range(count):
        catalogue.add(f"p{number:03}", b"%d" % number if number else None)
    catalogue.remember()
    first = catalogue.plan()
    assert (first.counts, first.at_most) == ({"refused": 1, "new": count - 1}, 0)
    assert "there is no such object in S3" in catalogue.planned(first)["p000"].error
    wanted = catalogue.wanted(first)
    catalogue.land(first, *(it.skus[0] for it in wanted[1:]))
    second = catalogue.plan()
    assert second.counts == {"refused": 1, "unchanged": count - 2, "new": 1}
    assert [it.fingerprint for it in catalogue.wanted(second)] == [wanted[0].fingerprint]
    selected = catalogue.plan(only=[it.skus[0] for it in wanted])
    assert selected.counts == {"not_selected": 1, "unchanged": count - 2, "new": 1}


def test_a_local_list_may_name_local_files_and_is_told_which_are_missing(three, tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    rows = [{"sku": "a", "image": "a.png", "title": "a"}, {"sku": "gone", "image": "/no/such/file.png", "title": "x"}]
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plan = three.plan(manifest=str(tmp_path / "products.jsonl"))
    assert (plan.counts, plan.at_most) == ({"new": 1, "refused": 1}, 0)  # it was read: its content is known
    assert "cannot be read: No such file" in three.planned(plan)["gone"].error


def test_a_photo_that_s3_does_not_show_for_now_stops_no_other(bad, three):
    three.land(three.plan())
    three.storage = Storage()
    bad.fault("403", methods="HEAD", key="images/b.png")
    plan = three.plan()
    assert (plan.counts, plan.calls, plan.at_most) == ({"unchanged": 2, "changed": 1}, 1, 1)


def test_photos_are_read_by_nobody_who_plans(bad, three):
    three.storage = Storage()
    three.land(three.plan())
    bad.reset()
    three.plan()
    assert [seen for seen in bad.requests() if seen.method == "GET" and "/images/" in seen.key] == []
