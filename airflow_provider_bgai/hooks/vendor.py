"""What a vendor has to state, and the words in which its hook says what is wrong.

Nothing here sends anything: :mod:`~airflow_provider_bgai.hooks.base` does, and every vendor's hook derives from the
class there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

from airflow_provider_bgai import web
from airflow_provider_bgai.exceptions import AuthenticationError, BgaiError, InvalidRequestError, RateLimitError
from airflow_provider_bgai.hooks.channel import Outgoing, sendable_header
from airflow_provider_bgai.hooks.connection import ConnectedHook
from airflow_provider_bgai.hooks.meaning import Answer, Documented, meaning, read_error, retry_after
from airflow_provider_bgai.models import OPTIONAL, BackgroundRequest, Generation, SourceLimits


class Vendor(ConnectedHook):
    """What a vendor states of itself, and what it needs to say so.

    A vendor's hook derives from :class:`~airflow_provider_bgai.hooks.base.BackgroundHook`, sets the attributes and
    implements :meth:`wire_fields`, :meth:`compose`, :meth:`read`, :meth:`pictures`, where the vendor has more rules
    :meth:`check_own`, and where it has tasks :meth:`ask`.
    """

    fields: ClassVar[frozenset[str]] = frozenset({"prompt"})
    """Which of the request's optional fields it takes. Any other that is set is refused."""
    max_count: ClassVar[int | None] = None
    """The most pictures of one call; None where the vendor names no number."""
    count_rule: ClassVar[str | None] = None
    """What is said of a greater count, where there is more to say than the number."""
    has_tasks: ClassVar[bool] = False
    """Whether the vendor answers a submission with a task ID to be polled."""
    source: ClassVar[SourceLimits] = SourceLimits(formats=("png", "jpg", "webp"), needs_alpha=False)
    """What it takes as an image; :mod:`~airflow_provider_bgai.imaging.prepare` makes it so."""
    takes_links_only: ClassVar[bool] = False
    """Whether images are sent as links, so that only one that had to be changed is worth a copy."""
    result_life: ClassVar[float] = 86_400.0
    """Seconds that a result can be fetched at the vendor: 3,600 where that is documented, else a day."""
    documented: ClassVar[tuple[Documented, ...]] = ()
    """Answers without pictures whose meaning the vendor's pages document."""

    def check(self, request: BackgroundRequest) -> None:
        """Refuse what the vendor does not take, as far as it shows without I/O.

        :raises InvalidRequestError: naming field, value and rule.
        """
        for name in OPTIONAL:
            value = getattr(request, name)
            if value is not None and name not in self.fields:
                # Silently dropping it would buy another picture.
                raise self.refuse(name, value, "the vendor has no such parameter; leave it out")
        if self.max_count is not None and request.count > self.max_count:
            raise self.refuse("count", request.count, self.count_rule or f"at most {self.max_count} a call")
        self.check_own(request)

    def check_own(self, request: BackgroundRequest) -> None:
        """Refuse what else the vendor's documentation forbids; part of :meth:`check`.

        :raises InvalidRequestError: naming field, value and rule; :meth:`refuse` makes it.
        """

    def model(self, request: BackgroundRequest) -> str | None:
        """The model this request would run on; None where the vendor has none, or it is left to the vendor."""
        return None

    @abstractmethod
    def wire_fields(self, request: BackgroundRequest) -> dict[str, str]:
        """The request's fields by the vendor's names, as the text that is sent, without images. Pure.

        Two requests with the same fields and images buy the same picture.
        """

    @abstractmethod
    async def compose(self, request: BackgroundRequest) -> Outgoing:
        """Read, stage or sign the images, and put the paid request together."""

    @abstractmethod
    def read(self, answer: Answer, outgoing: Outgoing) -> Generation | None:
        """What a paid request's answer holds: pictures or a task. None if neither. Pure, and takes any answer."""

    @abstractmethod
    def pictures(self, body: bytes) -> tuple[bytes | str, ...]:
        """The pictures in the body of an answer, as bytes or links; nothing if there are none. Pure."""

    def read_stored(self, body: bytes) -> tuple[bytes | str, ...]:
        """The pictures in the stored body of an answer (``Generation.answer``). Pure.

        :raises ValueError: if there are none.
        """
        found = self.pictures(body)
        if not found:
            raise ValueError(f"{self.hook_name}: {len(body):,} bytes hold no picture")
        return found

    async def ask(self, task_id: str) -> Generation:
        """Ask for a task, once. Only where the vendor has tasks; ``task_id`` is an askable one."""
        raise NotImplementedError

    async def probe(self) -> tuple[bool, str]:
        """Whether the connection works, as far as that shows without paying. Its host has answered by now."""
        return True, (
            f"Not checked: {self.hook_name} has no free endpoint, so the key is proved by the first paid "
            f"picture only. {'A key' if self.settings.key else 'No key'} is set, and requests will go to "
            f"{self.settings.base_url}"
        )

    def headers(self) -> dict[str, str]:
        """Headers that prove who we are, for the vendor's API only."""
        return {"Authorization": f"Bearer {self.key()}"}

    def checked_headers(self) -> dict[str, str]:
        """:meth:`headers`, if HTTP takes them. :raises AuthenticationError: if not: a key was pasted wrongly."""
        headers = self.headers()
        for name, value in headers.items():
            if not sendable_header(name, value):
                problem = f"the header {name!r} cannot be sent: its name or value holds characters that no header takes"
                raise self.error(AuthenticationError, f"{problem}. Check the connection's key and extras")
        return headers

    def status(self, answer: Answer) -> int:
        """The status of an answer: HTTP's, or that of the vendor's envelope where it has one of its own."""
        return answer.status

    # --- what a vendor's hook says it with -----------------------------------------------------------

    def refuse(self, field: str, value: object, rule: str) -> InvalidRequestError:
        """The error for a wrong request: names the field, the value (without a link's query) and the rule."""
        shown = web.without_queries(repr(value))
        shown = shown if len(shown) <= 80 else shown[:60] + f"… ({len(str(value)):,} characters)"
        return InvalidRequestError(f"{self.hook_name}: {field}={shown}: {rule}", vendor=self.vendor)

    def forbid_options(self, request: BackgroundRequest, own: Collection[str]) -> None:
        """Refuse options that are the request's own fields, by the vendor's names."""
        for name in request.options:
            if name in own:
                raise self.refuse(f"options[{name!r}]", request.options[name], "use the request's own field for it")

    def error(self, cls: type[BgaiError], message: str, **details: Any) -> BgaiError:
        """An error that names the vendor and never holds the key."""
        return self.settings.error(cls, message, **details)

    def failure(self, answer: Answer, *, paid: bool, task_id: str | None = None) -> BgaiError:
        """The error that an answer without pictures stands for."""
        status = self.status(answer)
        code, message = read_error(answer.json)
        cls = meaning(status, answer.json, self.documented, paid=paid)
        self.counts["too_fast"] += cls is RateLimitError
        if 200 <= status < 300 and not message:
            message = f"no picture and no task in it: {answer.excerpt()!r}"
        return self.error(
            cls,
            message or answer.excerpt() or "no message",
            status=status,
            code=code,
            retry_after=retry_after(answer.headers.get("retry-after"), answer.headers.get("date")),
            task_id=task_id,
        )


def as_text(value: Any) -> str:
    """A value as forms and queries carry it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
