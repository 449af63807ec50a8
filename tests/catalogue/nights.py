"""A catalogue and its nights: planned, generated and published by the real parts, with real hooks, without Airflow."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from PIL import Image

from airflow_provider_bgai.buying.books import book, bounds
from airflow_provider_bgai.buying.buyer import Buyer
from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.payment import Purse
from airflow_provider_bgai.buying.purchase import open_wish
from airflow_provider_bgai.buying.record import Call, Output
from airflow_provider_bgai.catalogue.planning.plan import Plan, PlanRecord, read_plan
from airflow_provider_bgai.catalogue.planning.planner import make_plan
from airflow_provider_bgai.catalogue.publishing.publish import Published, publish
from airflow_provider_bgai.catalogue.results import Result, Wanted
from airflow_provider_bgai.catalogue.shard import Progress, Shard, generate, give_up
from airflow_provider_bgai.catalogue.state import SkuState, read_state, write_state
from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.layout import Layout, PictureName, run_of
from airflow_provider_bgai.lines import dump_lines, stream_lines
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.sandbox import Sandbox
from airflow_provider_bgai.sources import hint_of
from airflow_provider_bgai.storage import Storage
from tests.conftest import PRODUCT

RECIPE: dict[str, Any] = {"prompt": "{{ title }} on oak", "fidelity": False}
"""Without looking whether the product is in the picture, which takes most of a purchase's time here."""


@cache
def photo(text: str) -> bytes:
    """A small cut-out, another one for another text."""
    with Image.open(PRODUCT) as picture:
        small = picture.convert("RGBA").resize((320, 320))
    shade = hashlib.sha256(text.encode()).digest()[:3]
    small.putpixel((0, 0), (*shade, 0))
    file = io.BytesIO()
    small.save(file, "PNG")
    return file.getvalue()


@dataclass
class Catalogue:
    """Below one prefix of S3: product list, photos, ledger, runs.

    :param storage: whose every request goes through; another one (a bad one) may be set.
    """

    storage: Storage
    root: str
    box: Sandbox
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: int = 0

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.storage, self.root)

    # --- what there is

    def add(self, sku: str, data: bytes | None = None, **columns: Any) -> str:
        """A product, and its photo where there are bytes of one; the photo's URI."""
        name = f"images/{sku}.png"
        if data is not None:
            self.storage.put(f"{self.root}/{name}", data)
        self.rows[sku] = {"sku": sku, "image": name, "title": f"Title of {sku}", **columns}
        return f"{self.root}/{name}"

    def remember(self) -> None:
        """As if all photos had been seen before, so that the plan knows their contents; nothing is published."""
        states = {state.sku: state for state in read_state(self.storage, self.root)}
        for item in list(self.storage.list(f"{self.root}/images/")):
            sha, hint = hashlib.sha256(self.storage.read(item.uri)).hexdigest(), hint_of(item.uri, item.hint)
            known = states.get(item.uri) or SkuState(sku=item.uri, fingerprint="")
            states[item.uri] = known.model_copy(update={"source": sha, "hint": hint})
        write_state(self.storage, self.root, states.values())

    def moved_to(self, root: str) -> Catalogue:
        """The catalogue, copied with its ledger to another place; the old one is gone then."""
        copied = [item.uri for item in self.storage.list(f"{self.root}/")]
        for uri in copied:
            self.storage.copy(uri, f"{root}/{self.layout.relative(uri)}")
        self.storage.delete_all(copied)
        return Catalogue(self.storage, root, self.box, self.rows, self.runs)

    def records(self) -> list[Call]:
        """All calls there are."""
        names = {item.uri.rpartition("/")[2].partition(".")[0] for item in self.storage.list(self.layout.calls())}
        return [call for name in sorted(names) for call in self.ledger.all(name)]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Pictures paid for certain and perhaps, by vendor, as the books and what is open say."""
        return bounds(self.ledger)

    # --- planning

    def hooks(self, *vendors: str) -> list[BackgroundHook]:
        hooks = []
        for vendor in vendors or ("picwish",):
            hook = get_hook(f"{vendor}_default", staging=self.layout.staged)
            hook.storage = self.storage
            _ = hook.settings
            hooks.append(hook)
        return hooks

    def plan(self, recipe: Any = RECIPE, vendors: Sequence[str] = (), **more: Any) -> Plan:
        self.runs += 1
        manifest = f"{self.root}/products.jsonl"
        self.storage.put(manifest, "\n".join(json.dumps(row) for row in self.rows.values()).encode())
        known: dict[str, Any] = {"run": f"run-{self.runs}", "manifest": manifest, "destination": self.root}
        known |= {"storage": self.storage}
        return make_plan(recipe=recipe, hooks=self.hooks(*vendors), **(known | more))

    def record(self, plan: Plan) -> PlanRecord:
        return read_plan(self.storage, plan.uri)

    def wanted(self, plan: Plan) -> list[Wanted]:
        return [it for uri in plan.shards for it in stream_lines(self.storage, uri, Wanted)]

    def planned(self, plan: Plan) -> dict[str, Result]:
        uris = self.record(plan).planned
        return {it.sku: it for uri in uris for it in stream_lines(self.storage, uri, Result)}

    def said(self, plan: Plan) -> dict[str, str]:
        """What the plan says of each SKU that it accounts for: the status in its shard, or its outcome."""
        in_shards: dict[str, str] = {sku: it.status for it in self.wanted(plan) for sku in it.skus}
        return {sku: it.outcome for sku, it in self.planned(plan).items()} | in_shards

    # --- generating and publishing

    def buyer(self, run: str, owner: str, *vendors: str, purse: Purse | None = None, shards: int = 1) -> Buyer:
        return Buyer(self.hooks(*vendors), self.ledger, run=run, owner=owner, purse=purse, shards=shards)

    def generate(self, plan: Plan, vendors: Sequence[str] = (), **options: Any) -> list[Result]:
        """Each shard, as its task does it: generated, booked, and its results written."""
        results: list[Result] = []
        for uri in plan.shards:
            items = list(stream_lines(self.storage, uri, Wanted))
            buyer = self.buyer(plan.run, f"{plan.run}/{uri.rpartition('/')[2]}", *vendors)
            shard = Shard(buyer, finishing=self.record(plan).finishing, policy=PollPolicy(interval=0.1), **options)
            part = list(give_up(items, run_shard(shard, items), plan.run))
            self.storage.put(run_of(uri).results_of(uri), dump_lines(part))
            results += part
        return results

    def publish(self, plan: Plan, **options: Any) -> Published:
        return publish(self.storage, self.root, plan.run, **options)

    def night(self, recipe: Any = RECIPE, vendors: Sequence[str] = (), **more: Any) -> tuple[Plan, list[Result]]:
        """Planned, generated, published."""
        plan = self.plan(recipe, vendors, **more)
        results = self.generate(plan, vendors)
        self.publish(plan)
        return plan, results

    def land(self, plan: Plan, *skus: str, vendors: Sequence[str] = ()) -> dict[str, Call]:
        """What a night without accidents leaves behind of a plan (or of some of its SKUs), without a vendor: records,
        tiny pictures, the state. By SKU."""
        record, landed = self.record(plan), {}
        states = {state.sku: state for state in read_state(self.storage, self.root)}
        for item in self.wanted(plan):
            if skus and item.skus[0] not in skus:
                continue
            call, hint = self.call(item, vendors, state="landed")
            for sku in item.skus:
                landed[sku] = call
                result = Result(
                    sku=sku,
                    outcome="bought",
                    category=item.category,
                    fingerprint=call.fingerprint,
                    source=call.source_sha256,
                    hint=hint,
                    prompt_sha256=call.prompt_sha256,
                )
                states[sku] = record.state_of(result)
        write_state(self.storage, self.root, states.values())
        return landed

    def call(self, item: Wanted, vendors: Sequence[str] = (), **fields: Any) -> tuple[Call, str | None]:
        """Write the record of a call for a wish, with its pictures where it has landed; and its source's hint."""
        from airflow_provider_bgai.buying.purchase import Wish, prompt_sha256

        wish = Wish(item.background_request())
        purchase = asyncio.run(open_wish(wish, self.hooks(*vendors), self.storage))
        now = self.storage.now()
        known: dict[str, Any] = {
            "call_id": hashlib.sha256(f"{purchase.fingerprint} {fields}".encode()).hexdigest()[:32],
            "fingerprint": purchase.fingerprint,
            "number": 1,
            "run": "earlier",
            "owner": "earlier/0000",
            "conn_id": "picwish_default",
            "vendor": "picwish",
            "price": "0.03",
            "sent_at": now - 100_000,
            "answer_by": now - 99_900,
            "source_sha256": purchase.source.sha256,
            "prompt_sha256": prompt_sha256(wish.request.prompt),
        }
        call = Call(**(known | fields))
        if call.state == "landed" and not call.images:
            count = wish.request.count
            uris = [
                self.layout.picture(PictureName(call.fingerprint, call.number, index, count), "0" * 64, "png")
                for index in range(1, count + 1)
            ]
            for uri in uris:
                self.storage.put(uri, b"1")
            like: dict[str, Any] = {"bytes": 1, "sha256": "0" * 64, "width": 1, "height": 1}
            images = tuple(Output(uri=self.layout.relative(uri), content_type="image/png", **like) for uri in uris)
            call = call.model_copy(update={"images": images})
        self.storage.put(self.layout.call(call.fingerprint, call.number), call.body())
        return call, purchase.source.hint


def by_sku(catalogue: Catalogue, plan: Plan) -> dict[str, Wanted]:
    """What a plan wants, by the first SKU that wants it."""
    return {it.skus[0]: it for it in catalogue.wanted(plan)}


def counted(results: Iterable[Result]) -> dict[str, int]:
    """How many results there are of each outcome."""
    return dict(Counter(it.outcome for it in results))


def run_shard(shard: Shard, items: Iterable[Wanted], patience: float | None = 30.0, **how: Any) -> Progress:
    """A pass over a shard in an event loop of its own, and its calls booked, as a task does it."""

    async def work() -> Progress:
        try:
            return await generate(shard, list(items), patience=patience, **how)
        finally:
            await asyncio.to_thread(book, shard.buyer.ledger, shard.buyer.run, shard.buyer.ended.values())
            await shard.buyer.aclose()

    return asyncio.run(work())
