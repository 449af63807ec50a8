"""Makes a plan: from the manifest, the recipe and what earlier runs left in S3 to shards, without spending a cent.

100,000 products have to be planned in seconds and in flat memory, so images and records are listed, not asked for one
by one; rows stream twice through the file; what is kept of a row is its spooled line's place.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from airflow_provider_bgai.catalogue.ledger import POST_PROCESSING, Claim, Ledger
from airflow_provider_bgai.catalogue.lines import LineFiles
from airflow_provider_bgai.catalogue.manifest import Manifest, Product, RefusedRow, open_manifest
from airflow_provider_bgai.catalogue.plan import Plan, PlanRecord, Refusal
from airflow_provider_bgai.catalogue.recipe import Recipe, load_recipe
from airflow_provider_bgai.catalogue.sources import Sources
from airflow_provider_bgai.catalogue.state import SkuState, read_state
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.storage import Storage, split_uri

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook

T = TypeVar("T")

THREADS = 10
"""As many as boto3 keeps connections."""
CHUNK = 1000
PLANNED_LINES = 10_000
FEW = 300
"""Up to so many products are looked up one by one; for more, everything there is is listed."""
FEW_CLAIMS = 1000
REFUSALS = 100

_HEX = "0123456789abcdef"
_REQUEST_FIELDS = (
    "prompt",
    "negative_prompt",
    "seed",
    "count",
    "template",
    "guidance_image",
    "guidance_scale",
)


def make_plan(
    *,
    manifest: str,
    recipe: str | Mapping[str, Any],
    destination: str,
    hooks: Sequence[BackgroundHook],
    storage: Storage,
    run: str,
    now: float,
    only: Literal["changed", "all", "failed"] | str | Sequence[str] = "changed",
    limit: int | None = None,
    shard_size: int = 100,
    max_shards: int = 1000,
    budget_left: tuple[int | None, Decimal | None] | None = None,
    on_unknown_outcome: str = "hold",
) -> Plan:
    """Plan a run, and write ``plan.json``, ``shards/`` and ``planned/`` below ``<destination>/_bgai/runs/<run>``.

    :param hooks: in order of preference: the first is part of what is wanted, any may serve.
    :param only: ``"changed"``: what is not landed. ``"all"``: everything; what is landed is checked and put in its
        place again, never bought again. ``"failed"``: what failed before or waits to be collected. A list of SKUs:
        those of them that are not landed.
    :param limit: at most so many wanted pictures, highest priority first. What is paid for already is collected
        beyond it.
    :param shard_size: wanted products in a shard; grows where there would be more than ``max_shards``.
    :param budget_left: pictures and money that may still be spent; None for no cap.
    :param on_unknown_outcome: with ``"resubmit"``, held products are wanted too.
    :raises ManifestError, RecipeError: if a file as a whole cannot be used.
    """
    if not hooks:
        raise InvalidRequestError("hooks=[]: there is no connection to buy from")
    if shard_size < 1 or max_shards < 1:
        raise InvalidRequestError(f"shard_size={shard_size!r}, max_shards={max_shards!r}: must be 1 or more")
    if limit is not None and limit < 0:
        raise InvalidRequestError(f"limit={limit!r}: must be 0 or more")
    if isinstance(only, str) and only not in ("changed", "all", "failed"):
        raise InvalidRequestError(f"only={only!r}: must be 'changed', 'all', 'failed' or a list of SKUs")
    root = destination.rstrip("/")
    split_uri(f"{root}/_bgai/runs/{run}/plan.json")
    loaded = load_recipe(recipe, storage)
    _ = storage.client  # looked up before there are threads
    with (
        open_manifest(manifest, storage) as rows,
        tempfile.TemporaryFile() as spool,
        ThreadPoolExecutor(THREADS, "bgai-plan") as pool,
    ):
        planner = _Planner(
            recipe=loaded,
            root=root,
            folder=f"{root}/_bgai/runs/{run}",
            hooks=hooks,
            storage=storage,
            pool=pool,
            spool=spool,
            now=now,
            only=only if isinstance(only, str) else frozenset(only),
            resubmit=on_unknown_outcome == "resubmit",
        )
        planner.survey(rows)
        planner.walk(rows)
        planner.look_at_claims()
        chosen = planner.choose(limit, *(budget_left or (None, None)))
        shards = planner.write(chosen, shard_size, max_shards)
    record = PlanRecord(
        uri=f"{planner.folder}/plan.json",
        run=run,
        counts=dict(planner.counts),
        changed=dict(planner.changed),
        shards=shards,
        calls=planner.calls,
        pictures=planner.pictures,
        collect=planner.collect,
        price=planner.price,
        currency=hooks[0].settings.currency,
        manifest=manifest.partition("?")[0],
        destination=root,
        only=only if isinstance(only, str) else sorted(only)[:REFUSALS],
        created_at=now,
        recipe=loaded.digest,
        recipes={name: loaded.digest_of(name) for name in ("", *loaded.categories)},
        finishing={name: loaded.finishing_of(name) for name in ("", *loaded.categories)},
        vendor=planner.vendor,
        planned=planner.planned.uris,
        refusals=planner.refusals,
    )
    storage.put(record.uri, record.model_dump_json(indent=1).encode(), content_type="application/json")
    return Plan.model_validate(record.model_dump())


@dataclass
class _Candidates:
    """Pictures that are not landed, or wanted all the same: what choosing among them needs.

    :param places: where each one's line begins in the spool.
    :param also: further SKUs that want the same picture, with their names.
    """

    places: array[int] = field(default_factory=lambda: array("q"))
    priorities: array[float] = field(default_factory=lambda: array("d"))
    counts: array[int] = field(default_factory=lambda: array("l"))
    able: array[int] = field(default_factory=lambda: array("b"))
    fingerprints: list[bytes] = field(default_factory=list)
    by_fingerprint: dict[bytes, int] = field(default_factory=dict)
    also: dict[int, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    skus: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the recipe makes of a product."""

    product: Product
    request: BackgroundRequest
    category: str
    priority: float
    name: str


class _Planner:
    def __init__(
        self,
        *,
        recipe: Recipe,
        root: str,
        folder: str,
        hooks: Sequence[BackgroundHook],
        storage: Storage,
        pool: ThreadPoolExecutor,
        spool: IO[bytes],
        now: float,
        only: str | frozenset[str],
        resubmit: bool,
    ) -> None:
        self.recipe = recipe
        self.root = root
        self.folder = folder
        self.hooks = hooks
        self.storage = storage
        self.pool = pool
        self.spool = spool
        self.now = now
        self.only = only
        self.resubmit = resubmit
        # What went to quarantine is bought again only by who asks for it.
        self.buys_again = only not in ("changed", "all")
        self.ledger = Ledger(storage, root)
        model = hooks[0].settings.extra.get("model_version")
        self.vendor = f"{hooks[0].vendor}/{model}" if model else hooks[0].vendor
        self.identity = {
            "vendor": hooks[0].vendor,
            "model": model,
            "epoch": None,
            "post_processing": POST_PROCESSING,
        }
        self.sources = Sources(storage, pool)
        self.found = _Candidates()
        self.finishing = {name: recipe.finishing_of(name).digest for name in ("", *recipe.categories)}
        # How the published files of each SKU were finished; looked up only where the recipe asks for anything.
        self.finished: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.landed: set[bytes] | None = None
        # What a claim says of a candidate, by its number; and what is wrong with a held one.
        self.claims: dict[int, str] = {}
        self.problems: dict[int, str] = {}
        self.planned = LineFiles(storage, f"{folder}/planned", PLANNED_LINES)
        self.refusals: list[Refusal] = []
        self.counts: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.calls = self.pictures = self.collect = 0
        self.price: Decimal | None = Decimal(0)

    # First pass: which images there will be, so that they can be listed

    def survey(self, rows: Manifest) -> None:
        """List what is there: the images, and unless there are few products, the landed records."""
        products = 0
        for row in rows:
            if isinstance(row, Product) and self._selected(row.sku):
                products += 1
                self.sources.expect(row.image)
        if products > FEW:
            landed = [self.pool.submit(_listed, self.storage, self.ledger.landed_uri(char)) for char in _HEX]
            self.sources.list()
            self.landed = set()
            for future in landed:
                self.landed |= future.result()
        else:
            self.sources.list()

    def _selected(self, sku: str) -> bool:
        return isinstance(self.only, str) or sku in self.only

    # Second pass: what each product wants, and whether it is landed

    def walk(self, rows: Manifest) -> None:
        """Write down refused and unchanged products, and spool the others."""
        if any(self.finishing.values()):
            self.finished = {state.sku: sys.intern(state.finishing) for state in read_state(self.storage, self.root)}
        seen: set[str] = set()
        for chunk in _chunks(rows, CHUNK):
            selected = []
            for row in chunk:
                if not self._selected(row.sku or ""):
                    self.counts["not_selected"] += 1
                    continue
                seen.add(row.sku or "") if isinstance(self.only, frozenset) else None
                if isinstance(row, RefusedRow):
                    self._refuse(row.sku or f"(row {row.row})", row.message)
                else:
                    selected.append(row)
            self._walk_chunk(selected)
        if isinstance(self.only, frozenset):
            for sku in sorted(self.only - seen):
                self._refuse(sku, f"{rows.uri}: there is no such SKU")

    def _walk_chunk(self, products: Sequence[Product]) -> None:
        wanted: list[_Wish] = []
        for product in products:
            try:
                category, priority = self.recipe.category_of(product), self.recipe.priority_of(product)
                request = self.recipe.request(product)
                wanted.append(_Wish(product, request, category, priority, self._name(product, request)))
            except InvalidRequestError as error:
                self._refuse(product.sku, str(error), product)
        images = [wish.request.image for wish in wanted]
        guidance = [wish.request.guidance_image for wish in wanted if wish.request.guidance_image is not None]
        self.sources.identify([*images, *guidance])
        made = []
        for wish in wanted:
            try:
                made.append((wish, *self._identity(wish.request)))
            except InvalidRequestError as error:
                self._refuse_wish(wish, error)
        landed = self._landed([fingerprint for _, _, fingerprint in made])
        for wish, source, fingerprint in made:
            try:
                self._place(wish, source, fingerprint, landed=fingerprint in landed)
            except InvalidRequestError as error:
                self._refuse_wish(wish, error)

    def _name(self, product: Product, request: BackgroundRequest) -> str:
        name = self.recipe.name_of(product)
        keys = [name] if request.count == 1 else [name.replace("{index}", str(i + 1)) for i in range(request.count)]
        for key in keys:
            if key in self.names:
                where = f"name={key!r} of SKU {product.sku!r} (row {product.row})"
                raise InvalidRequestError(f"{where} is the name of {self.names[key]!r} as well")
        for key in keys:
            self.names[key] = product.sku
        return name

    def _identity(self, request: BackgroundRequest) -> tuple[str, bytes]:
        """Source and fingerprint, exactly as ``ledger.fingerprint`` makes it of the same."""
        source = self.sources[request.image]
        guidance = request.guidance_image
        wish = {name: getattr(request, name) for name in _REQUEST_FIELDS}
        wish |= self.identity
        wish["image"] = source
        wish["guidance_image"] = None if guidance is None else self.sources[guidance]
        wish["options"] = request.options
        return source, hashlib.sha256(_canonical(wish).encode()).digest()

    def _landed(self, fingerprints: Sequence[bytes]) -> set[bytes] | frozenset[bytes]:
        if self.landed is not None:
            return self.landed
        found = self.pool.map(lambda it: self.storage.head(self.ledger.landed_uri(it.hex())), fingerprints)
        return {name for name, there in zip(fingerprints, found, strict=True) if there is not None}

    def _place(self, wish: _Wish, source: str, fingerprint: bytes, *, landed: bool) -> None:
        product, request, category, name = wish.product, wish.request, wish.category, wish.name
        prompt = None if request.prompt is None else hashlib.sha256(request.prompt.encode()).hexdigest()
        if landed and self.only != "all" and not self._to_finish(product.sku, category):
            self.counts["unchanged"] += 1
            self.planned.add(
                _canonical(
                    {
                        "sku": product.sku,
                        "outcome": "unchanged",
                        "name": name,
                        "category": category,
                        "fingerprint": fingerprint.hex(),
                        "source": source,
                        "prompt_sha256": prompt,
                    }
                )
            )
            return
        able = self._able(request)
        found = self.found
        number = found.by_fingerprint.get(fingerprint)
        found.skus.add(product.sku)
        if number is not None:
            found.also[number].append((product.sku, name))
            found.priorities[number] = max(found.priorities[number], wish.priority)
            return
        number = len(found.fingerprints)
        found.by_fingerprint[fingerprint] = number
        found.fingerprints.append(fingerprint)
        found.places.append(self.spool.tell())
        found.priorities.append(wish.priority)
        found.counts.append(request.count)
        found.able.append(able)
        if landed:
            self.claims[number] = "landed"
        sent = {field: getattr(request, field) for field in _REQUEST_FIELDS if getattr(request, field) is not None}
        sent["image"] = request.image
        if request.options:
            sent["options"] = dict(request.options)
        line = {"sku": product.sku, "name": name, "category": category, "source": source, "prompt_sha256": prompt}
        self.spool.write(json.dumps({**line, "request": sent}).encode() + b"\n")

    def _to_finish(self, sku: str, category: str) -> bool:
        """Whether published files are to be made anew of what has landed. Costs nothing."""
        asked = self.finishing.get(category, self.finishing[""])
        return bool(asked) and self.only != "failed" and self.finished.get(sku, "") != asked

    def _able(self, request: BackgroundRequest) -> int:
        """The first hook that takes the request. :raises InvalidRequestError: if none does."""
        refusals = []
        for number, hook in enumerate(self.hooks):
            try:
                hook.check(request)
            except InvalidRequestError as error:
                refusals.append(error)
            else:
                return number
        raise refusals[0]

    def _refuse_wish(self, wish: _Wish, error: InvalidRequestError) -> None:
        self._refuse(wish.product.sku, f"row {wish.product.row}: {error}", wish.product, wish.name)

    def _refuse(self, sku: str, reason: str, product: Product | None = None, name: str = "") -> None:
        self.counts["refused"] += 1
        if len(self.refusals) < REFUSALS:
            self.refusals.append(Refusal(sku=sku, reason=reason))
        category = product.fields.get(self.recipe.category, "").strip() if product else ""
        result = {"sku": sku, "outcome": "refused", "name": name, "category": category}
        self.planned.add(_canonical({**result, "reason": "refused", "error": reason}))

    # Then: what earlier runs left behind of the candidates

    def look_at_claims(self) -> None:
        """Read the claims that have no landed record: few, unless a run has just died."""
        numbers = [number for number in range(len(self.found.fingerprints)) if number not in self.claims]
        if len(numbers) > FEW_CLAIMS:
            claimed: set[bytes] = set()
            for part in self.pool.map(lambda char: _listed(self.storage, self.ledger.claim_uri(char)), _HEX):
                claimed |= part
            numbers = [number for number in numbers if self.found.fingerprints[number] in claimed]
        for chunk in _chunks(numbers, CHUNK):
            for number, (says, problem) in zip(chunk, self.pool.map(self._read_claim, chunk), strict=True):
                if says:
                    self.claims[number] = says
                if problem:
                    self.problems[number] = problem

    def _read_claim(self, number: int) -> tuple[str, str | None]:
        name = self.found.fingerprints[number].hex()
        try:
            claim = self.ledger.read_claim(name)
        except ValidationError:
            return "held", f"Its claim {self.ledger.claim_uri(name)} cannot be read, which is no leave to buy"
        return ("", None) if claim is None else self._judge(claim)

    def _judge(self, claim: Claim) -> tuple[str, str | None]:
        if claim.state == "submitted":
            return "submitted", None
        if claim.state == "held":
            if self.resubmit or (claim.held_until is not None and self.now >= claim.held_until):
                return "failed", None
            return "held", f"A paid call to {claim.vendor} was not answered: {claim.error}"
        if claim.state == "quarantined":
            return "quarantined", claim.error
        return ("failed", None) if claim.state in ("failed", "lost") else ("", None)

    # Choosing

    def choose(self, limit: int | None, pictures: int | None, money: Decimal | None) -> list[int]:
        """The numbers of the candidates that go into shards, in their order; notes why others do not."""
        found = self.found
        first = {"submitted": 0}
        order = sorted(
            range(len(found.fingerprints)),
            key=lambda number: (first.get(self.claims.get(number, ""), 1), -found.priorities[number], number),
        )
        chosen = []
        for number in order:
            says = self.claims.get(number, "")
            count = found.counts[number]
            if says == "held" or (says == "quarantined" and not self.buys_again):
                continue
            if self.only == "failed" and says not in ("failed", "quarantined", "submitted"):
                continue
            if says == "submitted":
                self.collect += count
                chosen.append(number)
                continue
            if limit is not None and count > limit:
                self.problems[number] = "The run's limit has no room for it"
                continue
            price = self.hooks[found.able[number]].cost(count)
            if says != "landed":
                short = "pictures" if pictures is not None and count > pictures else ""
                short = "money" if money is not None and price is not None and price > money else short
                if short:
                    self.problems[number] = f"The budget's {short} left have no room for it"
                    continue
                pictures = None if pictures is None else pictures - count
                money = None if money is None or price is None else money - price
                self.calls += 1
                self.pictures += count
                self.price = None if price is None or self.price is None else self.price + price
            limit = None if limit is None else limit - count
            chosen.append(number)
        return chosen

    # Writing

    def write(self, chosen: Sequence[int], shard_size: int, max_shards: int) -> list[str]:
        """Shards of what is chosen, and results of what is not; the URIs of the shards."""
        states = {state.sku: state for state in self._states()}
        shards = LineFiles(
            self.storage, f"{self.folder}/shards", max(shard_size, math.ceil(len(chosen) / max_shards)), pool=self.pool
        )
        for number in chosen:
            line = self._line(number)
            skus = [(line["sku"], line["name"]), *self.found.also.get(number, ())]
            ends = [self._status(number, line, sku, states.get(sku)) for sku, _ in skus]
            for status, changed in ends:
                self.counts[status] += 1
                self.changed.update(changed)
            status, changed = ends[0]
            shards.add(
                _canonical(
                    {
                        "fingerprint": self.found.fingerprints[number].hex(),
                        "skus": [sku for sku, _ in skus],
                        "names": [name for _, name in skus],
                        "category": line["category"],
                        "request": line["request"],
                        "source": line["source"],
                        "status": status,
                        "changed": changed,
                        "priority": self.found.priorities[number],
                    }
                )
            )
        taken = bytearray(len(self.found.fingerprints))
        for number in chosen:
            taken[number] = 1
        for number, is_taken in enumerate(taken):
            if not is_taken:
                self._leave_out(number)
        self.planned.close()
        return shards.close()

    def _states(self) -> Iterator[SkuState]:
        if not self.found.skus:
            return iter(())
        return read_state(self.storage, self.ledger.root, self.found.skus)

    def _line(self, number: int) -> dict[str, Any]:
        self.spool.seek(self.found.places[number])
        line: dict[str, Any] = json.loads(self.spool.readline())
        return line

    def _status(
        self, number: int, line: Mapping[str, Any], sku: str, before: SkuState | None
    ) -> tuple[str, tuple[str, ...]]:
        says = self.claims.get(number, "")
        if says == "landed":
            return "unchanged", ("finishing",) if self._to_finish(sku, line["category"]) else ()
        if before is None:
            return ("failed_before" if says in ("failed", "quarantined") else "new"), ()
        recipe = self.recipe.digest_of(line["category"])
        pairs = {
            "source": (before.source, line["source"]),
            "prompt": (before.prompt_sha256, line["prompt_sha256"]),
            "recipe": (before.recipe, recipe),
            "vendor": (before.vendor, self.vendor),
        }
        changed = tuple(name for name, (then, now) in pairs.items() if then != now)
        return ("failed_before" if says in ("failed", "quarantined") else "changed"), changed

    def _leave_out(self, number: int) -> None:
        """A result for each SKU of a candidate that is in no shard."""
        line = self._line(number)
        skus = [(line["sku"], line["name"]), *self.found.also.get(number, ())]
        problem = self.problems.get(number)
        says = self.claims.get(number)
        outcome, reason = {"held": ("held", "unknown"), "quarantined": ("quarantined", "quarantined")}.get(
            says or "", ("over_budget", "over_budget")
        )
        if says not in ("held", "quarantined") and problem is None:
            self.counts["not_selected"] += len(skus)
            return
        self.counts[outcome] += len(skus)
        for sku, name in skus:
            self.planned.add(
                _canonical(
                    {
                        "sku": sku,
                        "outcome": outcome,
                        "name": name,
                        "category": line["category"],
                        "fingerprint": self.found.fingerprints[number].hex(),
                        "source": line["source"],
                        "prompt_sha256": line["prompt_sha256"],
                        "reason": reason,
                        # Paid for by an earlier run, which has reported them.
                        **({"pictures": 0} if outcome == "quarantined" else {}),
                        "error": problem,
                    }
                )
            )


# As ``ledger.fingerprint`` writes it.
_canonical: Callable[[Any], str] = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str).encode


def _listed(storage: Storage, prefix: str) -> set[bytes]:
    """The fingerprints among the names that begin like this."""
    start = prefix.rpartition("/")[0]
    found = set()
    for item in storage.list(prefix):
        name = item.uri[len(start) + 1 :]
        try:
            found.add(bytes.fromhex(name))
        except ValueError:
            continue
    return found


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
