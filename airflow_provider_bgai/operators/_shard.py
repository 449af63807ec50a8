"""A shard's task, put together: buyer, budget, signer, and the results that are written.

What Airflow is told of it, and when it waits, stands in the operator.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseHook

from airflow_provider_bgai.exceptions import BgaiError
from airflow_provider_bgai.operators._metrics import count
from airflow_provider_bgai.operators._task import Accounts, open_storage, wind_up

if TYPE_CHECKING:
    from airflow_provider_bgai.buying.calls import Ledger
    from airflow_provider_bgai.buying.record import Call
    from airflow_provider_bgai.catalogue.finishing import Sign
    from airflow_provider_bgai.catalogue.planning.plan import PlanRecord
    from airflow_provider_bgai.catalogue.results import Result, Wanted
    from airflow_provider_bgai.catalogue.shard import Progress
    from airflow_provider_bgai.lines import Packed
    from airflow_provider_bgai.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardTask:
    """A shard, read.

    :param uri: of the shard.
    :param plan: what it is a part of.
    :param wanted: its pictures, by their places.
    """

    uri: str
    ledger: Ledger
    plan: PlanRecord
    wanted: Packed[int, Wanted]

    @classmethod
    def read(cls, uri: str, storage: Storage) -> ShardTask:
        """The shard as the plan wrote it. :raises InvalidRequestError: if ``uri`` is none."""
        from airflow_provider_bgai.buying.calls import Ledger
        from airflow_provider_bgai.catalogue.planning.plan import read_plan
        from airflow_provider_bgai.catalogue.results import Wanted
        from airflow_provider_bgai.layout import run_of
        from airflow_provider_bgai.lines import Packed, parse_lines

        run = run_of(uri)
        plan = read_plan(storage, run.plan)
        wanted: Packed[int, Wanted] = Packed(Wanted)
        wanted.update(enumerate(parse_lines(Wanted, storage.read(uri).splitlines(), uri)))
        return cls(uri, Ledger(storage, run.layout.root), plan, wanted)

    @property
    def name(self) -> str:
        """Its file's: the same for all tries."""
        return self.uri.rpartition("/")[2].removesuffix(".jsonl")

    @property
    def owner(self) -> str:
        """Who pays for its calls."""
        return f"{self.plan.run}/{self.name}"

    @property
    def signs(self) -> bool:
        """Whether the recipe asks for signed files."""
        return any(each.sign for each in self.plan.finishing.values())

    async def generate(
        self,
        accounts: Accounts,
        *,
        caps: Mapping[str, Any],
        shards: int,
        asked: Mapping[str, Any],
        **how: Any,
    ) -> tuple[Progress, Iterable[Call]]:
        """Collect and buy, in one pass; how far it came, and the calls that ended.

        :param caps: as :class:`~airflow_provider_bgai.buying.caps.Caps` takes them.
        :param shards: how many buy side by side.
        :param asked: what :class:`~airflow_provider_bgai.catalogue.shard.Shard` takes from the operator.
        :param how: as :func:`~airflow_provider_bgai.catalogue.shard.generate` takes it.
        :raises StoreError: if what the last pass has kept cannot be read.
        """
        from airflow_provider_bgai.buying.budget import Budget
        from airflow_provider_bgai.buying.buyer import Buyer
        from airflow_provider_bgai.buying.calls import in_thread
        from airflow_provider_bgai.buying.caps import Caps
        from airflow_provider_bgai.catalogue.shard import Shard, generate

        storage, layout = self.ledger.storage, self.ledger.layout
        if "begun" in how:
            how["landed"] = await in_thread(self.landed)
        purse = Budget(storage, layout.root, Caps.read(caps), self.plan.run, self.name)
        buyer = Buyer(
            accounts.hooks,
            self.ledger,
            run=self.plan.run,
            owner=self.owner,
            purse=purse,
            account=accounts,
            shards=shards,
        )
        shard = Shard(buyer=buyer, finishing=self.plan.finishing, **asked)
        try:
            return await generate(shard, self.wanted, **how), buyer.ended.values()
        finally:
            await wind_up(buyer, purse, accounts)

    def keep(self, progress: Progress) -> None:
        """Keep what has landed for the next pass, which reads nothing of it any more."""
        from airflow_provider_bgai.layout import run_of

        if landed := progress.landed:
            uri = run_of(self.uri).landed_of(self.uri)
            self._insist_on(uri, lambda: chain.from_iterable(landed.values()), "what has landed of the shard")

    def landed(self) -> Packed[int, list[Result]]:
        """What :meth:`keep` kept, by the places of the pictures."""
        from airflow_provider_bgai.catalogue.results import Result
        from airflow_provider_bgai.layout import run_of
        from airflow_provider_bgai.lines import Packed, stream_lines

        storage, uri = self.ledger.storage, run_of(self.uri).landed_of(self.uri)
        place_of = {sku: place for place, item in self.wanted.items() for sku in item.skus}

        def read() -> Packed[int, list[Result]]:
            found: Packed[int, list[Result]] = Packed(list[Result])
            for result in stream_lines(storage, uri, Result):
                place = place_of[result.sku]
                found[place] = [*found.get(place, ()), result]
            return found

        try:
            return storage.insist(read, "what has landed of the shard")
        except FileNotFoundError:
            return Packed(list[Result])

    def _insist_on(self, uri: str, results: Callable[[], Iterable[Result]], what: str) -> None:
        """Write results, line by line: all of a large shard at once take as much as the rest of it."""
        from airflow_provider_bgai.lines import write_lines

        storage = self.ledger.storage
        storage.insist(lambda: write_lines(storage, uri, (it.model_dump_json() for it in results())), what)

    def write(self, progress: Progress, ended: Iterable[Call], *, resumed: bool) -> dict[str, Any]:
        """Write the results; report them, and what this shard's calls cost so far, those of its earlier tries included.

        :param ended: calls that ended in this pass.
        :param resumed: there were others before it. Only then are the books read, in which all shards of a night write.
        """
        from airflow_provider_bgai.buying.books import read_books
        from airflow_provider_bgai.catalogue.report.costs import cost_report
        from airflow_provider_bgai.catalogue.report.story import Tally, of_costs
        from airflow_provider_bgai.catalogue.shard import give_up
        from airflow_provider_bgai.layout import run_of

        ledger = self.ledger
        results = partial(give_up, self.wanted, progress, self.plan.run)
        preferred = self.plan.vendor.partition("/")[0]
        refused: Counter[str] = Counter()
        tally = Tally()
        for result in results():
            tally.add([result])
            refused[result.vendor or preferred] += result.outcome == "refused"
        for vendor, number in refused.items():
            count("refused", number, vendor)
        uri = run_of(self.uri).results_of(self.uri)
        self._insist_on(uri, results, "the shard's results")
        booked = read_books(ledger, since=self.plan.created_at) if resumed else ()
        seen = chain(progress.perhaps, booked, ended)
        total = cost_report(call for call in seen if call.owner == self.owner).total
        told = tally.told(ledger.layout.root)
        log.info(
            "Shard %s of run %s has ended:\n%s\n%s\nresults: %s", self.name, self.plan.run, told, of_costs(total), uri
        )
        return {
            "shard": self.uri,
            "results": uri,
            "outcomes": tally.counts(),
            "paid": {currency: float(money) for currency, money in total.paid.items()},
            "charged": total.charged,
            "perhaps": total.perhaps.pictures,
        }


def label_of(uri: str, aws_conn_id: str | None) -> str:
    """What a shard is called in Airflow's lists of mapped tasks: ``0003 · 100 products``, by its number and its SKUs.

    Airflow asks before a task runs and again after it. Where S3 does not say how many they are, the number alone: a
    name is no reason to fail.
    """
    from airflow_provider_bgai.storage import store_errors

    number = uri.rpartition("/")[2].removesuffix(".jsonl")
    try:
        products = _products_in(uri, aws_conn_id)
    except store_errors(BgaiError, FileNotFoundError) as error:
        log.debug("Nobody says how many products are in %s: %s", uri, error)
        return number
    return f"{number} · {products:,} product{'' if products == 1 else 's'}"


@cache
def _products_in(uri: str, aws_conn_id: str | None) -> int:
    task = ShardTask.read(uri, open_storage(aws_conn_id))
    return sum(len(wanted.skus) for wanted in task.wanted.values())


def signer(conn_id: str | None) -> Sign:
    """Signs with the certificate of a connection, found out before a cent is spent.

    :raises AirflowFailException: without one, or without its two halves.
    """
    from airflow_provider_bgai.imaging.sign import sign

    if not conn_id:
        raise AirflowFailException("The recipe says sign: true, so this task needs sign_conn_id: whose certificate")
    connection = BaseHook.get_connection(conn_id)
    extra = connection.extra_dejson
    key, certificate = (connection.password or "").encode(), str(extra.get("certificate") or "").encode()
    if not key or not certificate:
        raise AirflowFailException(
            f"Connection {conn_id!r}: the password must be the private key, and the extra 'certificate' "
            "its certificate, both as PEM"
        )
    return partial(
        sign, certificate_pem=certificate, key_pem=key, alg=extra.get("alg", "es256"), tsa_url=extra.get("tsa_url")
    )
