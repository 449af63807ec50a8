"""Makes a plan: from the manifest, the recipe and what earlier runs left in S3 to shards, without spending a cent.

100,000 products have to be planned in seconds and in little memory, so images, calls and pictures are listed, not asked
for one by one; rows stream twice through the file; what is kept of a row is its spooled line's place.
"""

from __future__ import annotations

import gc
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

from airflow_provider_bgai.buying.books import book, walk
from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decision import Asks, OnUnknownOutcome
from airflow_provider_bgai.buying.purchase import prompt_sha256
from airflow_provider_bgai.buying.store import check_store
from airflow_provider_bgai.catalogue.manifest import Manifest, Product, RefusedRow, open_manifest
from airflow_provider_bgai.catalogue.planning.choosing import LEFT_OUT, Candidates
from airflow_provider_bgai.catalogue.planning.images import Images, digest
from airflow_provider_bgai.catalogue.planning.naming import NamedWish, Names
from airflow_provider_bgai.catalogue.planning.plan import PlanRecord, Refusal
from airflow_provider_bgai.catalogue.planning.tried import Tried
from airflow_provider_bgai.catalogue.recipe import Recipe, load_recipe
from airflow_provider_bgai.catalogue.results import canonical, left_out_line, refused_line, unchanged_line
from airflow_provider_bgai.catalogue.state import SkuState, read_state
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.layout import Run
from airflow_provider_bgai.lines import LineFiles
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.sources import shown
from airflow_provider_bgai.storage import Storage, split_uri

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook

T = TypeVar("T")

Only = Literal["changed", "all", "failed"] | str | Sequence[str]

THREADS = 10
"""As many as boto3 keeps connections."""
CHUNK = 1000
PLANNED_LINES = 10_000
REFUSALS = 100


def make_plan(
    *,
    manifest: str,
    recipe: str | Mapping[str, Any],
    destination: str,
    hooks: Sequence[BackgroundHook],
    storage: Storage,
    run: str,
    only: Only = "changed",
    limit: int | None = None,
    shard_size: int = 100,
    max_shards: int = 1000,
    budget_left: Callable[[], tuple[int | None, Decimal | None]] | None = None,
    on_unknown_outcome: OnUnknownOutcome = "hold",
) -> PlanRecord:
    """Plan a run, and write ``plan.json``, ``shards/`` and ``planned/`` below ``<destination>/_bgai/runs/<run>``.

    The store is tried before anything else, and calls that earlier runs left open go into the books.

    :param hooks: in order of preference: the first that takes a request is part of the wish, any may serve.
    :param only: ``"changed"``: what is not landed. ``"all"``: everything; what is landed is checked and put in its
        place again, never bought again. ``"failed"``: what failed before or waits to be collected. A list of SKUs, or
        text with one a line: those of them that are not landed, whatever became of them before; without any, nothing.
    :param limit: at most so many wanted pictures, highest priority first. What is paid for already is collected
        beyond it.
    :param shard_size: wanted products in a shard; grows where there would be more than ``max_shards``.
    :param budget_left: tells the pictures and the money that may still be spent; None for no cap.
    :param on_unknown_outcome: with ``"resubmit"``, held products are wanted too.
    :raises ManifestError, RecipeError: if a file as a whole cannot be used.
    :raises AuthenticationError: if the store cannot do what paying once needs.
    :raises InvalidRequestError: if records or pictures are gone in masses, a parameter is wrong, or not one product
        can be made.
    """
    if not hooks:
        raise InvalidRequestError("hooks=[]: there is no connection to buy from")
    if shard_size < 1 or max_shards < 1:
        raise InvalidRequestError(f"shard_size={shard_size!r}, max_shards={max_shards!r}: must be 1 or more")
    if limit is not None and limit < 0:
        raise InvalidRequestError(f"limit={limit!r}: must be 0 or more")
    if not isinstance(only, str) or "\n" in only:
        skus = only.splitlines() if isinstance(only, str) else only
        only = [sku for each in skus if (sku := each.strip())]
    elif only not in ("changed", "all", "failed"):
        raise InvalidRequestError(f"only={only!r}: must be 'changed', 'all', 'failed' or a list of SKUs")
    ledger = Ledger(storage, destination)
    layout, folder = ledger.layout, ledger.layout.run(run)
    split_uri(folder.plan)
    loaded = load_recipe(recipe, storage)
    check_store(storage, layout)
    book(ledger, run, walk(ledger).ended)
    # What went to quarantine or was given up is bought again only by who asks for it.
    asks = Asks(on_unknown_outcome, again=only not in ("changed", "all"))
    pictures, money = budget_left() if budget_left is not None else (None, None)
    with (
        open_manifest(manifest, storage, allow_private_hosts=hooks[0].settings.allow_private_hosts) as rows,
        tempfile.TemporaryFile() as spool,
        ThreadPoolExecutor(THREADS, "bgai-plan") as pool,
        _no_cycles(),
    ):
        asked = only if isinstance(only, str) else frozenset(only)
        planner = _Planner(loaded, ledger, folder, hooks, pool, spool, asked)
        planner.survey(rows)
        planner.walk(rows)
        planner.found.look_back(planner.tried, asks)
        choice = planner.found.choose(failed_only=only == "failed", limit=limit, pictures=pictures, money=money)
        shards = planner.write(choice.places, max(shard_size, math.ceil(len(choice.places) / max_shards)), asks.again)
    record = PlanRecord(
        uri=folder.plan,
        run=run,
        counts=dict(planner.counts),
        changed=dict(planner.changed),
        shards=shards,
        calls=choice.calls,
        pictures=choice.pictures,
        at_most=choice.at_most,
        collect=choice.collect,
        price=choice.price,
        currency=hooks[0].settings.currency,
        manifest=shown(manifest),
        destination=layout.root,
        only=only if isinstance(only, str) else sorted(only)[:REFUSALS],
        created_at=storage.now(),
        recipe=loaded.digest,
        recipes={name: loaded.digest_of(name) for name in ("", *loaded.categories)},
        finishing={name: loaded.finishing_of(name) for name in ("", *loaded.categories)},
        vendor=planner.vendor,
        planned=planner.planned.uris,
        refusals=planner.refusals,
        feed_url=loaded.feed.url if loaded.feed is not None else None,
    )
    storage.put(record.uri, record.model_dump_json(indent=1).encode(), content_type="application/json")
    return record


class _Planner:
    """The two passes over the manifest, and what comes of them.

    :param spool: where the lines of candidates are put.
    """

    def __init__(
        self,
        recipe: Recipe,
        ledger: Ledger,
        folder: Run,
        hooks: Sequence[BackgroundHook],
        pool: ThreadPoolExecutor,
        spool: IO[bytes],
        only: str | frozenset[str],
    ) -> None:
        self.recipe, self.ledger, self.folder, self.pool, self.only = recipe, ledger, folder, pool, only
        self.storage = ledger.storage
        model = hooks[0].model(BackgroundRequest("image"))
        self.vendor = f"{hooks[0].vendor}/{model}" if model else hooks[0].vendor
        # The contents that images had when they looked so; and how published files of a SKU were finished.
        self.seen: dict[bytes, bytes] = {}
        self.finished: set[bytes] = set()
        allow = hooks[0].settings.allow_private_hosts
        self.images = Images(self.storage, pool, self.seen, allow_private_hosts=allow)
        self.names = Names(recipe, hooks, self.storage, self.images)
        self.tried = Tried(ledger, pool)
        self.found = Candidates(spool, hooks)
        self.finishing = {name: recipe.finishing_of(name).digest for name in ("", *recipe.categories)}
        self.planned = LineFiles(self.storage, folder.planned, PLANNED_LINES)
        self.refusals: list[Refusal] = []
        self.counts: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()

    # First pass: which images there will be, and what is there already

    def survey(self, rows: Manifest) -> None:
        """List what is there: images, calls, pictures; and recall what the images were when they looked so before."""
        for sku, image in rows.images():
            if self._selected(sku):
                self.images.expect(image)
        published = list(self._published())
        images = self.pool.submit(self.images.survey)  # meanwhile, as both wait for S3
        if isinstance(self.only, str):
            self.tried.survey()
            self.tried.check_published(published)
        images.result()

    def _selected(self, sku: str) -> bool:
        return isinstance(self.only, str) or sku in self.only

    def _published(self) -> Iterator[bytes]:
        """The fingerprints of what is published; notes what else is known of it."""
        finishes = any(self.finishing.values())
        for state in read_state(self.storage, self.ledger.layout.root):
            if state.hint and state.source:
                self.seen[digest(state.hint)] = bytes.fromhex(state.source)
            if finishes:
                self.finished.add(digest(f"{state.sku} {state.fingerprint} {state.finishing}"))
            if state.fingerprint:
                yield bytes.fromhex(state.fingerprint)

    # Second pass: what each product wants, and whether it is landed

    def walk(self, rows: Manifest) -> None:
        """Write down refused and unchanged products; the others are candidates."""
        seen: set[str] = set()
        for chunk in _chunks(rows, CHUNK):
            selected = []
            for row in chunk:
                if not self._selected(row.sku or ""):
                    self.counts["not_selected"] += 1
                    continue
                if isinstance(self.only, frozenset):
                    seen.add(row.sku or "")
                if isinstance(row, RefusedRow):
                    self._refuse(row.sku or f"(row {row.row})", row.message)
                else:
                    selected.append(row)
            named = self.names.of(selected, self._refuse_product)
            known = [it.name for it in named if it.known]
            numbers = dict(zip(known, self.tried.numbers(known), strict=True))
            for wish in named:
                number, landed = numbers[wish.name] if wish.known else (-1, False)
                self._place(wish, number, landed=landed)
        if isinstance(self.only, frozenset):
            for sku in sorted(self.only - seen):
                self._refuse(sku, f"{rows.uri}: there is no such SKU")
        self._insist_on_some(rows.uri)

    def _insist_on_some(self, manifest: str) -> None:
        """Nothing is planned where nothing can be made: the recipe is wrong then, or the list, and not the products."""
        if (refused := self.counts["refused"]) and not self.counts["unchanged"] and not len(self.found):
            first = self.refusals[0]
            which = f"All {refused:,} products are" if refused > 1 else "The only product is"
            raise InvalidRequestError(
                f"{manifest}: {which} refused, so nothing is planned. The first, SKU {first.sku!r}: {first.reason}"
            )

    def _place(self, wish: NamedWish, number: int, *, landed: bool) -> None:
        line: dict[str, Any] = {
            "sku": wish.product.sku,
            "name": wish.key,
            "category": wish.category,
            "fingerprint": wish.name.hex() if wish.known else None,
            "source": wish.source and wish.source.hex(),
            "prompt_sha256": prompt_sha256(wish.request.prompt),
        }
        if wish.words:
            line["words"] = wish.words
        if landed and self.only != "all" and not self._to_finish(wish.product.sku, wish.category, wish.name):
            self.counts["unchanged"] += 1
            self.planned.add(unchanged_line(line))
        else:
            self.found.add(wish, {**line, "request": wish.request.asked()}, number, landed=landed)

    def _to_finish(self, sku: str, category: str, name: bytes) -> bool:
        """Whether published files are to be made anew of what has landed. Costs nothing."""
        asked = self.finishing.get(category, self.finishing[""])
        return bool(asked) and self.only != "failed" and digest(f"{sku} {name.hex()} {asked}") not in self.finished

    def _refuse_product(self, product: Product, key: str, reason: str) -> None:
        self._refuse(product.sku, reason, key, product.fields.get(self.recipe.category, "").strip())

    def _refuse(self, sku: str, reason: str, key: str = "", category: str = "") -> None:
        self.counts["refused"] += 1
        if len(self.refusals) < REFUSALS:
            self.refusals.append(Refusal(sku=sku, reason=reason))
        self.planned.add(refused_line(sku, key, category, reason))

    # Writing

    def write(self, chosen: Sequence[int], size: int, again: bool) -> list[str]:
        """Shards of the chosen candidates, and results of the others; the URIs of the shards.

        :param size: wanted pictures in a shard.
        :param again: whether they are asked for by their SKUs or as failed.
        """
        found = self.found
        known = read_state(self.storage, self.ledger.layout.root, found.skus) if found.skus else ()
        states = {it.sku: it for it in known}
        shards = LineFiles(self.storage, self.folder.shards, size, pool=self.pool)
        for place in chosen:
            line = found.line(place)
            products = found.products(place, line)
            ends = [self._status(place, line, it.sku, states.get(it.sku)) for it in products]
            for status, changed in ends:
                self.counts[status] += 1
                self.changed.update(changed)
            status, changed = ends[0]
            wanted = {
                "fingerprint": line["fingerprint"],
                "skus": [it.sku for it in products],
                "names": [it.key for it in products],
                "words": [it.words for it in products] if any(it.words for it in products) else [],
                "category": line["category"],
                "request": line["request"],
                "status": status,
                "again": again,
                "changed": changed,
                "priority": found.priorities[place],
            }
            shards.add(canonical(wanted))
        taken = set(chosen)
        for place in range(len(found)):
            if place not in taken:
                self._leave_out(place)
        self.planned.close()
        return shards.close()

    def _status(
        self, place: int, line: Mapping[str, Any], sku: str, before: SkuState | None
    ) -> tuple[str, tuple[str, ...]]:
        """What the plan says of a SKU of a chosen candidate, and what changed."""
        said = self.found.said.get(place)
        if said == "landed":
            return "unchanged", ("finishing",) if self._to_finish(
                sku, line["category"], bytes.fromhex(line["fingerprint"])
            ) else ()
        failed = said in ("failed", "collect")
        if before is None:
            return "failed_before" if failed else "new", ()
        pairs = {
            "source": (before.source, line["source"]),
            "prompt": (before.prompt_sha256, line["prompt_sha256"]),
            "recipe": (before.recipe, self.recipe.digest_of(line["category"])),
            "vendor": (before.vendor, self.vendor),
        }
        changed = tuple(name for name, (then, now) in pairs.items() if then != now)
        return "failed_before" if failed else "changed", changed

    def _leave_out(self, place: int) -> None:
        """A result for each SKU of a candidate that is in no shard."""
        line, said, problem = self.found.line(place), self.found.said.get(place, ""), self.found.problems.get(place)
        products = self.found.products(place, line)
        if said not in LEFT_OUT and problem is None:
            self.counts["not_selected"] += len(products)
            return
        outcome, reason = LEFT_OUT.get(said, ("over_budget", "over_budget"))
        self.counts[said if said in LEFT_OUT else "over_budget"] += len(products)
        known = {name: line[name] for name in ("category", "fingerprint", "source", "prompt_sha256")}
        for product in products:
            self.planned.add(left_out_line(product.sku, product.key, known, outcome, reason, problem))


@contextmanager
def _no_cycles() -> Iterator[None]:
    """Do not look for cycles meanwhile: none are made here, and among Airflow's objects the search takes a quarter of
    the time that 100,000 products take."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
