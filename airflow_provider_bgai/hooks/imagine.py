"""Imagine (Vyro): one file and one prompt in, one picture out, in one call.

Wire facts: Vyro's page "AI Backgrounds API" (the fields, "the response for 200 code is bytes") and its
error page (codes 1000 to 1202). No page says what an error costs, so its 503 with 1200 or 1201 is in doubt.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from airflow_provider_bgai.exceptions import AuthenticationError, QuotaError, RateLimitError, RefusedError
from airflow_provider_bgai.hooks import images
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.hooks.channel import Outgoing
from airflow_provider_bgai.hooks.meaning import Answer, Documented
from airflow_provider_bgai.hooks.vendor import as_text
from airflow_provider_bgai.models import BackgroundRequest, Generation, picture_type

PAGE = "docs.imagine.art/troubleshooting/error-documentation"


def _error_body(body: Mapping[str, Any]) -> bool:
    return body.get("status") == "error"


class ImagineHook(BackgroundHook):
    """Imagine: one picture a call, by prompt, with a seed; files only, no negative prompt.

    ``options``: ``style`` (``product-shoot``, the default and the only one documented).
    """

    conn_type = "bgai_imagine"
    hook_name = "Imagine (Vyro)"
    default_conn_name = "imagine_default"
    vendor = "imagine"
    base_url = "https://api.vyro.ai"
    fields = frozenset({"prompt", "seed"})
    max_count = 1
    count_rule = "Imagine makes 1 picture a call; ask again with another seed"
    # The request was not let in. Code 1100 (400) goes by its status: its message may be about the prompt's content.
    documented = tuple(
        Documented(means=means, page=PAGE, envelope=_error_body, codes=codes)
        for means, codes in (
            (AuthenticationError, {"1000", "1001", "1002", "1005", "1006", "1007"}),
            (RefusedError, {"1003", "1004"}),
            (QuotaError, {"1101"}),
            (RateLimitError, {"1202"}),
        )
    ) + (
        Documented(means=AuthenticationError, page=PAGE, envelope=_error_body, statuses={406}),  # bearer expired
    )

    def check_own(self, request: BackgroundRequest) -> None:
        if request.prompt is None:
            raise self.refuse("prompt", None, "Imagine needs a prompt")
        # An undocumented field is answered with an error by sibling endpoints, so none is sent.
        for name in request.options:
            if name != "style":
                raise self.refuse(f"options[{name!r}]", request.options[name], "Imagine documents only 'style'")
        if request.options.get("style", "product-shoot") != "product-shoot":
            raise self.refuse("options['style']", request.options["style"], "only 'product-shoot' is documented")

    def wire_fields(self, request: BackgroundRequest) -> dict[str, str]:
        values = {"prompt": request.prompt, "style": request.options.get("style"), "seed": request.seed}
        return {name: as_text(value) for name, value in values.items() if value is not None}

    async def compose(self, request: BackgroundRequest) -> Outgoing:
        data = await images.load(self, "image", request.image)
        picture = await images.describe(self, "image", data)
        warnings: tuple[str, ...] = ()
        if not picture.has_alpha:
            warnings = (f"Imagine asks for a transparent image; this {picture.extension} has no transparency",)
        parts: dict[str, Any] = {name: (None, value) for name, value in self.wire_fields(request).items()}
        parts["image"] = (f"image.{picture.extension}", data, picture.content_type)
        path = "/v2/image/generations/ai-background"
        return Outgoing(method="POST", path=path, parts=parts, seed=request.seed, warnings=warnings)

    def read(self, answer: Answer, outgoing: Outgoing) -> Generation | None:
        found = self.pictures(answer.body)
        if not found:
            return None
        return Generation(vendor=self.vendor, state="succeeded", images=found, seed=outgoing.seed)

    def pictures(self, body: bytes) -> tuple[bytes | str, ...]:
        """The page says bytes; a public client's note says that JSON with Base64 in ``image`` comes, too."""
        answer = Answer(200, {}, body)
        if answer.is_picture:
            return (body,)
        encoded = answer.fields.get("image")
        try:
            decoded = base64.b64decode(encoded.rpartition(",")[2], validate=True) if isinstance(encoded, str) else b""
        except ValueError:
            return ()
        return (decoded,) if picture_type(decoded[:16]) else ()
