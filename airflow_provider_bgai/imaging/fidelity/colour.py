"""Colours alone: how far apart two look to people (CIEDE2000), and which few stand for many. Knows no picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_bgai.imaging.fidelity.product import Array


def delta_e(first: Array, second: Array) -> Array:
    """CIEDE2000 between two arrays of L*, a*, b* (last axis).

    Source: G. Sharma, W. Wu, E. N. Dalal, The CIEDE2000 Color-Difference Formula, Color Research and Application
    30 (2005) 21-30, equations 2 to 22.
    """
    import numpy as np

    l1, a1, b1 = np.moveaxis(first, -1, 0)
    l2, a2, b2 = np.moveaxis(second, -1, 0)
    mean7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretched = 1.5 - 0.5 * np.sqrt(mean7 / (mean7 + 25.0**7))
    a1, a2 = a1 * stretched, a2 * stretched
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    grey = c1 * c2 == 0
    turn = np.where(grey, 0, (h2 - h1 + 180) % 360 - 180)
    # Opposite hues are half a turn apart both ways; the paper takes the positive one where h2 - h1 is 180.
    turn = np.where((turn == -180) & (h2 > h1), 180, turn)
    hue_difference = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    total = h1 + h2
    far = np.abs(h1 - h2) > 180
    mean_hue = np.where(grey, total, np.where(far, np.where(total < 360, total + 360, total - 360), total) / 2)
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1
        - 0.17 * np.cos(np.radians(mean_hue - 30))
        + 0.24 * np.cos(np.radians(2 * mean_hue))
        + 0.32 * np.cos(np.radians(3 * mean_hue + 6))
        - 0.20 * np.cos(np.radians(4 * mean_hue - 63))
    )
    rotation = np.sin(np.radians(60 * np.exp(-(((mean_hue - 275) / 25) ** 2))))
    weight = 2 * np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))
    light = (l2 - l1) / (1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2))
    chroma = (c2 - c1) / (1 + 0.045 * mean_c)
    hue = hue_difference / (1 + 0.015 * mean_c * t)
    squared = light**2 + chroma**2 + hue**2 - rotation * weight * chroma * hue
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def colour_groups(colours: Array, most: int) -> tuple[Array, Array]:
    """The middles of a few groups of colours, and the share of each.

    :param colours: (number, 3), in any space; about 1,500 of them are looked at.
    :param most: groups.
    """
    import cv2
    import numpy as np

    colours = np.ascontiguousarray(colours[:: math.ceil(len(colours) / 1500)], np.float32)
    ends = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 8, 1.0)
    cv2.setRNGSeed(1)  # the same verdict each time
    start = np.zeros((len(colours), 1), np.int32)
    _, labels, middles = cv2.kmeans(colours, min(most, len(colours)), start, ends, 1, cv2.KMEANS_PP_CENTERS)
    shares = np.bincount(np.asarray(labels)[:, 0], minlength=len(middles)) / len(labels)
    return np.asarray(middles, np.float32), np.asarray(shares, np.float32)
