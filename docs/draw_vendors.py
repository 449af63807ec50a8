"""Draws the tables of ``docs/vendors/``: ``python docs/draw_vendors.py`` writes them between the marks of each page.

Nothing in them is written by hand: which of a request's fields goes where is found by composing requests, and the rest
is what a vendor's hook states. A test compares pages and hooks; what a vendor's own pages say stands around the tables.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from airflow.providers.common.compat.sdk import Connection

from airflow_provider_bgai.exceptions import BgaiError, InvalidRequestError, UnknownOutcomeError
from airflow_provider_bgai.get_provider_info import ROWS, VendorRow
from airflow_provider_bgai.hooks import images
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.hooks.channel import Outgoing
from airflow_provider_bgai.hooks.meaning import FREE
from airflow_provider_bgai.hooks.vendor import as_text
from airflow_provider_bgai.models import OPTIONAL, BackgroundRequest

PAGES = Path(__file__).with_name("vendors")
BEGIN, END = "<!-- drawn by docs/draw_vendors.py -->", "<!-- end of what is drawn -->"
PRODUCT = Path(__file__).parents[1] / "demo" / "catalogue" / "images" / "porcelain-teapot.png"

LINK, GUIDANCE = "https://shop.example/product.png", "https://shop.example/mood.png"
ASKED: Mapping[str, Any] = {
    "prompt": "on a beach",
    "negative_prompt": "people",
    "seed": 7,
    "template": 5,
    "guidance_image": GUIDANCE,
    "guidance_scale": 0.5,
    "count": 2,
}
"""A value for each field, told apart from all others, so that one sees where it went."""


def page_of(row: VendorRow) -> Path:
    """The page of a vendor."""
    return PAGES / f"{row.name}.md"


def draw(row: VendorRow) -> str:
    """The tables of a vendor's page."""
    connection = Connection(conn_id="mine", conn_type=row.conn_type, password="KEY")
    hook: BackgroundHook = loaded(row.hook)(connection=connection)
    by_link, by_file = sent(hook, LINK), sent(hook, PRODUCT.read_bytes())
    return "\n".join(
        [
            *table(("", ""), facts(row, hook, [*by_link, *by_file])),
            "",
            *table(("request field", f"what {row.label} is sent"), fields(hook, by_link, by_file)),
            "",
            *table(("answer", "means", "charged"), answers(hook)),
        ]
    )


def loaded(path: str) -> Any:
    """What a row names."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def sent(hook: BackgroundHook, image: str | bytes) -> list[Outgoing]:
    """Requests that ask for all a vendor has; none if it does not take such an image."""
    possible = {name: value for name, value in ASKED.items() if name in hook.fields}
    if hook.max_count != 1:
        possible["count"] = ASKED["count"]
    if isinstance(image, bytes) and "guidance_image" in possible:
        possible["guidance_image"] = image
    template = possible.pop("template", None)
    wishes = [possible, {"template": template, "count": ASKED["count"]} if template else {}]

    async def compose() -> list[Outgoing]:
        with mock.patch.object(images, "load", mock.AsyncMock(return_value=PRODUCT.read_bytes())):
            return [await hook.compose(BackgroundRequest(image, **asked)) for asked in wishes if asked]

    try:
        return asyncio.run(compose())
    except InvalidRequestError:
        return []


def named(outgoing: Outgoing) -> Iterator[tuple[str, str]]:
    """The fields of a request by the vendor's names. A file is its content's type."""

    def flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                yield from flat(f"{prefix}.{name}" if prefix else name, inner)
        elif isinstance(value, list):
            for inner in value:
                yield from flat(prefix, inner)
        elif isinstance(value, tuple):
            yield prefix, value[1] if value[0] is None else f"file {value[0].partition('.')[0]}"
        else:
            yield prefix, as_text(value)

    for part in (outgoing.params, outgoing.parts, outgoing.json):
        yield from flat("", part or {})


def fields(hook: BackgroundHook, by_link: list[Outgoing], by_file: list[Outgoing]) -> Iterator[tuple[str, str]]:
    """Which field of a request becomes which of the vendor's."""
    found = list(dict.fromkeys(pair for outgoing in [*by_link, *by_file] for pair in named(outgoing)))
    values = {name: {as_text(value)} for name, value in ASKED.items()} | {"image": {LINK, "file image"}}
    values["guidance_image"] |= {"file guidance_image"}
    for name in ("image", "count", *(each for each in OPTIONAL if each in hook.fields)):
        here = [(place, value) for place, value in found if value in values[name]]
        places = [f"`{place}` (a file)" if value.startswith("file ") else f"`{place}`" for place, value in here]
        yield f"`{name}`", " or ".join(places) or "1 only"
    others = [f"`{name}`" for name in OPTIONAL if name not in hook.fields]
    yield ", ".join(others), "refused: the vendor has no such parameter"
    known = {value for each in values.values() for value in each}
    if besides := [f"`{place}`: `{value}`" for place, value in found if value not in known and value]:
        yield "`options`, where they say nothing else", ", ".join(besides)


def facts(row: VendorRow, hook: BackgroundHook, requests: list[Outgoing]) -> Iterator[tuple[str, str]]:
    """What a hook states of its vendor."""
    bodies = {"GET": "query", "POST": "JSON" if requests[0].json else "multipart form"}
    ways = dict.fromkeys(f"`{each.method} {each.path}` ({bodies[each.method]})" for each in requests)
    yield "connection", f"type `{row.conn_type}`, default ID `{hook.default_conn_name}`"
    if row.fields:
        yield "its own extras", ", ".join(f"`{name}`" for name in row.fields)
    yield "base URL", f"`{hook.base_url}`"
    headers = ", ".join(f"`{name}: {value}`" for name, value in hook.headers().items())
    yield "key", headers if hook.needs_key else f"{headers}; none is sent where the connection has none"
    yield "paid request", " or ".join(ways)
    kind = loaded(row.sandbox).answers
    if hook.has_tasks:
        yield "answers", f"with a task, asked for by `GET {hook.task_path}/<task>`"  # type: ignore[attr-defined]
    else:
        yield "answers", f"at once, with {'links' if kind == 'links' else 'the picture'}"
    yield "pictures a call", "any number" if hook.max_count is None else f"at most {hook.max_count}"
    yield "takes", ", ".join(takes(hook))
    yield "requests a minute", f"{hook.default_requests_per_minute:g} by default, polls included"
    if kind != "bytes":
        hour = hook.result_life == 3600
        yield "links live", "an hour" if hour else "no page says how long; a day is assumed"


def takes(hook: BackgroundHook) -> Iterator[str]:
    """What a vendor takes as a source."""
    source = hook.source
    yield " or ".join("JPEG" if name == "jpg" else name.upper() for name in source.formats)
    yield "a cut-out with transparency" if source.needs_alpha else "with or without transparency"
    if source.min_side > 1:
        yield f"at least {source.min_side} px a side"
    if source.max_side:
        yield f"at most {source.max_side} px a side"
    if source.max_bytes:
        yield f"at most {source.max_bytes / 1e6:g} MB"
    if hook.takes_links_only:
        yield "as a link only"


def answers(hook: BackgroundHook) -> Iterator[tuple[str, str, str]]:
    """What is known of a vendor's answers without pictures, and what holds for all others."""
    for row in hook.documented:
        what = [f"status {span(row.statuses)}"] if row.statuses else []
        what += [f"code {', '.join(f'`{code}`' for code in sorted(row.codes))}"] if row.codes else []
        yield f"{' and '.join(what)} in its own error body ({row.page})", *meaning(row.means)
    if hook.has_tasks:
        from airflow_provider_bgai.hooks.picwish import FAILED_STATES

        for state, (cls, text) in FAILED_STATES.items():
            free = hook.failures_are_free  # type: ignore[attr-defined]
            yield f"task state {state}: {text}", *meaning(cls if free else UnknownOutcomeError)
    by_http = "[by the status](../money.md#what-each-answer-costs)"
    yield f"status {', '.join(map(str, sorted(FREE)))}", by_http, "no"
    yield "anything else without a picture or a task", *meaning(UnknownOutcomeError)


def meaning(cls: type[BgaiError]) -> tuple[str, str]:
    return f"`{cls.__name__}`", cls.paid


def span(statuses: Iterable[int]) -> str:
    numbers = sorted(statuses)
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]


def drawn(row: VendorRow) -> str:
    """A vendor's page with its tables drawn anew."""
    page = page_of(row).read_text()
    return re.sub(f"(?<={BEGIN}\n).*?(?={END})", lambda _: f"\n{draw(row)}\n\n", page, flags=re.DOTALL)


if __name__ == "__main__":
    for each in ROWS:
        page_of(each).write_text(drawn(each))
