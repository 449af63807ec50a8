"""What the logs say: counts that add up, prices that are not made nicer, and where to look."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.buying.record import Output
from airflow_provider_bgai.catalogue.planning.plan import PlanRecord, Refusal
from airflow_provider_bgai.catalogue.report.costs import cost_report, money
from airflow_provider_bgai.catalogue.report.story import (
    EXAMPLES,
    KINDS,
    ROWS,
    Tally,
    of_costs,
    of_error,
    of_plan,
    of_progress,
    of_result,
)
from airflow_provider_bgai.catalogue.results import WITH_PICTURES, Outcome, Result
from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    LostError,
    ModerationError,
    PublishError,
    QuotaError,
    UnknownOutcomeError,
)
from airflow_provider_bgai.imaging.fidelity import Verdict
from tests.buying.kept import call

OUTCOMES = get_args(Outcome)


def plan(**known) -> PlanRecord:
    given = {
        "uri": "s3://shop/_bgai/runs/r/plan.json",
        "run": "r",
        "counts": {"unchanged": 1200, "new": 3},
        "shards": ["s3://shop/_bgai/runs/r/shards/0000.jsonl"],
        "calls": 3,
        "pictures": 3,
        "price": Decimal("0.15"),
        "currency": "USD",
        "manifest": "s3://shop/products.csv",
        "destination": "s3://shop",
        "only": "changed",
        "created_at": 0.0,
        "recipe": "",
        "recipes": {},
        "vendor": "picwish",
        "planned": ["s3://shop/_bgai/runs/r/planned/0000.jsonl"],
        "refusals": [],
    }
    return PlanRecord.model_validate({**given, **known})


def picture(faithful: bool | None = None) -> Output:
    verdict = None if faithful is None else Verdict(faithful, () if faithful else ("altered",))
    return Output(uri="a.png", bytes=1, sha256="0" * 64, width=1, height=1, content_type="image/png", fidelity=verdict)


def test_a_plan_says_how_many_what_it_costs_and_where_it_stands():
    text = of_plan(plan(at_most=1, collect=2, changed={"prompt": 2}))
    assert text.splitlines() == [
        "1,203 product(s) in s3://shop/products.csv",
        "    1,200  unchanged",
        "        3  new",
        "changed: prompt 2",
        "to buy: 3 call(s), 3 picture(s), for 0.15 USD at most",
        "1 of these only if the source, which looks new, holds something new",
        "to collect: 2 picture(s) that are paid for already",
        "plan: s3://shop/_bgai/runs/r/plan.json",
    ]


def test_a_plan_names_the_first_refusals_with_their_reasons_and_where_the_others_are():
    refused = [Refusal(sku=f"S-{n}", reason=f"row {n}: no title") for n in range(9)]
    counts = {"refused": 9, "held": 1}
    lines = of_plan(plan(counts=counts, calls=0, price=Decimal(0), refusals=refused)).splitlines()
    lines.remove("        1  held")
    assert lines[2] == "to buy: nothing"
    assert lines[3:8] == [f"refused: S-{n}: row {n}: no title" for n in range(EXAMPLES)]
    assert lines[8:10] == ["refused: 4 more, each with its reason in s3://shop/_bgai/runs/r/planned/", "what to do:"]
    assert lines[10].startswith("  refused: change the row")
    assert "bgai-ledger release s3://shop --sku SKU" in lines[11]
    assert lines[12:] == ["plan: s3://shop/_bgai/runs/r/plan.json"]


def test_a_price_that_nobody_has_named_is_not_nought():
    assert "3 picture(s), at a price nobody has named" in of_plan(plan(price=None))
    assert of_result(Result(sku="a", outcome="lost", price=None, error="gone")) == "a: lost, price unknown: gone"


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (
            Result(sku="a", outcome="bought", conn_id="c", price=Decimal("0.05"), seconds=3.1, images=(picture(True),)),
            "a: bought from c for 0.05 USD in 3.1 s, shows the product",
        ),
        (
            Result(sku="a", outcome="bought", conn_id="c", price=None, images=(picture(),), warnings=("small",)),
            "a: bought from c for price unknown, not compared with the product; small",
        ),
        (
            Result(sku="a", outcome="bought", conn_id="c", images=(picture(True), picture(False))),
            "a: bought from c for nothing paid, does not show the product",
        ),
        (Result(sku="a", outcome="reused", images=(picture(True),)), "a: reused, shows the product"),
        (
            Result(sku="a", outcome="held", reason="unknown", price=Decimal("0.05"), error="no answer"),
            "a: held (unknown), perhaps 0.05 USD: no answer",
        ),
        (
            Result(sku="a", outcome="quarantined", reason="quarantined", price=Decimal("0.05"), error="altered"),
            "a: quarantined, 0.05 USD: altered",
        ),
        (Result(sku="a", outcome="refused", reason="refused", error="no"), "a: refused, nothing paid: no"),
    ],
)
def test_a_product_is_told_in_one_line(result, line):
    assert of_result(result) == line


@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.sampled_from([None, "refused", "store", "odd"]))))
def test_a_tally_counts_each_product_once_and_names_some_of_each_kind(ends):
    results = [
        Result(sku=f"S-{place}", outcome=outcome, reason=reason, error="why")
        for place, (outcome, reason) in enumerate(ends)
    ]
    tally = Tally()
    tally.add(results)
    rows = [line.split(maxsplit=2) for line in str(tally).splitlines()]
    assert len(rows) <= ROWS
    assert sum(int(row[0]) for row in rows) == len(results)
    counted = Counter(outcome for outcome, _ in ends)
    assert tally.short() == ", ".join(f"{counted[it]} {it}" for it in sorted(counted, key=_order))
    bad = [it for it in results if it.outcome not in WITH_PICTURES]
    kinds = {(it.outcome, it.reason or "") for it in results if it.outcome not in WITH_PICTURES}
    assert str(tally).count("why") == len(kinds) or "other reasons: S-" in str(tally)
    assert not bad or "what to do:" in tally.told("s3://shop")


def _order(outcome: str) -> int:
    return [*WITH_PICTURES, "over_budget", "rejected", "refused", "held", "quarantined", "lost", "failed"].index(
        outcome
    )


def test_a_tally_of_many_names_a_few_and_says_that_there_are_more():
    tally = Tally()
    tally.add(Result(sku=f"S-{n}", outcome="failed", reason="vendor_fault", error=f"error {n}") for n in range(1500))
    tally.add_unchanged(98_500)
    assert str(tally).splitlines() == [
        "   98,500  unchanged",
        "    1,500  failed (vendor_fault): S-0: error 0; and S-1, S-2, S-3, S-4, …",
    ]


def test_reasons_are_told_apart_by_their_messages_and_not_by_the_names_in_them():
    tally = Tally()
    messages = [f"row {n}, sku='S-{n}': no title" for n in range(7)] + ["row 8: image='x.png': not found"]
    tally.add(Result(sku=f"S-{n}", outcome="refused", reason="refused", error=it) for n, it in enumerate(messages))
    assert str(tally).splitlines() == [
        "        7  refused: S-0: row 0, sku='S-0': no title; and S-1, S-2, S-3, S-4, …",
        "        1  refused: S-7: row 8: image='x.png': not found",
    ]


def test_a_long_tally_keeps_a_row_of_everything_that_happened_and_names_the_rest():
    tally = Tally()
    words = ("title", "image", "price", "colour", "size", "link", "name", "category", "seed", "count", "scene", "key")
    for word in words:
        tally.add(Result(sku=f"{word}-{n}", outcome="refused", reason="refused", error=f"no {word}") for n in range(9))
    tally.add([Result(sku="L", outcome="lost", reason="lost", error="it is gone")])
    rows = str(tally).splitlines()
    assert len(rows) == ROWS
    assert "        1  lost: L: it is gone" in rows
    assert rows[-1].startswith("       27  more, for 3 other reasons: ")
    tally.add(Result(sku="x", outcome="failed", reason="fault", error="x" * (n + 1)) for n in range(2 * KINDS))
    assert len(tally.kinds) == KINDS + 1
    assert tally.short() == f"108 refused, 1 lost, {2 * KINDS} failed"


def test_what_is_to_be_done_is_said_once_for_all_that_need_it():
    tally = Tally()
    tally.add(
        Result.model_validate({"sku": f"{outcome}-{reason}", "outcome": outcome, "reason": reason, "error": "why"})
        for outcome, reason in (
            *(("bought", None), ("refused", "refused"), ("refused", "moderation"), ("held", "unknown")),
            *(("held", "store"), ("lost", "lost"), ("failed", "fault"), ("failed", "quota"), ("failed", "given_up")),
        )
    )
    *_, head, refused, held, again, account, given_up = tally.told("s3://shop").splitlines()
    assert head == "what to do:"
    assert refused.startswith("  refused, refused (moderation): change the row")
    assert held.startswith("  held (unknown): look at the vendor's bill")
    assert "bgai-ledger release s3://shop --sku held-unknown" in held
    assert again.startswith("  held (store), lost, failed (fault): nothing: the next run")
    assert account.startswith("  failed (quota): see to the account")
    assert "bgai-ledger buy s3://shop --sku failed-given_up" in given_up
    good = Tally()
    good.add([Result(sku="a", outcome="bought")])
    assert good.told("s3://shop") == str(good) == "        1  bought"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModerationError("no"), "no. This task has paid nothing. What to do: change"),
        (QuotaError("empty"), "empty. This task has paid nothing. What to do: see to the account"),
        (LostError("gone."), "gone. It is paid for. What to do: run it again"),
        (UnknownOutcomeError("held"), "held"),
        (AuthenticationError("401", task_id="t"), "401. It is paid for. What to do: see to the account"),
        (PublishError("no"), "no"),
    ],
)
def test_what_ends_a_task_says_what_it_cost_and_what_to_do(error, words):
    assert of_error(error).startswith(words)


def test_progress_says_what_has_ended_what_is_left_and_what_it_cost():
    tally = Tally()
    tally.add([Result(sku="a", outcome="bought"), Result(sku="b", outcome="failed", error="x")])
    costs = cost_report([call(1), call(2, "answered")]).total
    assert of_progress(tally, left=1000, each=0.5, costs=costs) == (
        "1 bought, 1 failed; 1,000 picture(s) to go, about 500 s; "
        "paid: 0.07 USD for 1 picture(s); perhaps 0.07 USD for 1 more"
    )
    nothing = "nothing has ended yet; 3 picture(s) to go; paid: 0 for 0 picture(s)"
    assert of_progress(Tally(), left=3, each=None, costs=cost_report([]).total) == nothing


def test_costs_keep_what_is_certain_from_what_is_not():
    total = cost_report([call(1), call(2, price=None, pictures=2), call(3, "unknown", pictures=4)]).total
    assert of_costs(total) == (
        "paid: 0.07 USD for 3 picture(s), 2 of them at an unknown price; perhaps 0.07 USD for 4 more"
    )
    assert of_costs(cost_report([]).total) == "paid: 0 for 0 picture(s)"
    assert money({"USD": Decimal("1E+1")}) == "10 USD"
