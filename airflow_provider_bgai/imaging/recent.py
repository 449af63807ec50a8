"""Sources as they were read a moment ago.

A purchase reads its source to prepare it, and once more when its picture lands, often seconds later in the same
process. The last few are kept, by what they hold; whoever gets one may not change its pixels.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.opening import MAX_PIXELS
from airflow_provider_bgai.imaging.reading import read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from airflow_provider_bgai.imaging.opening import Picture


@dataclass(frozen=True)
class Read:
    """A source as it was read.

    :param image: RGBA, upright sRGB with straight alpha.
    :param picture: what the file was.
    :param notes: what was done to the pixels; ``warnings``: doubts.
    :param levels: the image's own memory; None of a large picture, which would be there twice.
    """

    image: Image.Image
    picture: Picture
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    levels: NDArray[np.uint8] | None

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(height, width, 4)."""
        import numpy as np

        return np.asarray(self.image) if self.levels is None else self.levels

    @property
    def alpha(self) -> NDArray[np.uint8]:
        """(height, width)."""
        import numpy as np

        if self.levels is None:
            return np.asarray(self.image.getchannel("A"))
        return np.ascontiguousarray(self.levels[..., 3])


KEPT_PIXELS = 8_000_000
"""Of all that are kept, in 32 MB. A larger picture is read anew each time."""

_kept: OrderedDict[bytes, Read] = OrderedDict()
_keeping = threading.Lock()


def read_source(data: bytes) -> Read:
    """A source, read once for everything that looks at it.

    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    name = hashlib.sha256(data).digest()
    with _keeping:
        if name in _kept:
            _kept.move_to_end(name)
            return _kept[name]
    found = _read(data)
    if found.levels is not None:
        with _keeping:
            _kept[name] = found
            while sum(each.image.width * each.image.height for each in _kept.values()) > KEPT_PIXELS:
                _kept.popitem(last=False)
    return found


def _read(data: bytes) -> Read:
    import numpy as np
    from PIL import Image

    image, picture, notes, warnings = read(data, MAX_PIXELS)
    levels = None
    if image.width * image.height <= KEPT_PIXELS:
        levels = np.asarray(image)
        image = Image.frombuffer("RGBA", image.size, levels, "raw", "RGBA", 0, 1)
    return Read(image, picture, tuple(notes), tuple(warnings), levels)
