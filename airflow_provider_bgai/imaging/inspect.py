"""What a result is: decoded to its end, compared with the product where it can be, with thumbnails for the report.

Pixels alone: where the file came from and where it goes is landing's business.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from airflow_provider_bgai.imaging.fidelity import Thresholds, Verdict
from airflow_provider_bgai.models import BackgroundRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.verify import Picture

Box = tuple[int, int, int, int]
"""px: left, top, width, height."""

_PLAIN = re.compile(
    r"white|black|transparent|plain|solid|blank|clean|minimal|isolated|seamless|studio|#?\b[0-9a-f]{6}\b", re.IGNORECASE
)


class Inspection(BaseModel):
    """How the pictures of a call are looked at when they land. That they are whole is verified in any case.

    :param thresholds: limits beyond which a picture does not show the product; None: it is not compared.
    :param enforce: such a picture goes to quarantine. False: it lands, and the verdict is a warning.
    :param plain: a plain background was asked for, so a plain one is no sign of failure.
    :param keeps_frame: nothing was asked for that changes the picture's shape, so another one is worth a warning.
    :param box: where the source's frame lies in what was sent, in px; ``sent``: the size of what was sent.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    thresholds: Thresholds | None = Thresholds()
    enforce: bool = True
    plain: bool = False
    keeps_frame: bool = True
    box: Box | None = None
    sent: tuple[int, int] | None = None


@dataclass(frozen=True)
class Seen:
    """What was seen: the verdict, if there was anything to compare with, and thumbnails of source and result.

    :param instead: the file to land, where what came is whole and cannot be published as it is.
    """

    picture: Picture
    verdict: Verdict | None = None
    problem: str | None = None
    before: bytes | None = None
    after: bytes = b""
    instead: bytes | None = None


def inspect(file: IO[bytes], source: bytes | None, inspection: Inspection, placement: Box | None) -> Seen:
    """Decode a picture, and compare it with the product where it can be.

    :raises NotAPictureError: if it is none.
    :raises UnreadKindError: if it is of a kind that is not read here.
    """
    from airflow_provider_bgai.imaging.publishable import publishable, sound

    instead, why = publishable(file)
    if instead is not None:
        file = io.BytesIO(instead)
    seen = _inspect(file, source, inspection, placement)
    problem = "; ".join(filter(None, (why, seen.picture.problem, seen.problem))) or None
    return replace(seen, problem=problem, instead=sound(file, seen.picture) or instead)


def _inspect(file: IO[bytes], source: bytes | None, inspection: Inspection, placement: Box | None) -> Seen:
    from airflow_provider_bgai.imaging.fidelity import compare, has_no_alpha, opaque
    from airflow_provider_bgai.imaging.recent import read_source
    from airflow_provider_bgai.imaging.renditions import thumbnail
    from airflow_provider_bgai.imaging.small import Halves, sketch
    from airflow_provider_bgai.imaging.verify import (
        UnpaintedError,
        check_painted,
        frame_problem,
        open_whole,
        verify_whole,
    )

    if inspection.thresholds is None:
        return Seen(verify_whole(file))
    if source is None:
        picture, image = open_whole(file)
        return Seen(
            picture, problem="is not compared, its source is not what was sent any more", after=thumbnail(image)
        )
    try:
        # Not handed on from who prepared it: it would wait in memory until each picture is fetched.
        sent = read_source(source)
        cutout = sent.pixels
    except ValueError as error:
        picture, image = open_whole(file)
        return Seen(picture, problem=f"is not compared, its source cannot be read: {error}", after=thumbnail(image))
    picture, image = open_whole(file)
    shown = Halves(opaque(image))
    # From afar both are looked at twice: by who checks that something was painted, and by people.
    small_cutout, small = sketch(cutout), sketch(shown if has_no_alpha(image) else image)
    before, after = thumbnail(small_cutout), thumbnail(small)
    try:
        check_painted(small, None if inspection.plain else small_cutout)
    except UnpaintedError as error:
        return Seen(picture, Verdict(faithful=False, reasons=(str(error),)), str(error), before, after)
    alpha = sent.alpha
    if alpha.min() == 255:
        return Seen(picture, None, "is not compared, its source is no cut-out", before, after)
    hint = placement or _product_box(alpha, inspection, (shown.levels.shape[1], shown.levels.shape[0]))
    try:
        verdict = compare(cutout, shown, hint=hint, thresholds=inspection.thresholds)
    except ValueError as error:
        return Seen(picture, None, f"is not compared: {error}", before, after)
    problem = None if verdict.faithful else f"does not show the product: {'; '.join(verdict.reasons)}"
    if problem is None and inspection.keeps_frame and inspection.sent is not None:
        problem = frame_problem(picture, aspect=inspection.sent[0] / inspection.sent[1])
    return Seen(picture, verdict, problem, before, after)


def _product_box(alpha: NDArray[Any], inspection: Inspection, size: tuple[int, int]) -> Box | None:
    """Where the product lies in a result of this size, if it is where it was in what the vendor was sent."""
    import cv2

    left, top, width, height = cv2.boundingRect(alpha)
    if width == 0 or inspection.box is None or inspection.sent is None:
        return None
    corners = []
    for axis, place in ((0, left), (1, top), (0, left + width), (1, top + height)):
        inside = inspection.box[axis] + place * inspection.box[2 + axis] / alpha.shape[1 - axis]
        corners.append(round(inside * size[axis] / inspection.sent[axis]))
    return corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]


def asks_for_plain(request: BackgroundRequest) -> bool:
    """Whether a white, black or transparent background may be just what was asked for."""
    asked = [request.prompt, *(str(value) for value in request.options.values())]
    return any(_PLAIN.search(text or "") for text in asked)
