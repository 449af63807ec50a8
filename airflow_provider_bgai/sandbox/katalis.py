"""Katalis: JSON with picture URLs in, public links out, in the same answer.

Source: Katalis "Generate Background Image" page and "Parameter structure" page. Authentication, errors and
limits are undocumented: no key is asked for, but a wrong one is refused.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from airflow_provider_bgai.sandbox.faults import OTHER_COUNTS, SUBMIT, Hit
from airflow_provider_bgai.sandbox.state import Recipe, Task
from airflow_provider_bgai.sandbox.vendor import (
    Call,
    Endpoint,
    FetchFailed,
    Vendor,
    check_picture,
    digest,
    fetch,
    is_url,
    store_refusal,
    stored_picture,
)

ODD_WORDS = ("Completed", "success!", "Partial success")  # the page says: "e.g., Success"
MAX_RESULTS = 10  # per picture; undocumented, this only keeps a typing error from billing thousands


class Katalis(Vendor):
    name = "katalis"
    key = "katalis-test-key"
    price_per_image = 0.04
    answers = "links"
    # `Fault.word` is the answer's message; by default ODD_WORDS in turn.
    own_faults = {
        "odd_success_word": Hit(SUBMIT, charged=True),  # HTTP 200 with pictures and another word than "Success"
        "words_without_pictures": Hit(SUBMIT, charged=True),  # HTTP 200 with such a word and no pictures
        "not_success_200": Hit(SUBMIT),  # HTTP 200 with a word of failure and no pictures
        **OTHER_COUNTS,
    }

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("POST", "/service/v1/generate-image", "submit", self.submit),
            Endpoint("GET", "/results/katalis-ai/{path:path}", "download", self.download),
        ]

    def example(self, picture: bytes, link: str) -> dict[str, Any]:
        return {
            "method": "POST",
            "url": "/service/v1/generate-image",
            "json": {"image_urls": [link], "background": {"prompt": "a beach"}, "result_number": 1},
        }

    def read_key(self, request: Request) -> str:
        """The header is undocumented: take the two usual ones."""
        bearer = request.headers.get("authorization", "").rpartition(" ")[2]
        return bearer or request.headers.get("x-api-key", "")

    def check_key(self, call: Call) -> None:
        """The page's example sends no key, so none is needed."""
        if call.key:
            super().check_key(call)

    def refusal(self, problem: str, message: str = "") -> Response:
        """``{"message": "..."}``; no error is documented, so this is the success envelope."""
        status, text = {
            "invalid": (400, "Bad request"),
            "no_key": (401, "Unauthorized"),
            "bad_key": (401, "Unauthorized"),
            "quota_spent": (402, "Insufficient credit"),
            "moderation": (400, "The prompt violates the content policy"),
            "rate_limited": (429, "Too many requests"),
            "server_error": (500, "Internal server error"),
            "unavailable": (503, "Service unavailable"),
        }[problem]
        return JSONResponse({"message": message or text}, status_code=status)

    async def submit(self, call: Call) -> Response:
        self.check_key(call)
        urls, prompt, negative, number = _read(call)
        sources = await asyncio.gather(*(self._fetch(call, url) for url in urls))
        await asyncio.sleep(call.state.latency(self.name))
        if call.suffers("not_success_200"):
            return JSONResponse({"message": _message(call), "data": []})
        wish = {"image": [digest(source) for source in sources], "prompt": prompt, "negative": negative}
        made = call.made(number)
        call.charge(len(urls) * made, wish | {"result_number": number})
        if call.suffers("words_without_pictures"):
            return JSONResponse({"message": _message(call), "data": []})
        data = [
            {
                "original_image_url": url,
                "generated_image_urls": [self._result(call, source, prompt, index) for index in range(made)],
            }
            for url, source in zip(urls, sources, strict=True)
        ]
        return JSONResponse({"message": _message(call), "data": data})

    async def _fetch(self, call: Call, url: str) -> bytes:
        try:
            source = await fetch(call, url)
        except FetchFailed:
            raise call.refuse("invalid", f"Failed to download image {url}") from None
        await check_picture(call, url, source)
        return source

    def _result(self, call: Call, source: bytes, prompt: str, index: int) -> str:
        """Store one result and link to it. The real links are numbered, unsigned and public."""
        name = f"{int(time.time())}-{call.state.next_number()}.png"
        # The result's place in its call goes into the seed, since every result is a task of its own here.
        recipe = Recipe(call.state.uploads.keep(source), prompt, self.taste(call) + index, None)
        call.state.add(Task(id=f"katalis/{name}", vendor=self.name, key=call.key, recipe=recipe, images=1, latency=0))
        return call.link(f"/results/katalis-ai/image/generated/1/{name}")

    async def download(self, call: Call) -> Response:
        task = call.state.task("katalis/" + call.request.url.path.rpartition("/")[2])
        if task is None or task.expired:
            return store_refusal("expired")
        return await stored_picture(call, task, 0)


def _message(call: Call) -> str:
    """The word of the answer: the fault's own, or the one that fits it."""
    if call.fault and call.fault.word:
        return call.fault.word
    if call.suffers("not_success_200"):
        return "Failed to generate image"
    if call.suffers("odd_success_word") or call.suffers("words_without_pictures"):
        return ODD_WORDS[call.state.turn("odd word") % len(ODD_WORDS)]
    return "Success"


def _read(call: Call) -> tuple[list[str], str, str, int]:
    """image_urls, prompt, negative prompt and result_number of a valid request."""
    call.require(call.content_type == "application/json", "Content-Type must be application/json")
    call.require(not call.complaint, call.complaint)
    body = _object(call, call.fields, "the body", {"image_urls", "background", "result_number"})
    background = _object(call, body.get("background"), "background", {"prompt", "negative_prompt"})
    urls, number = body.get("image_urls"), body.get("result_number", 1)
    prompt, negative = background.get("prompt"), background.get("negative_prompt", "")
    call.require(isinstance(urls, list) and urls, "image_urls must be a list of URLs")
    call.require(all(isinstance(url, str) and is_url(url) for url in urls or ()), "image_urls must be a list of URLs")
    call.require(isinstance(prompt, str) and prompt, "background.prompt is required")
    call.require(isinstance(negative, str), "background.negative_prompt must be a string")
    whole = isinstance(number, int) and not isinstance(number, bool)
    call.require(whole and 1 <= number <= MAX_RESULTS, f"result_number must be from 1 to {MAX_RESULTS}")
    if str(prompt).startswith("#"):
        call.require(re.fullmatch(r"#[0-9A-Fa-f]{6}", str(prompt)), "background.prompt is not a hex colour")
    return list(urls or ()), str(prompt), negative, number


def _object(call: Call, value: Any, what: str, allowed: set[str]) -> dict[str, Any]:
    call.require(isinstance(value, dict), f"{what} must be an object")
    for name in value:
        call.require(name in allowed, f"{name} is not a parameter of this API")
    return dict(value)
