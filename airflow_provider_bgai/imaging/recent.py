"""Sources as they were read a moment ago.

A purchase reads its source to prepare it, and once more when its picture lands, often seconds later in the same
process. The last few are kept, by what they hold; whoever gets one may not change its pixels.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.opening import MAX_PIXELS
from airflow_provider_bgai.imaging.reading import read

if TYPE_CHECKING:
    from PIL import Image

    from airflow_provider_bgai.imaging.opening import Picture

Read = tuple["Image.Image", "Picture", tuple[str, ...], tuple[str, ...]]

KEPT_PIXELS = 8_000_000
"""Of all that are kept, in 32 MB. A larger picture is read anew each time."""

_kept: OrderedDict[bytes, Read] = OrderedDict()
_keeping = threading.Lock()


def read_source(data: bytes) -> Read:
    """The pixels of a source, what the file was, what was done to the pixels, and doubts.

    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    name = hashlib.sha256(data).digest()
    with _keeping:
        if name in _kept:
            _kept.move_to_end(name)
            return _kept[name]
    image, picture, notes, warnings = read(data, MAX_PIXELS)
    found = image, picture, tuple(notes), tuple(warnings)
    if image.width * image.height <= KEPT_PIXELS:
        with _keeping:
            _kept[name] = found
            while sum(each.width * each.height for each, *_ in _kept.values()) > KEPT_PIXELS:
                _kept.popitem(last=False)
    return found
