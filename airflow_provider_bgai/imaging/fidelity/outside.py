"""Past the outline: what a picture shows of the product beyond the product itself, against the limits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.copies import repeated
from airflow_provider_bgai.imaging.fidelity.grown import grown
from airflow_provider_bgai.imaging.fidelity.product import Placement
from airflow_provider_bgai.imaging.fidelity.surroundings import SIZE

if TYPE_CHECKING:
    from airflow_provider_bgai.imaging.fidelity.judge import Thresholds, Verdict
    from airflow_provider_bgai.imaging.fidelity.product import Levels, Product
    from airflow_provider_bgai.imaging.fidelity.surroundings import Outline
    from airflow_provider_bgai.imaging.small import Halves


def judged_outside(product: Product, halves: Halves, verdict: Verdict, limits: Thresholds) -> Verdict:
    """A verdict on a faithful product, and on what is around it."""
    assert verdict.placement is not None
    picture, placement = _near_enough(product, halves, verdict.placement)
    growth = grown(product, picture, placement)
    reasons: list[str] = []
    outlines: list[Outline] = []
    if growth.share > limits.max_growth:
        where = _where(growth.outlines, product, picture, placement)
        reasons.append(f"the product has grown by {growth.share:.1%} {where} (at most {limits.max_growth:.1%})")
        outlines += growth.outlines
    copies = repeated(product, picture, placement)
    if copies.count > limits.max_copies:
        where = _where(copies.outlines, product, picture, placement)
        reasons.append(
            f"the scene shows the product {copies.count} more time(s), {where} (at most {limits.max_copies})"
        )
        outlines += copies.outlines
    return replace(
        verdict,
        faithful=not reasons,
        reasons=(*verdict.reasons, *reasons),
        growth=growth.share,
        copies=copies.count,
        outlines=tuple(outlines),
    )


def _near_enough(product: Product, picture: Halves, placement: Placement) -> tuple[Levels, Placement]:
    """The picture as small as nobody who looks around the product looks closer, and where the source lies in it."""
    left, top, right, bottom = product.box_at(placement)
    times = max(0, math.floor(math.log2(max(right - left, bottom - top) / SIZE)))
    place = (getattr(placement, name) / 2**times for name in ("x", "y", "scale_x", "scale_y"))
    return picture.halved(times), Placement(*place)


def _where(outlines: Iterable[Outline], product: Product, picture: Levels, placement: Placement) -> str:
    """From the product's middle: all around, or to which side."""
    left, top, right, bottom = product.box_at(placement)
    height, width = picture.shape[:2]
    sides = set()
    for outline in outlines:
        x, y = (sum(corner[axis] for corner in outline) / len(outline) / 1000 for axis in (0, 1))
        sides.add(_side((x * width - left) / (right - left), (y * height - top) / (bottom - top)))
        spread = [max(corner[axis] for corner in outline) - min(corner[axis] for corner in outline) for axis in (0, 1)]
        if spread[0] / 1000 * width > right - left and spread[1] / 1000 * height > bottom - top:
            return "all around"
    return "all around" if len(sides) > 2 else f"at the {' and the '.join(sorted(sides))}"


def _side(x: float, y: float) -> str:
    """Where a point lies of which 0 to 1 are the product's own box."""
    across, down = x - 0.5, y - 0.5
    if math.hypot(across, down) < 0.2:
        return "middle"
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "top" if down < 0 else "bottom"
