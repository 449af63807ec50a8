"""A picture's bytes without metadata, for a file whose pixels are fine and whose metadata are broken.

Pixels are neither decoded nor changed. Formats: PNG's chunks, JPEG's segments, WebP's chunks; the other kinds keep
metadata where they cannot be taken out alone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from airflow_provider_bgai.models import picture_type

# What is kept at first: colours and how it is turned. At last: only what the pixels cannot be read without.
_PNG_COLOURS = (b"tRNS", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf")
_PNG_PIXELS = (b"tRNS",)
_EXIF, _ICC, _ADOBE = (0xE1, b"Exif\0\0"), (0xE2, b"ICC_PROFILE\0"), (0xEE, b"Adobe")
_WEBP_FLAGS = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}


def without_metadata(file: IO[bytes]) -> Iterator[bytes]:
    """The file with fewer and fewer of its metadata; nothing where none can be left out."""
    file.seek(0)
    data = file.read()
    kind = picture_type(data[:16])
    ways: tuple[Callable[[bytes], bytes | None], ...] = {
        "png": (lambda it: _png(it, _PNG_COLOURS), lambda it: _png(it, _PNG_PIXELS)),
        "jpg": (lambda it: _jpeg(it, _EXIF, _ICC, _ADOBE), lambda it: _jpeg(it, _ADOBE)),
        "webp": (lambda it: _webp(it, b"ICCP"), _webp),
    }.get(kind[0] if kind else "", ())
    last: bytes | None = data
    for way in ways:
        bare = way(data)
        if bare is not None and bare != last:
            yield bare
            last = bare


def first_of_several(data: bytes) -> bytes | None:
    """The first picture of a JPEG that holds several (MPF: MPO, Ultra HDR), all its metadata kept; None: it has one."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    segments, pixels = _segments(data)
    kept = [segment for segment in segments if not (segment[1] == 0xE2 and segment[4:8] == b"MPF\0")]
    if len(kept) == len(segments):
        return None
    end = _end_of_pixels(data, pixels)
    return b"".join((data[:2], *kept, data[pixels:end]))


def _png(data: bytes, kept: tuple[bytes, ...]) -> bytes | None:
    whole, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 12 + length
        sound = int.from_bytes(data[end - 4 : end]) == zlib.crc32(data[at + 4 : end - 4])
        # A lower-case first letter: a picture can be read without it.
        if not name[0] & 0x20 or (name in kept and sound):
            whole.append(data[at:end])
        at = end
        if name == b"IEND":
            return b"".join(whole)
    return None


def _jpeg(data: bytes, *kept: tuple[int, bytes]) -> bytes:
    segments, pixels = _segments(data)
    named = [
        segment
        for segment in segments
        if not (0xE0 <= segment[1] <= 0xEF or segment[1] == 0xFE)
        or any(segment[1] == marker and segment[4:].startswith(head) for marker, head in kept if len(segment) >= 16)
    ]
    return b"".join((data[:2], *named, data[pixels:]))


def _segments(data: bytes) -> tuple[list[bytes], int]:
    """The segments before the pixels, fill bytes left out, and where the pixels' own begins, or the order ends."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        segments.append(data[at:end])
        at = end
    return segments, at


def _end_of_pixels(data: bytes, at: int) -> int:
    """Behind the end marker of the picture whose first scan begins here."""
    while (at := data.find(b"\xff", at)) >= 0:
        marker = data[at + 1 : at + 2]
        if marker == b"\xd9":
            return at + 2
        # Within a scan stand stuffed bytes and restarts; between scans tables, whose content may look like anything.
        if marker and (0xC0 <= marker[0] <= 0xCF or 0xDA <= marker[0] <= 0xEF or marker[0] == 0xFE):
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
        else:
            at += 1 if marker == b"\xff" else 2
    return len(data)


def _webp(data: bytes, *kept: bytes) -> bytes | None:
    chunks, at = [], 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        if name not in _WEBP_FLAGS or name in kept:
            chunks.append(data[at:end])
        at = end
    if not chunks:
        return None
    if chunks[0].startswith(b"VP8X") and len(chunks[0]) >= 18:
        left = sum(flag for name, flag in _WEBP_FLAGS.items() if name not in kept)
        head = bytearray(chunks[0])
        head[8] &= ~left & 0xFF
        chunks[0] = bytes(head)
    body = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
