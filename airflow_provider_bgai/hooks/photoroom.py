"""Photoroom: one picture in, one picture out, in one call, with many parameters.

Wire facts: Photoroom's page "AI Backgrounds" (models, prompt, seed, guidance) and its OpenAPI description of
``/v2/edit`` (GET takes links in the query, POST takes files in a form; parameters; headers; errors), and its page on
billing ("errors don't consume images").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from airflow_provider_bgai.exceptions import AuthenticationError, VendorFaultError
from airflow_provider_bgai.hooks import images
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.hooks.channel import Outgoing, sendable_header
from airflow_provider_bgai.hooks.meaning import Answer, Documented
from airflow_provider_bgai.hooks.vendor import as_text
from airflow_provider_bgai.models import BackgroundRequest, Generation, SourceLimits, picture_type

MAX_FILE = 30 * 1024 * 1024
# Public clients' notes; Photoroom removes backgrounds itself.
SOURCE = SourceLimits(formats=("png", "jpg", "webp"), needs_alpha=False, max_side=5000, max_bytes=30_000_000)
# Beyond this many bytes of query, proxies and servers start to refuse a URL; the request is posted then.
MAX_QUERY = 6000

# What a shop's cut-out needs and the vendor's own defaults do not give: keep the cut-out's edges instead of
# cutting it out again, and leave the product where it is in the frame. `options` override both.
DEFAULTS: Mapping[str, str] = {"keepExistingAlphaChannel": "auto", "referenceBox": "originalImage"}

# In front of the live key; see Photoroom's page "Sandbox mode".
SANDBOX_KEY = "sandbox_"

MODEL_HEADER = "pr-ai-background-model-version"


def _error_body(body: Mapping[str, Any]) -> bool:
    """``{"error": {"message": …}}`` or ``{"error": {"detail": …}}`` and nothing else: a gateway's says more."""
    error = body.get("error")
    return set(body) == {"error"} and isinstance(error, Mapping) and set(error) in ({"message"}, {"detail"})


class PhotoroomHook(BackgroundHook):
    """Photoroom: one picture a call, by prompt, guidance image or both, with a seed.

    ``options`` pass any parameter of ``/v2/edit`` by its own name (``outputSize``, ``shadow.mode``,
    ``export.format``, …) and any header that starts with ``pr-``. The model is
    the connection's ``model_version``, or ``options["pr-ai-background-model-version"]``.
    """

    conn_type = "bgai_photoroom"
    hook_name = "Photoroom"
    default_conn_name = "photoroom_default"
    vendor = "photoroom"
    base_url = "https://image-api.photoroom.com"
    fields = frozenset({"prompt", "negative_prompt", "seed", "guidance_image", "guidance_scale"})
    max_count = 1
    count_rule = "Photoroom makes 1 picture a call; ask again with another seed"
    source = SOURCE
    default_requests_per_minute = 60
    documented = (
        Documented(
            means=VendorFaultError,
            page="docs.photoroom.com, How are API calls billed: errors don't consume images",
            envelope=_error_body,
            statuses=range(500, 600),
        ),
    )

    def check_own(self, request: BackgroundRequest) -> None:
        own = {"imageFile", "imageUrl", "background.prompt", "background.negativePrompt", "background.seed"}
        own |= {"background.guidance.imageFile", "background.guidance.imageUrl", "background.guidance.scale"}
        self.forbid_options(request, own)
        for name, value in request.options.items():
            if name.startswith("pr-") and value and not sendable_header(name, str(value)):
                raise self.refuse(f"options[{name!r}]", value, "holds characters that no header takes")
        options = request.options
        static = [
            name for name in ("background.imageUrl", "background.imageFile", "background.color") if options.get(name)
        ]
        if request.prompt is None and request.guidance_image is None and not static:
            raise self.refuse("prompt", None, "Photoroom needs a prompt, a guidance image, or both")
        if request.prompt is not None and static:
            raise self.refuse(f"options[{static[0]!r}]", options[static[0]], "excludes a prompt")
        if request.guidance_scale is not None and request.guidance_image is None:
            raise self.refuse("guidance_scale", request.guidance_scale, "needs a guidance_image")
        removes = str(options.get("removeBackground", "true")).lower() != "false"
        if request.guidance_image is not None and not removes:
            raise self.refuse("guidance_image", "given", "is not allowed with removeBackground=false")
        for field in ("image", "guidance_image"):
            source = getattr(request, field)
            if isinstance(source, bytes):
                self._check_size(field, source)

    def headers(self) -> dict[str, str]:
        return {"x-api-key": self.key()}

    def model(self, request: BackgroundRequest) -> str | None:
        chosen = request.options.get(MODEL_HEADER) or self.settings.extra.get("model_version")
        return str(chosen) if chosen else None

    def wire_fields(self, request: BackgroundRequest) -> dict[str, str]:
        """The form's or query's parameters and the ``pr-`` headers, but for the model's: that is :meth:`model`."""
        headers = self._headers(request)
        headers.pop(MODEL_HEADER, None)
        return self._parameters(request) | headers

    def _headers(self, request: BackgroundRequest) -> dict[str, str]:
        headers = {name: as_text(value) for name, value in request.options.items() if name.startswith("pr-")}
        if model := self.model(request):
            headers[MODEL_HEADER] = model
        return headers

    def _parameters(self, request: BackgroundRequest) -> dict[str, str]:
        values: dict[str, Any] = {**DEFAULTS}
        if str(request.options.get("removeBackground", "true")).lower() == "false":
            values.clear()  # both defaults are about the cut-out, and referenceBox is refused without one
        values |= {name: value for name, value in request.options.items() if not name.startswith("pr-")}
        values["background.prompt"] = request.prompt
        values["background.negativePrompt"] = request.negative_prompt
        values["background.seed"] = request.seed
        values["background.guidance.scale"] = request.guidance_scale
        if isinstance(color := values.get("background.color"), str):
            values["background.color"] = color.removeprefix("#")
        return {name: as_text(value) for name, value in values.items() if value is not None}

    async def compose(self, request: BackgroundRequest) -> Outgoing:
        model, parameters = self.model(request), self._parameters(request)
        outgoing = Outgoing(
            method="GET",
            path="/v2/edit",
            headers=self._headers(request),
            seed=request.seed,
            model=model,
            warnings=self._ignored(request, model),
        )
        links = self._links(request)
        if links is not None and len(urlencode(parameters | links)) <= MAX_QUERY:
            # An empty `params` value would be sent as an empty parameter; none is left in here.
            return replace(outgoing, params=parameters | links)
        # There is no documented form for a file beside a link, so links are fetched and posted too.
        parts: dict[str, Any] = {name: (None, value) for name, value in parameters.items()}
        parts["imageFile"] = await self._file("image", request.image)
        if request.guidance_image is not None:
            parts["background.guidance.imageFile"] = await self._file("guidance_image", request.guidance_image)
        return replace(outgoing, method="POST", parts=parts)

    def read(self, answer: Answer, outgoing: Outgoing) -> Generation | None:
        if not answer.is_picture:
            return None
        unsupported = self.settings.redact(answer.headers.get("pr-unsupported-attributes", "").strip())
        seed = answer.headers.get("pr-ai-background-seed", "")
        return Generation(
            vendor=self.vendor,
            state="succeeded",
            images=(answer.body,),
            seed=int(seed) if re.fullmatch("[0-9]{1,18}", seed) else outgoing.seed,
            model=outgoing.model,
            warnings=(unsupported,) if unsupported else (),
        )

    def pictures(self, body: bytes) -> tuple[bytes | str, ...]:
        return (body,) if picture_type(body[:16]) else ()

    def _links(self, request: BackgroundRequest) -> dict[str, str] | None:
        """The query's image links, or None if not every image is a link."""
        named = {"imageUrl": request.image, "background.guidance.imageUrl": request.guidance_image}
        links = {name: source for name, source in named.items() if source is not None}
        if all(images.is_link(link) for link in links.values()):
            return {name: str(link) for name, link in links.items()}
        return None

    async def _file(self, field: str, source: str | bytes) -> tuple[str, bytes, str]:
        data = await images.load(self, field, source)
        self._check_size(field, data)
        picture = await images.describe(self, field, data)
        return f"{field}.{picture.extension}", data, picture.content_type

    def _check_size(self, field: str, data: bytes) -> None:
        if len(data) > MAX_FILE:
            raise self.refuse(field, f"{len(data):,} bytes", f"at most {MAX_FILE:,} bytes")

    def _ignored(self, request: BackgroundRequest, model: str | None) -> tuple[str, ...]:
        """What the chosen model ignores in silence, as the vendor's page says."""
        if request.negative_prompt is not None and model != "2":
            return ("the negative prompt has an effect on model 2 only",)
        if request.guidance_scale is not None and model == "2":
            return ("the guidance scale has no effect on model 2",)
        return ()

    async def probe(self) -> tuple[bool, str]:
        sandbox = self.key().startswith(SANDBOX_KEY)
        free = "; pictures are free and carry a watermark, as it is a sandbox key" if sandbox else ""
        try:
            answer = await self.call("GET", "/v2/account")
        except AuthenticationError:
            if not sandbox:
                raise
            # Nobody documents that the account page takes such keys, so its refusal says nothing about this one.
            return True, f"Not checked: Photoroom's account page does not take this key{free}"
        try:
            left, plan = answer.fields["images"], answer.fields.get("plan", "unknown")
            counts = f"{left['available']} of {left['subscription']} images left"
            return True, f"The key is valid; plan {plan}, {counts}{free}"
        except (KeyError, TypeError):
            return True, f"The key was accepted, but the answer has an unknown form: {answer.excerpt()!r}"
