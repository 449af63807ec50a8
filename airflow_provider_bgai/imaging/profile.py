"""An ICC profile out of what a PNG says of its colours without one: gAMA and cHRM.

Sources: the PNG specification (third edition), 11.3.2, and its precedence: a profile, then sRGB, then these two;
ICC.1:2001-04 for the bytes; the white is adapted by Bradford's matrix, as profiles have it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

# Of sRGB: white, red, green, blue as x and y, and what the specification has written for its curve.
_SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_SRGB_GAMMA = 0.45455
# As libpng has it: a twentieth of a gamma is no difference.
_SAME_GAMMA, _SAME_PLACE = 0.05, 0.002
_D50 = (0.96420, 1.0, 0.82491)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def profile_of(info: Mapping[Any, Any], grey: bool) -> bytes | None:
    """The profile that a PNG's gAMA and cHRM stand for; None if it says nothing, or is sRGB.

    :param info: as Pillow gives it: ``gamma``, ``chromaticity``, ``srgb``.
    :raises ValueError: for values that no colours have.
    """
    gamma, places = info.get("gamma"), info.get("chromaticity")
    if "srgb" in info or (gamma is None and places is None):
        return None
    if gamma is not None and not 0.05 <= gamma <= 5:
        raise ValueError(f"its gamma cannot be used (gAMA {gamma:g})")
    places = None if grey else places
    like_srgb = places is None or all(
        abs(own - known) <= _SAME_PLACE for own, known in zip(places, _SRGB_CHROMATICITIES, strict=True)
    )
    if like_srgb and (gamma is None or abs(gamma / _SRGB_GAMMA - 1) <= _SAME_GAMMA):
        return None
    curve = _curve(gamma)
    if grey:
        return _profile(b"GRAY", {b"kTRC": curve})
    tags = {bytes((letter,)) + b"TRC": curve for letter in b"rgb"}
    columns = _columns(places or _SRGB_CHROMATICITIES)
    return _profile(
        b"RGB ",
        tags | {bytes((letter,)) + b"XYZ": _xyz(column) for letter, column in zip(b"rgb", columns, strict=True)},
    )


def _curve(gamma: float | None) -> bytes:
    """Of a file's gamma; without one, sRGB's own."""
    if gamma is None:
        return b"para\0\0\0\0\0\3\0\0" + b"".join(map(_fixed, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)))
    return b"para\0\0\0\0\0\0\0\0" + _fixed(1 / gamma)


def _columns(places: Iterable[float]) -> Any:
    """Red, green and blue as XYZ under D50. :raises ValueError: if they span no colours."""
    import numpy as np

    pairs = np.asarray(list(places), float).reshape(4, 2)
    if not (pairs[:, 1] > 0.001).all() or not (pairs.sum(axis=1) <= 1.2).all():
        raise ValueError("its primaries cannot be used (cHRM)")
    xyz = np.column_stack((pairs[:, 0], pairs[:, 1], 1 - pairs.sum(axis=1))) / pairs[:, 1:]
    white, primaries = xyz[0], xyz[1:].T
    if abs(np.linalg.det(primaries)) < 1e-4:
        raise ValueError("its primaries cannot be used (cHRM)")
    absolute = primaries * np.linalg.solve(primaries, white)
    cones = np.asarray(_BRADFORD)
    ratio = (cones @ np.asarray(_D50)) / (cones @ white)
    return (np.linalg.inv(cones) @ np.diag(ratio) @ cones @ absolute).T


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: Iterable[float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _profile(space: bytes, colours: Mapping[bytes, bytes]) -> bytes:
    """A display profile, version 4.2 for its curves by a formula, with the tags that every profile must have."""
    text = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 8, 28) + "gAMA".encode("utf-16-be")
    tags = {b"desc": text, b"cprt": text, b"wtpt": _xyz(_D50), **colours}
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI", at + len(body), 0x04200000) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, _D50))
    return head + bytes(128 - len(head)) + table + body
