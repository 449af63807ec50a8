"""What a run has to do, and what that costs, before a cent is spent.

Every product of the manifest comes out with one status. What is wanted goes into shards, highest priority first; what
is not goes into ``planned/`` as results, so that a run accounts for every product. Nothing is sent or bought here,
and nothing is decided for good: a shard looks again before it buys.

==============  ======================================================================================
status          because
==============  ======================================================================================
new             nothing like it was ever published for this SKU
changed         its source, prompt, recipe or vendor is not what its published picture was made with
unchanged       its picture is landed: it costs nothing. With ``finishing`` among what changed, it is in a shard:
                its published files are made anew
failed_before   an earlier run failed or lost it, or was not answered and the hold has run out
held            a paid call was not answered; nobody buys it before the hold runs out
quarantined     what was bought does not show the product: only ``only="failed"`` or its SKU buys it again
rejected        a person does not want its picture: the same
given_up        paid in vain three times: the same
refused         row, image, template or request is wrong: the reason says what to fix
over_budget     wanted, and does not fit into the limit or what is left of the budget
not_selected    left out by ``only``; in neither shards nor ``planned/``
==============  ======================================================================================
"""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from airflow_provider_bgai.catalogue.finishing import Finishing
from airflow_provider_bgai.catalogue.results import Result
from airflow_provider_bgai.catalogue.state import SkuState
from airflow_provider_bgai.storage import Storage


class Refusal(BaseModel):
    """A product that cannot be made as it stands."""

    sku: str
    reason: str


class Plan(BaseModel):
    """What a run will do: small enough for XCom.

    :param uri: of ``plan.json``.
    :param counts: products by status.
    :param shards: URIs to generate.
    :param calls: paid calls to be made; ``pictures`` and ``price`` are theirs.
    :param at_most: how many of the calls depend on a source that nobody has seen in this look before: where it turns
        out to hold what it held, nothing is bought.
    :param collect: pictures that are paid for already and only have to be fetched.
    :param price: of all calls; None where a connection names no price.
    """

    model_config = ConfigDict(extra="ignore")

    schema_version: int = 1
    uri: str
    run: str
    counts: dict[str, int]
    changed: dict[str, int] = {}
    shards: list[str]
    calls: int
    pictures: int
    at_most: int = 0
    collect: int = 0
    price: Decimal | None
    currency: str


class PlanRecord(Plan):
    """``plan.json``: the plan, and what publishing and reading it later need.

    :param recipe: digest of the recipe as a whole.
    :param recipes: :meth:`Recipe.digest_of` each category with overrides, and of ``""`` for all others.
    :param finishing: what is done to pictures, in the same way.
    :param vendor: the preferred vendor, with its model.
    :param refusals: the first of them; all stand in ``planned``.
    :param feed_url: where the world reads the destination, for the feeds; None where the recipe asks for none.
    """

    manifest: str
    destination: str
    only: str | list[str]
    created_at: float
    recipe: str
    recipes: dict[str, str]
    finishing: dict[str, Finishing] = {}
    vendor: str
    planned: list[str]
    refusals: list[Refusal]
    feed_url: str | None = None

    def finishing_of(self, category: str) -> Finishing:
        """What is done to the pictures of a category."""
        return self.finishing.get(category) or self.finishing.get("") or Finishing()

    def state_of(self, result: Result) -> SkuState:
        """What to remember of a SKU after its picture is published."""
        return SkuState(
            sku=result.sku,
            fingerprint=result.fingerprint or "",
            source=result.source,
            hint=result.hint,
            prompt_sha256=result.prompt_sha256,
            recipe=self.recipes.get(result.category, self.recipes[""]),
            vendor=self.vendor,
            finishing=self.finishing_of(result.category).digest,
        )


def read_plan(storage: Storage, uri: str) -> PlanRecord:
    """The plan at a URI. :raises FileNotFoundError: if there is none."""
    return PlanRecord.model_validate_json(storage.read(uri))
