"""What can go wrong, sorted by what it means for the money.

::

    BgaiError
    ├── RefusedError              the vendor will not take this request     nothing paid
    │   ├── InvalidRequestError   refused here, before anything was sent    nothing paid
    │   └── FileError             a whole file cannot be used               nothing paid
    │       ├── ManifestError     the shop's list                           nothing paid
    │       ├── RecipeError       what to paint                             nothing paid
    │       └── LineError         JSON lines of a run                       nothing paid
    ├── SourceError               your image cannot be read just now        nothing paid
    ├── AuthenticationError       key or configuration is wrong             nothing paid
    ├── QuotaError                the account is empty                      nothing paid
    ├── ModerationError           the vendor refuses the content            nothing paid
    ├── RetiredError              the vendor or its model is gone           nothing paid
    ├── OverBudgetError           a cap of your own is reached              nothing paid
    ├── RateLimitError            too fast                                  nothing paid
    ├── NeverSentError            not a byte of it went out                 nothing paid
    ├── StoppedError              this connection is not asked for now      nothing paid
    ├── GivenUpError              paid in vain too often before             nothing paid now
    ├── PublishError              the shop shows what it did before         nothing paid by it
    │   ├── PublishConflictError  another run is just publishing            nothing paid by it
    │   └── TooManyFailuresError  more failed than is allowed               nothing paid by it
    ├── VendorFaultError          failed, and documented as not charged     nothing paid
    ├── UnknownOutcomeError       no answer that says yes or no             perhaps paid
    ├── PollError                 asking or fetching failed for now         paid before
    │   ├── TaskNotFoundError     the vendor does not know the task         paid before
    │   └── LinkRefusedError      the link's server says 403 or 404         paid before
    ├── StoreError                S3 refuses what was paid for              paid, and still collectable
    ├── LostError                 paid, and the picture cannot be fetched   paid and gone
    └── UnfaithfulError           paid, and the product is not the product  paid, in quarantine
        └── RejectedError         paid, and a person does not want it       paid, in quarantine

Every class carries ``reason`` (the word used in records, events and reports) and ``paid``
(``"no"``, ``"perhaps"`` or ``"yes"``). A new class belongs here only if it means something else for the
money or for who has to act.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Paid = Literal["no", "perhaps", "yes"]


class BgaiError(Exception):
    """Base of all errors of this package.

    :param message: what was wrong, where, and what would be right. Never holds a key.
    :param vendor: the vendor that answered: the connection type without ``bgai_``.
    :param status: HTTP status of the answer, if there was one.
    :param code: the vendor's own error code, if there was one.
    :param retry_after: seconds the vendor asked to wait, if it did.
    :param task_id: the vendor's task, if one is known: it can still be collected.
    """

    reason: ClassVar[str] = "error"
    paid: ClassVar[Paid] = "no"

    def __init__(
        self,
        message: str,
        *,
        vendor: str | None = None,
        status: int | None = None,
        code: str | int | None = None,
        retry_after: float | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.vendor = vendor
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.task_id = task_id


class RefusedError(BgaiError):
    """The request itself is not acceptable (400, 413, or a task that failed for it). Fix the input."""

    reason = "refused"


class InvalidRequestError(RefusedError, ValueError):
    """Refused on our side, before anything was sent. Names the field, the value and the rule."""


class FileError(RefusedError, ValueError):
    """A file as a whole cannot be used. Names it, the place in it, and what would be right."""


class ManifestError(FileError):
    """The shop's list: not found, of an unknown format, or without the required columns."""


class RecipeError(FileError):
    """The recipe. Names path, value and rule of every wrong field."""


class LineError(FileError):
    """A line of a file is not the record it should be. Names file and line."""


class SourceError(BgaiError):
    """A source image could not be read for now (S3 or its server failed). Nothing was sent; try again."""

    reason = "source"


class AuthenticationError(BgaiError):
    """Key or configuration is wrong (401, 403, a redirect of the API). No retry helps."""

    reason = "authentication"


class QuotaError(BgaiError):
    """The account has nothing left to spend (402, or what the vendor documents so)."""

    reason = "quota"


class ModerationError(BgaiError):
    """The vendor refuses the content. Another vendor may accept it."""

    reason = "moderation"


class RetiredError(BgaiError):
    """The vendor, its endpoint or its model is gone (404 or 410 on the paid path, "deprecated"). Another may serve."""

    reason = "retired"


class OverBudgetError(BgaiError):
    """A cap of the budget is reached. The picture waits for the next run."""

    reason = "over_budget"


class RateLimitError(BgaiError):
    """Too many requests (429). The whole connection slows down."""

    reason = "rate_limit"


class NeverSentError(BgaiError):
    """Not a byte of it went out (DNS, refused, TLS, a proxy's refused CONNECT, no record), so nothing is charged."""

    reason = "never_sent"


class StoppedError(BgaiError):
    """The connection is not asked for the rest of this run: what it was paid for came to nothing too often."""

    reason = "stopped"


class GivenUpError(BgaiError):
    """The picture was paid in vain too often. It is bought again only when its SKU or ``only="failed"`` asks for it."""

    reason = "given_up"


class PublishError(BgaiError):
    """Nothing was switched: the shop shows what it did before, and what has landed stays."""

    reason = "publish"


class PublishConflictError(PublishError):
    """Another publisher is at work, or took over. Try again later."""


class TooManyFailuresError(PublishError):
    """More products failed than ``max_failure_ratio`` allows."""


class VendorFaultError(BgaiError):
    """The vendor failed in a way that it documents as not charged. May be bought as a new call, a few times."""

    reason = "fault"


class UnknownOutcomeError(BgaiError):
    """No answer, or none that the vendor documents as free or that holds pictures, after a paid request went out.

    Nobody can know whether it was charged, so it is never repeated silently.
    """

    reason = "unknown"
    paid = "perhaps"


class PollError(BgaiError):
    """Asking for a task or fetching its pictures failed for now. Keep trying: it is paid already."""

    reason = "poll"
    paid = "yes"


class TaskNotFoundError(PollError):
    """The vendor does not know the task ID: not yet (just submitted), no more, or never did."""

    reason = "not_found"


class LinkRefusedError(PollError):
    """The server of a result link says 403 or 404: the link has expired, or the picture is not there yet."""

    reason = "link"


class StoreError(BgaiError):
    """S3 refuses a write or a read after a payment. Nothing is lost: a retry of the task collects it."""

    reason = "store"
    paid = "yes"


class LostError(BgaiError):
    """Paid, and the picture cannot be had any more (link expired, file damaged at the vendor's)."""

    reason = "lost"
    paid = "yes"


class UnfaithfulError(BgaiError):
    """Paid, and the picture does not show the product as it is. It lies in quarantine and is not published."""

    reason = "quarantined"
    paid = "yes"


class RejectedError(UnfaithfulError):
    """Paid, landed, and a person does not want it in the shop. It lies in quarantine."""

    reason = "rejected"


BY_REASON: dict[str, type[BgaiError]] = {
    cls.reason: cls
    for cls in (
        RefusedError,
        SourceError,
        AuthenticationError,
        QuotaError,
        ModerationError,
        RetiredError,
        OverBudgetError,
        RateLimitError,
        NeverSentError,
        StoppedError,
        GivenUpError,
        VendorFaultError,
        UnknownOutcomeError,
        PollError,
        TaskNotFoundError,
        LinkRefusedError,
        StoreError,
        LostError,
        UnfaithfulError,
        RejectedError,
    )
}
