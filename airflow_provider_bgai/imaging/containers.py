"""The parts that a PNG, JPEG, WebP or AVIF is made of, one after the other. What they mean is other modules' business.

Nothing is decoded. What is damaged, cut off or out of order is refused.

Sources: the PNG specification (chunks), ITU T.81 (markers), the WebP container specification (RIFF),
ISO/IEC 14496-12 (boxes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


class LabelError(ValueError):
    """The file cannot be labelled, or its label cannot be read; the message says why."""


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of every chunk."""
    at = 8
    while True:
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data) or (kind == b"IHDR") != (at == 8):
            raise LabelError("the png is damaged or cut off: its chunks are not in order")
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of every segment before the pixels."""
    at = 2
    while True:
        while data[at] == data[at + 1] == 0xFF:  # any marker may have fill bytes before it
            at += 1
        marker = data[at + 1]
        if marker == 0xDA:
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if data[at] != 0xFF or marker < 0xC0 or 0xD0 <= marker <= 0xD9 or length < 2 or end > len(data):
            raise LabelError("the jpg is damaged or cut off: its segments are not in order")
        yield marker, at, end
        at = end


def webp_chunks(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Type and body of every chunk, and what lies behind the end."""
    riff_end = 8 + int.from_bytes(data[4:8], "little")
    if data[:4] != b"RIFF" or riff_end > len(data):
        raise LabelError("the webp is damaged or cut off")
    chunks: list[tuple[bytes, bytes]] = []
    at = 12
    while at < riff_end:
        kind, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        if len(body) < length or (kind == b"VP8X" and (length != 10 or chunks)):
            raise LabelError("the webp is damaged or cut off: its chunks are not in order")
        chunks.append((kind, body))
        at += 8 + length + length % 2
    if not chunks:
        raise LabelError("the webp is damaged: it holds nothing")
    return chunks, data[at:]


def webp_file(chunks: Iterable[tuple[bytes, bytes]], behind: bytes) -> bytes:
    """The file that :func:`webp_chunks` takes apart."""
    body = b"".join(
        (b"WEBP", *(kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for kind, body in chunks))
    )
    return b"".join((b"RIFF", struct.pack("<I", len(body)), body, behind))


@dataclass(frozen=True)
class Box:
    """A box of an AVIF lies at ``start`` to ``end``, its body begins at ``body``; all of them positions in the file."""

    kind: bytes
    start: int
    body: int
    end: int


def avif_boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """The boxes of an AVIF between two positions."""
    while start < end:
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        box_end = start + size if size else end
        if not body <= box_end <= end:
            raise LabelError(f"the avif is damaged or cut off: the box {kind!r} has no end")
        yield Box(kind, start, body, box_end)
        start = box_end


def avif_box(kind: bytes, body: bytes) -> bytes:
    """A box of an AVIF as it is written."""
    return struct.pack(">I4s", 8 + len(body), kind) + body
