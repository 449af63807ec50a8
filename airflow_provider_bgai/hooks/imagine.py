"""Imagine (Vyro): one file and one prompt in, one picture out, in one call.

Wire facts: Vyro's page "AI Backgrounds API" (the fields, "the response for 200 code is bytes") and its
error page (codes 1000 to 1202).
"""

from __future__ import annotations

import base64

from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    QuotaError,
    RateLimitError,
    RefusedError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.hooks.base import Answer, BackgroundHook
from airflow_provider_bgai.models import BackgroundRequest, Generation, picture_type

# Vyro's error page. Codes it does not name go by their HTTP status, and so does 1100 (400): an invalid request,
# which may be the prompt's content.
_CODES: dict[str, type[BgaiError]] = {
    **dict.fromkeys(("1000", "1001", "1002", "1005", "1006", "1007"), AuthenticationError),
    **dict.fromkeys(("1003", "1004"), RefusedError),
    "1101": QuotaError,
    **dict.fromkeys(("1200", "1201"), VendorFaultError),
    "1202": RateLimitError,
}


class ImagineHook(BackgroundHook):
    """Imagine: one picture a call, by prompt, with a seed; files only, no negative prompt.

    ``options``: ``style`` (``product-shoot``, the default and the only one documented).
    """

    conn_type = "bgai_imagine"
    hook_name = "Imagine (Vyro)"
    default_conn_name = "imagine_default"
    vendor = "imagine"
    base_url = "https://api.vyro.ai"

    def check(self, request: BackgroundRequest) -> None:
        self._forbid(request, "negative_prompt", "template", "guidance_image", "guidance_scale")
        if request.prompt is None:
            raise self._refuse("prompt", None, "Imagine needs a prompt")
        if request.count != 1:
            raise self._refuse("count", request.count, "Imagine makes 1 picture a call; ask again with another seed")
        # An undocumented field is answered with an error by sibling endpoints, so none is sent.
        for name in request.options:
            if name != "style":
                raise self._refuse(f"options[{name!r}]", request.options[name], "Imagine documents only 'style'")
        if request.options.get("style", "product-shoot") != "product-shoot":
            raise self._refuse("options['style']", request.options["style"], "only 'product-shoot' is documented")

    async def _submit(self, request: BackgroundRequest) -> Generation:
        data = await self.load_image("image", request.image)
        picture = await self._read_picture("image", data)
        if not picture.has_alpha:
            self.log.warning("Imagine asks for a transparent image; this %s has no transparency", picture.extension)
        parts = {
            "prompt": (None, request.prompt),
            "image": (f"image.{picture.extension}", data, picture.content_type),
        }
        if request.options.get("style"):
            parts["style"] = (None, request.options["style"])
        if request.seed is not None:
            parts["seed"] = (None, str(request.seed))
        path = "/v2/image/generations/ai-background"
        answer = await self._call("POST", path, paid=True, files=parts)
        return Generation(
            vendor=self.vendor,
            state="succeeded",
            images=(self._picture(answer),),
            seed=request.seed,
            model=request.options.get("style", "product-shoot"),
        )

    def _picture(self, answer: Answer) -> bytes:
        if answer.is_picture:
            return answer.body
        body = answer.json
        encoded = body.get("image") if isinstance(body, dict) else None
        if isinstance(encoded, str):
            try:
                decoded = base64.b64decode(encoded.partition(",")[2] if "," in encoded else encoded, validate=True)
            except ValueError:
                decoded = b""
            if picture_type(decoded[:16]):
                return decoded
        raise self._error(UnknownOutcomeError, f"status 200, but no picture: {answer.excerpt()!r}")

    def _classify(self, status: int, code: str | None, message: str, *, paid: bool) -> type[BgaiError]:
        if code in _CODES:
            return _CODES[code]
        if status == 406:
            return AuthenticationError  # Vyro: the bearer has expired
        return super()._classify(status, code, message, paid=paid)
