"""Photoroom: one picture in, one picture out; ``GET`` with URLs in the query, ``POST`` with files in a form.

Source: Photoroom "AI Backgrounds" page and its OpenAPI description of ``/v2/edit`` and ``/v2/account``.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

from PIL import Image, ImageColor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from airflow_provider_bgai.sandbox import paint
from airflow_provider_bgai.sandbox.faults import SUBMIT, Hit
from airflow_provider_bgai.sandbox.vendor import (
    Call,
    Endpoint,
    FetchFailed,
    Vendor,
    check_form,
    check_picture,
    digest,
    fetch,
    is_url,
)

MAX_BYTES = 30 * 1024 * 1024  # each picture
MAX_SIDE = 5000  # pixels asked for with outputSize; keeps one request from taking all the memory

NO_CREDITS = "API credits exhausted. Visit https://app.photoroom.com/api-dashboard to purchase more API credits"
SANDBOX_PREFIX = "sandbox_"  # keys that cost nothing and get a watermark
OLD_MODEL = "2"
MODELS = ("3", "background-studio-beta-2025-03-17", OLD_MODEL)
SHADOWS_HEADER = "pr-ai-shadows-model-version"
SHADOWS_MODEL = "2026-04-15"
HEADERS = {
    "pr-ai-background-model-version": MODELS,
    "pr-background-removal-model-version": ("2023-06-01", "2024-09-26"),
    SHADOWS_HEADER: (SHADOWS_MODEL,),
}

Rule = Callable[[str], bool]
IMAGES = ("image", "background.image", "background.guidance.image")  # + File in POST, + Url in GET


def _one_of(*values: str) -> Rule:
    return lambda text: text in values


def _number(low: float, high: float, *, open_low: bool = False) -> Rule:
    def rule(text: str) -> bool:
        try:
            value = float(text)
        except ValueError:
            return False
        return math.isfinite(value) and low <= value <= high and not (open_low and value == low)

    return rule


def _text(text: str) -> bool:
    return bool(text)


def _pattern(pattern: str) -> Rule:
    return lambda text: re.fullmatch(pattern, text) is not None


def _space(text: str) -> bool:
    """Padding or margin: 0 to 0.49, ``30%`` or ``100px``."""
    if text.endswith("%"):
        return _number(0, 49)(text[:-1])
    return text.removesuffix("px").isdigit() if text.endswith("px") else _number(0, 0.49)(text)


def _colour(text: str) -> bool:
    """Hexadecimal or a name. The text of the page says no ``#``, its example has one: both pass."""
    if re.fullmatch(r"#?([0-9A-Fa-f]{3}|[0-9A-Fa-f]{6}|[0-9A-Fa-f]{8})", text):
        return True
    return text == "transparent" or text.lower() in ImageColor.colormap


def _uuid(text: str) -> bool:
    try:
        return bool(UUID(text))
    except ValueError:
        return False


_BOOLEAN = _one_of("true", "false")
_SIDES = ("", "Top", "Right", "Bottom", "Left")

RULES: dict[str, Rule] = {
    "removeBackground": _BOOLEAN,
    "keepExistingAlphaChannel": _one_of("auto", "never"),
    "background.prompt": _text,
    "background.negativePrompt": _text,
    "background.seed": _pattern(r"0*[1-9]\d{0,18}"),
    "background.expandPrompt.mode": _one_of("ai.auto", "ai.never"),
    "background.expandPrompt": _one_of("auto", "never"),
    "background.guidance.scale": _number(0, 1),
    "background.scaling": _one_of("fit", "fill"),
    "background.color": _colour,
    "background.blur.mode": _one_of("gaussian", "bokeh"),
    "background.blur.radius": _number(0, 0.05, open_low=True),
    "outputSize": _pattern(r"auto|\d+x\d+|originalImage|croppedSubject"),
    "maxWidth": _number(1, math.inf),
    "maxHeight": _number(1, math.inf),
    **{f"padding{side}": _space for side in _SIDES},
    **{f"margin{side}": _space for side in _SIDES},
    "scaling": _one_of("fit", "fill"),
    "referenceBox": _one_of("subjectBox", "originalImage"),
    "horizontalAlignment": _one_of("left", "center", "right"),
    "verticalAlignment": _one_of("top", "center", "bottom"),
    "ignorePaddingAndSnapOnCroppedSides": _BOOLEAN,
    "export.format": _one_of("png", "jpeg", "jpg", "webp", "avif"),
    "export.dpi": _number(72, 1200),
    "lighting.mode": _one_of("ai.auto", "ai.preserve-hue-and-saturation", "ai.optimize-portrait"),
    "shadow.mode": _one_of(
        "ai.soft", "ai.hard", "ai.floating", "ai.preset-soft", "ai.preset-hard", "ai.auto-with-overrides"
    ),
    **{f"shadow.{what}Override": _text for what in ("direction", "intensity", "softness", "spread", "subjectPose")},
    "preserveMetadata": _one_of("never", "xmp", "exifSubset", "exifSubsetWithXmpCompatibility"),
    "colorSpace": _one_of("sRGB", "original"),
    "templateId": _uuid,
    "textRemoval.mode": _text,
    "ironing.mode": _text,
    "layers": _text,
}
# Documented families whose members do not touch the background; taken as they are.
FAMILIES = (
    "expand.",
    "uncrop.",
    "upscale.",
    "outline.",
    "segmentation.",
    "beautify.",
    "editWithAI.",
    "flatLay.",
    "ghostMannequin.",
    "virtualModel.",
    "imageFromPrompt.",
)
SHARES = {"left": 0.0, "top": 0.0, "center": 0.5, "right": 1.0, "bottom": 1.0}  # of the free room
NEEDS_CUT_OUT = (
    "background.guidance.scale",
    "referenceBox",
    "ignorePaddingAndSnapOnCroppedSides",
)


class Photoroom(Vendor):
    name = "photoroom"
    key = "photoroom-test-key"
    price_per_image = 0.10
    answers = "bytes"
    own_faults = {"unsupported_attributes": Hit(SUBMIT, charged=True)}  # and the option ignored

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("POST", "/v2/edit", "submit", self.post),
            Endpoint("GET", "/v2/edit", "submit", self.get),
            Endpoint("GET", "/v2/account", "account", self.account),
            Endpoint("GET", "/v1/account", "account", self.old_account),
        ]

    def example(self, picture: bytes, link: str) -> dict[str, Any]:
        return {
            "method": "POST",
            "url": "/v2/edit",
            "headers": {"X-API-KEY": self.key},
            "data": {"background.prompt": "a beach"},
            "files": {"imageFile": ("product.png", picture)},
        }

    def read_key(self, request: Request) -> str:
        return request.headers.get("x-api-key", "")

    def refusal(self, problem: str, message: str = "") -> Response:
        """``{"error": {"message": "..."}}``; spent credits say ``detail``; 403, 429 and 503 have no body."""
        if problem == "quota_spent":
            return JSONResponse({"error": {"detail": NO_CREDITS}}, status_code=402)
        bare = {"no_key": 403, "bad_key": 403, "rate_limited": 429, "unavailable": 503}
        if problem in bare:
            return Response(status_code=bare[problem])
        status, text = {
            "invalid": (400, "Bad request"),
            "moderation": (400, "The prompt was rejected by our content moderation"),
            "server_error": (500, "An unexpected error occurred. Please try again later or contact support."),
        }[problem]
        return JSONResponse({"error": {"message": message or text}}, status_code=status)

    async def post(self, call: Call) -> Response:
        """Files in a multipart form; nothing in the query string."""
        self.check_key(call)
        call.require(not call.query, "Parameters must not be passed using the query string")
        families = {name for name in [*call.fields, *call.files] if name.startswith(FAMILIES)}
        check_form(
            call,
            fields=set(RULES) | (families & set(call.fields)),
            files={f"{name}File" for name in IMAGES} | (families & set(call.files)),
        )
        call.require("imageFile" in call.files, "imageFile: must be provided")
        images = {name: call.files[f"{name}File"].content for name in IMAGES if f"{name}File" in call.files}
        return await self._edit(call, call.fields, images)

    async def get(self, call: Call) -> Response:
        """URLs in the query string; no body."""
        self.check_key(call)
        options = dict(call.query)
        call.require(len(options) == len(call.request.query_params.multi_items()), "a parameter is given twice")
        call.require(not await call.request.body(), "GET takes its parameters from the query string")
        urls = {name: options.pop(f"{name}Url") for name in IMAGES if f"{name}Url" in options}
        for name in options:
            call.require(name in RULES or name.startswith(FAMILIES), f"{name} is not a parameter of this API")
        call.require("image" in urls, "imageUrl: must be provided")
        for name, url in urls.items():
            call.require(is_url(url), f"{name}Url must be a valid URL")
        _check_options(call, options, set(urls))
        images = {name: await _fetch(call, name, url) for name, url in urls.items()}
        return await self._edit(call, options, images)

    async def _edit(self, call: Call, options: dict[str, str], images: dict[str, bytes]) -> Response:
        _check_headers(call)
        _check_options(call, options, set(images))
        for name, content in images.items():
            call.require(len(content) <= MAX_BYTES, f"{name}: must not exceed 30 MB")
            await check_picture(call, name, content, ("PNG", "JPEG", "WEBP"))
        model = call.request.headers.get("pr-ai-background-model-version", MODELS[0])
        generated = "background.prompt" in options or "background.guidance.image" in images
        seed = int(options.get("background.seed") or call.state.new_seed())
        free = call.key.startswith(SANDBOX_PREFIX)
        picture = await asyncio.to_thread(_paint, images, options, seed, marked=free)
        await asyncio.sleep(call.state.latency(self.name))
        if not free:
            wish = {name: digest(content) for name, content in images.items()} | options | {"model": model}
            call.charge(1, wish)
        headers = {"x-uncertainty-score": "0.12"}
        if generated:
            headers["pr-ai-background-seed"] = str(seed)
        if ignored := _ignored(call, options, model):
            headers["pr-unsupported-attributes"] = f"Unsupported attributes: {', '.join(ignored)}"
        if call.request.method == "GET":
            headers["pr-edit-further-url"] = "https://app.photoroom.com/create"
        return Response(picture, media_type=f"image/{_format(options)}", headers=headers)

    async def account(self, call: Call) -> Response:
        """``{"images": {"available": 83, "subscription": 100}, "plan": "basic"}``."""
        self._check_account(call)
        return JSONResponse({"images": self._balance(call), "plan": "basic"})

    async def old_account(self, call: Call) -> Response:
        self._check_account(call)
        return JSONResponse({"credits": self._balance(call)})

    def _check_account(self, call: Call) -> None:
        call.require(call.key, "apiKey: Required")
        self.check_key(call)

    def _balance(self, call: Call) -> dict[str, int]:
        available = call.state.credits(self.name)
        return {"available": available, "subscription": available + call.state.images_charged(self.name)}


async def _fetch(call: Call, name: str, url: str) -> bytes:
    try:
        return await fetch(call, url)
    except FetchFailed as error:
        raise call.refuse("invalid", f"{name}Url: {error}") from None


def _check_headers(call: Call) -> None:
    for name, value in call.request.headers.items():
        if name.startswith("pr-"):
            call.require(value in HEADERS.get(name, ()), f"{name}: unknown header or version {value!r}")


def _check_options(call: Call, options: dict[str, str], images: set[str]) -> None:
    """Each value by its own rule, then what excludes or needs what."""
    for name, value in options.items():
        rule = RULES.get(name, _text)
        call.require(rule(value), f"{name} must not be {value!r}")
    has_image, has_guidance = "background.image" in images, "background.guidance.image" in images
    prompted = "background.prompt" in options
    call.require(not (prompted and has_image), "background.prompt excludes a background image")
    call.require(not (has_guidance and has_image), "background.guidance excludes a background image")
    if options.get("removeBackground") == "false":
        for name in NEEDS_CUT_OUT:
            call.require(name not in options, f"{name} is not available when removeBackground is false")
        call.require(not has_image and not has_guidance, "removeBackground false excludes background images")
    call.require(has_image or "background.scaling" not in options, "background.scaling needs a background image")
    call.require(has_guidance or "background.guidance.scale" not in options, "a guidance scale needs an image")
    follows = options.get("outputSize") in ("originalImage", "croppedSubject")
    for name in ("maxWidth", "maxHeight"):
        call.require(follows or name not in options, f"{name} needs outputSize originalImage or croppedSubject")
    width, height = _output_size(options) or (1, 1)
    call.require(0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE, "outputSize is out of range")
    painted = prompted or has_image or has_guidance or options.get("background.color", "transparent") != "transparent"
    original = options.get("colorSpace") == "original"
    call.require(not (original and painted), "colorSpace original cannot be combined with a background")
    _check_shadow(call, options)


def _check_shadow(call: Call, options: dict[str, str]) -> None:
    new = call.request.headers.get(SHADOWS_HEADER) == SHADOWS_MODEL
    mode = options.get("shadow.mode", "")
    needs_new = mode.startswith("ai.preset-") or mode == "ai.auto-with-overrides"
    call.require(new or not needs_new, f"shadow.mode {mode} needs the header {SHADOWS_HEADER}: {SHADOWS_MODEL}")
    overrides = any(name.endswith("Override") for name in options)
    call.require(mode or not overrides, "shadow overrides need shadow.mode")


def _ignored(call: Call, options: dict[str, str], model: str) -> list[str]:
    """Options that were billed and not honoured: guidance.scale works on new models only."""
    names = ["background.guidance.scale"] if model == OLD_MODEL and "background.guidance.scale" in options else []
    return names + (["background.inner"] if call.suffers("unsupported_attributes") else [])


def _format(options: dict[str, str]) -> str:
    return options.get("export.format", "png").replace("jpg", "jpeg")


def _output_size(options: dict[str, str]) -> tuple[int, int] | None:
    width, found, height = options.get("outputSize", "auto").partition("x")
    return (int(width), int(height)) if found and width.isdigit() else None


def _paint(images: dict[str, bytes], options: dict[str, str], seed: int, *, marked: bool) -> bytes:
    keep_all = options.get("removeBackground") == "false"
    product = _placed(paint.cut_out(images["image"], keep_all=keep_all), options)
    picture = _behind(product, images, options, seed)
    if marked:
        picture = paint.watermark(picture)
    extra: dict[str, Any] = {}
    if "export.dpi" in options:
        extra["dpi"] = (float(options["export.dpi"]),) * 2
    return paint.encode(picture, _format(options), **extra)


def _behind(product: Image.Image, images: dict[str, bytes], options: dict[str, str], seed: int) -> Image.Image:
    """The placed product with whatever was asked for behind it."""
    if guidance := images.get("background.guidance.image"):
        prompt = f"{options.get('background.prompt', '')} {digest(guidance)}"
        return paint.compose(product, prompt.strip(), seed, 0)
    if "background.prompt" in options:
        prompt = options["background.prompt"]
        return paint.compose(product, prompt, seed, 0)
    if image := images.get("background.image"):
        return paint.onto(product, image, fill=options.get("background.scaling", "fill") == "fill")
    colour = options.get("background.color", "transparent")
    if colour == "transparent":
        return product
    if colour.lower() not in ImageColor.colormap:
        colour = f"#{colour.lstrip('#')}"
    return paint.flatten(product, colour)


def _placed(product: Image.Image, options: dict[str, str]) -> Image.Image:
    """The product on a transparent canvas, sized and aligned as asked."""
    box = product.getchannel("A").getbbox() or (0, 0, *product.size)
    whole = options.get("referenceBox") == "originalImage"
    size = options.get("outputSize", "auto")
    if size == "croppedSubject":
        return _limited(product.crop(box), options)
    if size == "originalImage":
        return _limited(product, options)
    subject = product if whole else product.crop(box)
    return _arranged(subject, _output_size(options) or product.size, options)


def _limited(product: Image.Image, options: dict[str, str]) -> Image.Image:
    widest = float(options.get("maxWidth", math.inf)) / product.width
    highest = float(options.get("maxHeight", math.inf)) / product.height
    return paint.scaled(product, min(1.0, widest, highest))


def _arranged(subject: Image.Image, canvas: tuple[int, int], options: dict[str, str]) -> Image.Image:
    left, top, right, bottom = (
        sum(_pixels(options, kind, side, canvas) for kind in ("padding", "margin"))
        for side in ("Left", "Top", "Right", "Bottom")
    )
    room = (max(1, canvas[0] - left - right), max(1, canvas[1] - top - bottom))
    along = SHARES[options.get("horizontalAlignment", "center")]
    down = SHARES[options.get("verticalAlignment", "center")]
    if options.get("scaling") == "fill":
        subject = paint.filled(subject, room, (along, down))
    else:
        subject = paint.scaled(subject, min(room[0] / subject.width, room[1] / subject.height))
    x, y = left + (room[0] - subject.width) * along, top + (room[1] - subject.height) * down
    placed = Image.new("RGBA", canvas)
    placed.paste(subject, (round(x), round(y)))
    return placed


def _pixels(options: dict[str, str], kind: str, side: str, canvas: tuple[int, int]) -> int:
    """One side's padding or margin in pixels."""
    text = options.get(kind + side, options.get(kind, "0"))
    along = canvas[0] if side in ("Left", "Right") else canvas[1]
    if text.endswith("px"):
        return int(text[:-2])
    return round(along * (float(text[:-1]) / 100 if text.endswith("%") else float(text)))
