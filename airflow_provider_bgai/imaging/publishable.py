"""A vendor's picture as a file that can be published, where what came is whole and cannot: it is paid for.

A picture of a kind that shops do not show becomes a PNG; of a JPEG with several pictures (MPO, Ultra HDR) the first
is kept, since a label would move the others; metadata that readers stumble over are left out. Whatever else came stays
as it is, byte for byte.
"""

from __future__ import annotations

from typing import IO

from airflow_provider_bgai.imaging.bare import first_of_several, without_metadata
from airflow_provider_bgai.imaging.opening import NotAPictureError, Picture
from airflow_provider_bgai.imaging.prepare import encode_png, read_rgba
from airflow_provider_bgai.imaging.verify import read_header, verify_whole
from airflow_provider_bgai.models import PUBLISHED, picture_type


def publishable(file: IO[bytes]) -> tuple[bytes | None, str | None]:
    """The file to publish instead, and why; None and None for a picture that stays as it came.

    :raises NotAPictureError: if it has to be read for that, and is no whole picture.
    """
    file.seek(0)
    head = file.read(16)
    kind = picture_type(head)
    if kind is None or kind[0] not in PUBLISHED:
        came = read_header(file).extension.upper()
        return encode_png(read_rgba(file), opaque=True), f"came as {came}, which shops do not show: turned into PNG"
    if kind[0] == "jpg":
        file.seek(0)
        if (first := first_of_several(file.read())) is not None:
            return first, "came as several pictures in one JPEG (MPO or Ultra HDR): the first is kept"
    return None, None


def sound(file: IO[bytes], picture: Picture) -> bytes | None:
    """The file without the metadata that are broken; None where none are.

    :param picture: what was read of it.
    """
    if picture.problem is None:
        return None
    for bare in without_metadata(file):
        try:
            if verify_whole(bare).problem is None:
                return bare
        except NotAPictureError:
            continue
    return None
