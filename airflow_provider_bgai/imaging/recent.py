"""Sources as they were read a moment ago.

A purchase reads its source to prepare it, and once more when its picture lands, often seconds later in the same
process. The last few are kept, by what they hold; whoever gets one may not change its pixels.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import replace

from airflow_provider_bgai.imaging.opening import MAX_PIXELS
from airflow_provider_bgai.imaging.reading import Read, as_image, read

KEPT_PIXELS = 8_000_000
"""Of all that are kept, in 40 MB. A larger picture is read anew each time."""

_kept: OrderedDict[bytes, Read] = OrderedDict()
_keeping = threading.Lock()


def read_source(data: bytes) -> Read:
    """A source, read once for everything that looks at it.

    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    import numpy as np

    name = hashlib.sha256(data).digest()
    with _keeping:
        if name in _kept:
            _kept.move_to_end(name)
            return _kept[name]
    found = read(data, MAX_PIXELS)
    if found.image.width * found.image.height > KEPT_PIXELS:
        return found
    if found.levels is None:
        image, levels = as_image(np.asarray(found.image))
        found = replace(found, image=image, levels=levels)
    with _keeping:
        _kept[name] = found
        while sum(each.image.width * each.image.height for each in _kept.values()) > KEPT_PIXELS:
            _kept.popitem(last=False)
    return found
