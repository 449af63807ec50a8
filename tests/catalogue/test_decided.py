"""What people decide about pictures, and what the next night makes of it: bought, shown, booked."""

from __future__ import annotations

import pytest

from airflow_provider_bgai.buying.decisions import decide_about
from airflow_provider_bgai.catalogue.publishing.publish import read_outcomes
from airflow_provider_bgai.exceptions import InvalidRequestError
from tests.catalogue.nights import Catalogue, by_sku, photo

COMPARED = {"prompt": "{{ title }} on oak"}
"""A recipe under which what does not show the product goes to quarantine."""
SEEDS = {**COMPARED, "seed": {"policy": "fixed", "value": 7}}


def shop(catalogue: Catalogue) -> dict[str, bytes]:
    """What the shop shows."""
    listed = (it.uri for it in catalogue.storage.list(f"{catalogue.root}/"))
    keys = {uri: uri.removeprefix(f"{catalogue.root}/") for uri in listed}
    names = {uri: key for uri, key in keys.items() if "/" not in key and key.endswith(".png")}
    return {key.removesuffix(".png"): catalogue.storage.read(uri) for uri, key in names.items()}


def wish_of(catalogue: Catalogue, sku: str) -> str:
    """The fingerprint of a product's only wish."""
    (name,) = {call.fingerprint for call in catalogue.records() if call.sku == sku}
    return name


def spoil(catalogue: Catalogue, times: int = 1, vendor: str = "picwish") -> None:
    catalogue.box.fault(vendor, "redrawn_product", times=times, on="submit" if vendor == "photoroom" else "download")


@pytest.fixture
def quarantined(catalogue):
    """After a night: ``a`` is in the shop, and what was bought for ``b`` does not show it."""
    catalogue.add("a", photo("a"))
    catalogue.night(COMPARED)
    catalogue.add("b", photo("b"))
    spoil(catalogue)
    plan = catalogue.plan(COMPARED)
    catalogue.generate(plan)
    catalogue.publish(plan, max_failure_ratio=1.0)
    assert shop(catalogue).keys() == {"a"}
    return catalogue


@pytest.mark.parametrize("seen", [True, False])
def test_an_accepted_picture_is_published_by_the_next_night_and_costs_nothing(quarantined, seen):
    decide_about(quarantined.ledger, wish_of(quarantined, "b"), "accept", by="anna")
    if seen:  # else the plan does not know the wish before the shard has read its source
        quarantined.remember()
    plan, results = quarantined.night(COMPARED)
    assert plan.counts == ({"unchanged": 1, "failed_before": 1} if seen else {"unchanged": 1, "new": 1})
    assert (plan.calls, plan.collect) == ((0, 1) if seen else (1, 0))
    assert [(it.sku, it.outcome, it.price) for it in results] == [("b", "reused", 0)]
    (record,) = [call for call in quarantined.records() if call.sku == "b"]
    assert record.state == "quarantined"
    assert shop(quarantined)["b"] == quarantined.storage.read(quarantined.layout.absolute(record.quarantined[0].uri))
    for _ in range(2):
        plan, results = quarantined.night(COMPARED)
        assert (plan.counts, results) == ({"unchanged": 2}, [])
        assert shop(quarantined).keys() == {"a", "b"}
        outcomes = read_outcomes(quarantined.storage, quarantined.root, plan.run)
        assert {it.sku: it.outcome for it in outcomes} == {"a": "unchanged", "b": "unchanged"}
    assert quarantined.bounds() == {"picwish": (2, 0)}
    assert quarantined.box.bill()["picwish"] == 2


def test_who_asks_for_an_accepted_picture_by_its_sku_gets_it_and_buys_no_other(quarantined):
    decide_about(quarantined.ledger, wish_of(quarantined, "b"), "accept")
    _, results = quarantined.night(COMPARED, only=["b"])
    assert [it.outcome for it in results] == ["reused"]
    assert shop(quarantined).keys() == {"a", "b"}
    assert quarantined.box.bill()["picwish"] == 2


def test_an_accepted_picture_that_is_gone_from_quarantine_is_reported_and_not_bought_again(quarantined):
    decide_about(quarantined.ledger, wish_of(quarantined, "b"), "accept")
    (record,) = [call for call in quarantined.records() if call.sku == "b"]
    quarantined.storage.delete(quarantined.layout.absolute(record.quarantined[0].uri))
    plan = quarantined.plan(COMPARED)
    (result,) = quarantined.generate(plan)
    assert (result.outcome, result.price) == ("lost", 0)
    assert "_bgai/quarantine/" in result.error
    assert quarantined.box.bill()["picwish"] == 2


def test_a_rejected_picture_leaves_the_shop_with_the_next_night_and_no_other_is_bought(quarantined):
    quarantined.remember()
    name = wish_of(quarantined, "a")
    decide_about(quarantined.ledger, name, "reject", by="anna")
    for _ in range(2):  # b is in quarantine all the while
        plan = quarantined.plan(COMPARED)
        assert (plan.counts, plan.calls) == ({"rejected": 1, "quarantined": 1}, 0)
        published = quarantined.publish(plan, max_failure_ratio=1.0)
        assert published.outcomes == {"rejected": 1, "quarantined": 1}
        assert (published.failures, published.failure_ratio) == (1, 1.0), "what nobody wants is not expected"
        assert shop(quarantined) == {}
    outcomes = {it.sku: it for it in read_outcomes(quarantined.storage, quarantined.root, plan.run)}
    assert "bgai-ledger accept" in (outcomes["a"].error or "")
    decide_about(quarantined.ledger, name, "accept")
    quarantined.night(COMPARED, only=["a"])
    assert shop(quarantined).keys() == {"a"}
    assert quarantined.box.bill()["picwish"] == 2


def test_what_people_reject_does_not_look_like_somebody_who_deletes_pictures(catalogue):
    for sku in "abcd":
        catalogue.add(sku, photo(sku))
    catalogue.night()
    for sku in "abc":
        decide_about(catalogue.ledger, wish_of(catalogue, sku), "reject")
    plan, results = catalogue.night()
    assert (plan.counts, results) == ({"rejected": 3, "unchanged": 1}, [])
    assert shop(catalogue).keys() == {"d"}


@pytest.mark.parametrize("state", ["quarantined", "landed"])
def test_a_picture_is_bought_again_with_the_seed_that_a_person_chose_as_the_same_wish(catalogue, state):
    catalogue.add("a", photo("a"))
    if state == "quarantined":
        spoil(catalogue, vendor="photoroom")
    plan = catalogue.plan(SEEDS, ["photoroom"])
    catalogue.generate(plan, ["photoroom"])
    catalogue.publish(plan, max_failure_ratio=1.0)
    decide_about(catalogue.ledger, wish_of(catalogue, "a"), "buy", seed=99)
    before = shop(catalogue)
    plan, (result,) = catalogue.night(SEEDS, ["photoroom"])
    assert (plan.calls, result.outcome, result.seed) == (1, "bought", 99)
    assert [(call.number, call.seed, call.state) for call in catalogue.records()] == [(1, 7, state), (2, 99, "landed")]
    assert shop(catalogue) != before
    plan, results = catalogue.night(SEEDS, ["photoroom"])
    assert (plan.counts, results) == ({"unchanged": 1}, [])
    assert catalogue.bounds() == {"photoroom": (2, 0)}
    assert catalogue.box.bill()["photoroom"] == 2


def test_a_picture_is_bought_again_from_the_vendor_that_a_person_chose(quarantined):
    decide_about(quarantined.ledger, wish_of(quarantined, "b"), "buy", conn_id="photoroom_default")
    _, results = quarantined.night(COMPARED, ["picwish", "photoroom"])
    assert [(it.sku, it.outcome, it.vendor) for it in results] == [("b", "bought", "photoroom")]
    assert shop(quarantined).keys() == {"a", "b"}
    assert quarantined.night(COMPARED, ["picwish", "photoroom"])[0].counts == {"unchanged": 2}


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"conn_id": "katalis_default"}, "conn_id='katalis_default'.*from picwish_default"),
        ({"seed": 3}, "seed=3"),  # PicWish takes none
    ],
)
def test_a_choice_that_the_run_cannot_follow_is_refused_by_name_and_costs_nothing(quarantined, chosen, words):
    decide_about(quarantined.ledger, wish_of(quarantined, "b"), "buy", **chosen)
    plan = quarantined.plan(COMPARED)
    (result,) = quarantined.generate(plan)
    assert (result.outcome, result.price) == ("refused", 0)
    pytest.raises(InvalidRequestError, lambda: _raise(result.error)).match(words)
    assert quarantined.box.bill()["picwish"] == 2


def _raise(message: str | None) -> None:
    raise InvalidRequestError(message or "")


def test_a_chosen_seed_is_for_the_call_that_was_decided_about_and_for_no_later_one(catalogue):
    catalogue.add("a", photo("a"))
    spoil(catalogue, 2, vendor="photoroom")
    catalogue.generate(catalogue.plan(SEEDS, ["photoroom"]), ["photoroom"])
    decide_about(catalogue.ledger, wish_of(catalogue, "a"), "buy", seed=99)
    catalogue.generate(catalogue.plan(SEEDS, ["photoroom"]), ["photoroom"])
    catalogue.remember()
    plan = catalogue.plan(SEEDS, ["photoroom"])
    assert (plan.counts, by_sku(catalogue, plan)) == ({"quarantined": 1}, {})
    assert [(call.seed, call.state) for call in catalogue.records()] == [(7, "quarantined"), (99, "quarantined")]


# --- decided between making and publishing: publishing goes by it


@pytest.fixture
def made(catalogue):
    """A run that is made and not published: ``a`` landed, ``b`` in quarantine."""
    catalogue.add("a", photo("a"))
    plan = catalogue.plan(COMPARED)
    catalogue.generate(plan)
    catalogue.publish(plan)
    before = shop(catalogue)
    catalogue.add("a", photo("a, new"))
    catalogue.add("b", photo("b"))
    spoil(catalogue)
    plan = catalogue.plan(COMPARED, shard_size=1)
    results = {it.sku: it for it in catalogue.generate(plan)}
    (bad,) = [sku for sku, it in results.items() if it.outcome == "quarantined"]
    return catalogue, plan, before, results, bad


def test_what_is_accepted_before_a_run_publishes_is_published_with_it(made):
    catalogue, plan, _, results, bad = made
    decide_about(catalogue.ledger, results[bad].fingerprint, "accept")
    published = catalogue.publish(plan)
    assert (published.outcomes, published.failures) == ({"bought": 2}, 0)
    picture = results[bad].quarantined[0]
    assert shop(catalogue)[bad] == catalogue.storage.read(catalogue.layout.absolute(picture.uri))
    assert published.costs.charged == 2
    assert catalogue.box.bill()["picwish"] == 3


@pytest.mark.parametrize("what", ["reject", "buy"])
def test_what_is_rejected_before_a_run_publishes_is_not_published_and_the_shop_shows_what_it_did(made, what):
    catalogue, plan, before, results, bad = made
    good = "ab".replace(bad, "")
    decide_about(catalogue.ledger, results[good].fingerprint, what)
    published = catalogue.publish(plan, max_failure_ratio=1.0)
    assert published.outcomes == {"rejected": 1, "quarantined": 1}
    assert shop(catalogue) == before
    outcomes = {it.sku: it for it in read_outcomes(catalogue.storage, catalogue.root, plan.run)}
    assert (outcomes[good].reason, outcomes[good].price) == ("rejected", results[good].price)
    assert (published.unpublished, published.costs.charged) == (0, 2)


def test_what_was_in_quarantine_and_is_rejected_fails_no_run(made):
    catalogue, plan, _, results, bad = made
    decide_about(catalogue.ledger, results[bad].fingerprint, "reject")
    published = catalogue.publish(plan, max_failure_ratio=0.0)
    assert published.outcomes == {"bought": 1, "rejected": 1}
    catalogue.remember()
    assert catalogue.plan(COMPARED).counts == {"unchanged": 1, "rejected": 1}


def test_what_cannot_be_carried_out_stops_nobody_from_publishing(made):
    catalogue, plan, _, results, bad = made
    decide_about(catalogue.ledger, results[bad].fingerprint, "accept")
    catalogue.storage.delete(catalogue.layout.absolute(results[bad].quarantined[0].uri))
    published = catalogue.publish(plan, max_failure_ratio=1.0)
    assert published.outcomes == {"bought": 1, "quarantined": 1}
