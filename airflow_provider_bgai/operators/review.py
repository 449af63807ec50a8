"""A person looks at a run between its generating and its publishing: in Airflow where it asks people (3.1 and later),
else by a command; and decides about pictures, at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    BaseOperator,
    BaseSensorOperator,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.operators import _metrics
from airflow_provider_bgai.operators._task import Accounts, fail, failures, open_storage
from airflow_provider_bgai.ui.links import RUN, LocationLink, Shown, route

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_bgai.catalogue.publishing.publish import Preview
    from airflow_provider_bgai.catalogue.review import Review, Word
    from airflow_provider_bgai.layout import Run
    from airflow_provider_bgai.storage import Storage

ASKS_PEOPLE = AIRFLOW_V_3_1_PLUS
"""Whether Airflow can ask people by itself."""
SHEET = 12
"""Pictures that are shown with the question."""


class _Look(Shown):
    """What both kinds of review share: the run is looked at as publishing would, and only then is anybody asked."""

    plan: Mapping[str, Any]
    review: Review
    aws_conn_id: str | None
    extra_args: Mapping[str, Any] | None

    def _opened(self) -> tuple[Storage, Run]:
        from airflow_provider_bgai.layout import run_of

        if not self.plan:
            raise AirflowFailException("There is no plan to review: the planning task has failed; its log says why")
        return open_storage(self.aws_conn_id, self.extra_args), run_of(self.plan["uri"])

    def _look(self, storage: Storage, run: Run) -> Preview | None:
        """What the run would publish; None where nobody is to be asked."""
        from airflow_provider_bgai.buying.calls import Ledger
        from airflow_provider_bgai.buying.collector import settle_all
        from airflow_provider_bgai.catalogue.publishing.publish import preview
        from airflow_provider_bgai.catalogue.review import is_asked_for

        accounts = Accounts(storage, staging=run.layout.staged)
        _metrics.count_calls(settle_all(Ledger(storage, run.layout.root), accounts, run.name), run.name)
        _metrics.count_hooks(accounts.opened)
        seen = preview(storage, run.layout.root, run.name)
        return seen if is_asked_for(self.review, seen) else None


class ReviewCatalogueSensor(_Look, BaseSensorOperator):
    """Wait for a person's word whether a run is to be published: ``bgai-ledger approve`` or ``refuse``.

    Parameters as of :class:`ReviewCatalogueOperator`, which it is before Airflow 3.1. Between its looks it holds no
    worker. A task that is cleared asks anew: earlier answers do not count.
    """

    template_fields: Sequence[str] = ("plan", "aws_conn_id")
    operator_extra_links = RUN

    def __init__(
        self,
        *,
        plan: Mapping[str, Any],
        review: Review = "quarantined",
        within: timedelta = timedelta(days=1),
        aws_conn_id: str | None = "aws_default",
        extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"mode": "reschedule", "timeout": within.total_seconds(), **kwargs})
        self.plan = plan
        self.review = review
        self.aws_conn_id = aws_conn_id
        self.extra_args = extra_args

    def poke(self, context: Context) -> bool:
        """Look, and see whether there is an answer."""
        from airflow_provider_bgai.catalogue.review import body_of, read_answer, subject_of

        try:
            storage, run = self._opened()
            question = run.question(context["ti"].try_number)
            asked = storage.head(question)
            if asked is None:
                if (seen := self._look(storage, run)) is None:
                    self.log.info("There is nothing that a person has to look at")
                    return True
                words = f"{subject_of(seen)}\n\n{body_of(seen, None, {})}"
                storage.put(question, words.encode(), content_type="text/markdown; charset=utf-8")
                self.log.info("%s Report: %s", subject_of(seen), run.report)
            answer = read_answer(storage, run, asked.modified) if asked else None
        except failures() as error:
            fail(error)
        where = f"{run.layout.root} {run.name}"
        if answer is None:
            self.log.info("Nobody has said yet: bgai-ledger approve %s, or bgai-ledger refuse %s", where, where)
            return False
        if answer.what == "refuse":
            raise AirflowSkipException(f"{answer.by or 'A person'} does not want this run published")
        return True


if ASKS_PEOPLE:
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    class ReviewCatalogueOperator(_Look, ApprovalOperator):
        """Ask a person whether a run is to be published; what people decide about its pictures meanwhile goes with it.

        Nobody is asked where nothing calls for it. "Reject" skips the publishing, and no answer in time fails the task:
        nothing is published then, either. What was bought stays landed, and is for the next run to publish.

        :param plan: what ``PlanCatalogueOperator`` told under the key ``plan``: ``plan.output["plan"]``.
        :param review: when to ask: ``"quarantined"``: where something is in quarantine or held; ``"all"``: whenever
            the shop would change.
        :param within: how long to wait for an answer.
        :param kwargs: of Airflow's ``ApprovalOperator``: ``assigned_users``, ``notifiers``, …
        """

        template_fields: Sequence[str] = ("plan", "aws_conn_id")
        operator_extra_links = RUN

        def __init__(
            self,
            *,
            plan: Mapping[str, Any],
            review: Review = "quarantined",
            within: timedelta = timedelta(days=1),
            aws_conn_id: str | None = "aws_default",
            extra_args: Mapping[str, Any] | None = None,
            **kwargs: Any,
        ) -> None:
            super().__init__(subject="Publish?", response_timeout=within, **kwargs)
            self.plan = plan
            self.review = review
            self.aws_conn_id = aws_conn_id
            self.extra_args = extra_args

        def execute(self, context: Context) -> Any:
            """Look, and ask."""
            from airflow_provider_bgai.catalogue.review import body_of, subject_of

            try:
                if (seen := self._look(*self._opened())) is None:
                    self.log.info("There is nothing that a person has to look at")
                    return None
                # Not by the constructor: what stands in them comes from outside, and is no template.
                self.subject, self.body = subject_of(seen), body_of(seen, _gallery(context), self._pictures(context))
            except failures() as error:
                fail(error)
            return super().execute(context)

        def _pictures(self, context: Context) -> dict[str, str]:
            """Addresses of some new pictures, relative to the base of Airflow's pages, by SKU."""
            from airflow_provider_bgai.ui.gallery import Gallery

            places, address = Gallery(*self._opened()).samples(SHEET), route(context["ti"], "full")
            return {sku: f"{address}?{urlencode({'at': place, 'index': 1})}" for sku, place in places.items()}

        def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
            """Write the answer down, and go by it."""
            from airflow_provider_bgai.catalogue.review import write_answer

            if "error" not in event:
                try:
                    storage, run = self._opened()
                    what: Word = "approve" if event["chosen_options"] == [self.APPROVE] else "refuse"
                    write_answer(storage, run, what, by=str((event.get("responded_by_user") or {}).get("name", "")))
                except failures() as error:
                    fail(error)
            return super().execute_complete(context, event)

else:
    ReviewCatalogueOperator = ReviewCatalogueSensor  # type: ignore[assignment,misc]


class DecideCatalogueOperator(Shown, BaseOperator):
    """Write decisions about pictures down, and publish anew what the shop shows: accepted pictures come into it, and
    rejected ones leave it, at once. Nothing is bought here: what is to be bought again, the next run buys.

    :param destination: the catalogue's ``s3://bucket/prefix``.
    :param decisions: mappings of ``sku``, ``what`` (``accept``, ``reject``, ``buy``, ``release``, ``keep``), and of
        ``buy`` perhaps ``seed`` and ``conn_id``. None: what was decided elsewhere is carried out.
    :param by: who decides, for the record.
    """

    template_fields: Sequence[str] = ("destination", "decisions", "by", "aws_conn_id")
    operator_extra_links = (LocationLink(),)

    def __init__(
        self,
        *,
        destination: str,
        decisions: Sequence[Mapping[str, Any]] = (),
        by: str = "",
        aws_conn_id: str | None = "aws_default",
        extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.decisions = decisions
        self.by = by
        self.aws_conn_id = aws_conn_id
        self.extra_args = extra_args

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Decide, and publish."""
        from airflow_provider_bgai.buying.calls import Ledger
        from airflow_provider_bgai.buying.decisions import decide_about
        from airflow_provider_bgai.catalogue.publishing.publish import publish, read_current
        from airflow_provider_bgai.catalogue.review import wish_of

        try:
            storage = open_storage(self.aws_conn_id, self.extra_args)
            ledger = Ledger(storage, self.destination)
            for each in self.decisions:
                given = dict(each)
                sku, what = str(given.pop("sku", "")), given.pop("what", None)
                if unknown := given.keys() - {"seed", "conn_id"}:
                    raise InvalidRequestError(f"decisions, {sku}: {', '.join(sorted(unknown))}: no such field")
                call = decide_about(ledger, wish_of(ledger, sku), what, by=self.by, **given)
                self.log.info("%s: %s, %s", sku, what, call.what)
            run = read_current(storage, ledger.layout.root).run
            if run is None:
                self.log.info("Nothing is published yet; the next run goes by what was decided")
                return None
            return publish(storage, ledger.layout.root, run, max_failure_ratio=1.0).model_dump(mode="json")
        except failures() as error:
            fail(error)


def _gallery(context: Context) -> str:
    """The address of the run's pictures, relative to the base of Airflow's pages."""
    instance = context["ti"]
    return f"dags/{quote(instance.dag_id, safe='')}/runs/{quote(instance.run_id, safe='')}/plugin/bgai-dag-run"
