"""A store that cannot do what paying once needs is refused before anything is spent."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_bgai.buying.store import check_store
from airflow_provider_bgai.exceptions import AuthenticationError
from airflow_provider_bgai.layout import Layout


def test_a_good_store_is_found_good_and_nothing_is_left_of_the_trial(storage, folder):
    check_store(storage, Layout(folder))
    assert [item.uri for item in storage.list(f"{folder}/")] == [f"{folder}/_bgai/store.json"]
    found = json.loads(storage.read(f"{folder}/_bgai/store.json"))
    assert (found["conditions"], abs(found["at"] - storage.now()) < 60) == (True, True)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"name": "no_conditions"}, "overwrites what If-None-Match protects"),
        ({"name": "conditions_501"}, "takes no conditional write: .*NotImplemented"),
        ({"name": "if_match_never"}, "takes no If-Match with the ETag it gave"),
    ],
)
def test_a_store_without_conditions_is_refused_and_told_what_to_use(bad, through_bad, folder, fault, words):
    bad.fault(**fault)
    with pytest.raises(AuthenticationError, match=f"{words}.*paid twice.*If-None-Match and If-Match, as Amazon S3"):
        check_store(through_bad, Layout(folder))


def test_a_store_that_honours_only_one_of_the_conditions_is_refused(bad, through_bad, folder, monkeypatch):
    put = through_bad.client.put_object
    monkeypatch.setattr(through_bad.client, "put_object", lambda IfMatch=None, **more: put(**more))
    with pytest.raises(AuthenticationError, match="overwrites what If-Match protects"):
        check_store(through_bad, Layout(folder))


@pytest.mark.parametrize("method", ["PUT", "GET", "LIST", "DELETE"])
@pytest.mark.parametrize("place", ["_bgai/incoming/", "_bgai/budget/", "_bgai/books/", "bgai-store-probe"])
def test_a_right_that_is_missing_for_one_prefix_is_named(bad, through_bad, folder, method, place):
    bad.fault("403", methods=method, key=f"/{place}")
    with pytest.raises(AuthenticationError, match=f"{place}.*cannot be used: .*'aws_default' needs the rights to put"):
        check_store(through_bad, Layout(folder))


def test_two_who_try_the_store_at_once_do_not_disturb_each_other(storage, folder):
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: check_store(storage, Layout(folder)), range(12)))
