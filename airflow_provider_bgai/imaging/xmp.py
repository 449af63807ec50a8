"""Where the XMP packet lies in a PNG, JPEG, WebP or AVIF, and how it is replaced without touching anything else.

Containers only: what the packet says is :mod:`airflow_provider_bgai.imaging.label`'s business. Nothing is decoded
or re-encoded, every other byte keeps its value (an AVIF's offsets, which must move along, excepted), also
C2PA manifests and bytes behind the end. What cannot be understood fully is refused.

Sources: XMP specification part 3 (PNG iTXt, JPEG APP1), the WebP container specification (VP8X and ``XMP ``),
ISO/IEC 14496-12 and 23008-12 (boxes; an item of type ``mime`` that describes the primary item).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from airflow_provider_bgai.imaging.containers import (
    Box,
    LabelError,
    avif_box,
    avif_boxes,
    jpeg_segments,
    png_chunks,
    webp_chunks,
    webp_file,
)
from airflow_provider_bgai.models import PUBLISHED, picture_type

# A JPEG holds 65 kB. More is a picture editor's history, or made to keep a reader busy.
MAX_PACKET = 250_000


@dataclass(frozen=True)
class Slot:
    """The place of the packet in one file.

    :param packet: the packet that is there, None if there is none.
    :param put: gives the whole file with another packet in this place.
    """

    packet: bytes | None
    put: Callable[[bytes], bytes]


def find_packet(data: bytes) -> Slot:
    """Find the XMP packet of a picture, or the place for one.

    :raises LabelError: if it is no PNG, JPEG, WebP or AVIF, is broken, or has more than one packet.
    """
    kind = picture_type(data[:16])
    if kind is None or kind[0] not in PUBLISHED:
        raise LabelError(f"only PNG, JPEG, WebP and AVIF can be labelled; this starts with {data[:16]!r}")
    try:
        slot = {"png": _png, "jpg": _jpeg, "webp": _webp, "avif": _avif}[kind[0]](data)
    except (IndexError, struct.error) as error:
        raise LabelError(f"the {kind[0]} is damaged or cut off: {error}") from None
    if slot.packet is not None and len(slot.packet) > MAX_PACKET:
        raise LabelError(f"its XMP packet has {len(slot.packet):,} bytes; more than {MAX_PACKET:,} are not read")
    return slot


def _splice(data: bytes, start: int, end: int) -> Callable[[bytes], bytes]:
    view = memoryview(data)  # a slice of bytes would be one more copy of the picture
    return lambda piece: b"".join((view[:start], piece, view[end:]))


def _only(places: list[tuple[int, int, bytes]], empty: int) -> tuple[int, int, bytes | None]:
    """The one place (start, end, packet) where a packet is; an empty place at ``empty`` if there is none."""
    if len(places) > 1:
        raise LabelError(f"it has {len(places)} XMP packets, and readers would not agree on which one counts")
    return places[0] if places else (empty, empty, None)


# PNG

_PNG_XMP = b"XML:com.adobe.xmp\0"


def _png(data: bytes) -> Slot:
    places = []
    for kind, start, end in png_chunks(data):
        if kind == b"iTXt" and data.startswith(_PNG_XMP, start + 8):
            body = data[start + 8 : end - 4]
            if zlib.crc32(kind + body) != int.from_bytes(data[end - 4 : end]):
                raise LabelError("the checksum of its XMP packet is wrong")
            places.append((start, end, _png_text(body[len(_PNG_XMP) :])))
    # Directly behind IHDR, which is always the first 33 bytes.
    start, end, packet = _only(places, 33)
    splice = _splice(data, start, end)

    def put(packet: bytes) -> bytes:
        chunk = b"iTXt" + _PNG_XMP + b"\0\0\0\0" + packet
        return splice(struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)))

    return Slot(packet, put)


def _png_text(rest: bytes) -> bytes:
    """The text of an iTXt chunk from what follows its keyword: two flags, two names, the text."""
    _language, _, rest_ = rest[2:].partition(b"\0")
    _keyword, _, text = rest_.partition(b"\0")
    if not rest[0]:
        return text
    try:
        return zlib.decompressobj().decompress(text, MAX_PACKET + 1)
    except zlib.error as error:
        raise LabelError(f"its XMP packet is compressed and damaged: {error}") from None


# JPEG

_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_SEGMENT_MAX = 0xFFFF - 2


def _jpeg(data: bytes) -> Slot:
    places, empty, head = [], 2, True
    for marker, start, end in jpeg_segments(data):
        body = data[start + 4 : end]
        if marker == 0xE1 and body.startswith(_JPEG_XMP):
            places.append((start, end, body[len(_JPEG_XMP) :]))
        if marker == 0xE2 and body.startswith(b"MPF\0"):
            raise LabelError("a JPEG of several pictures (MPF), whose positions would no longer be right")
        # JFIF and EXIF must come first.
        head = head and (marker == 0xE0 or (marker == 0xE1 and body.startswith(b"Exif\0")))
        if head:
            empty = end
    start, end, packet = _only(places, empty)
    splice = _splice(data, start, end)

    def put(packet: bytes) -> bytes:
        body = _JPEG_XMP + packet
        if len(body) > _SEGMENT_MAX:
            raise LabelError(f"{len(packet):,} bytes of XMP do not fit into a JPEG")
        return splice(struct.pack(">HH", 0xFFE1, len(body) + 2) + body)

    return Slot(packet, put)


# WebP

_HAS_XMP, _HAS_ALPHA = 0x04, 0x10


def _webp(data: bytes) -> Slot:
    chunks, behind = webp_chunks(data)
    if chunks[0][0] != b"VP8X":
        chunks.insert(0, (b"VP8X", _webp_header(*chunks[0])))
    start, end, packet = _only(
        [(i, i + 1, body) for i, (kind, body) in enumerate(chunks) if kind == b"XMP "], len(chunks)
    )

    def put(packet: bytes) -> bytes:
        header = bytes([chunks[0][1][0] | _HAS_XMP]) + chunks[0][1][1:]
        whole = [(b"VP8X", header), *chunks[1:start], (b"XMP ", packet), *chunks[end:]]
        return webp_file(whole, behind)

    return Slot(packet, put)


def _webp_header(kind: bytes, body: bytes) -> bytes:
    """The VP8X chunk that a simple file lacks, from its only chunk."""
    flags = width = height = 0
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
    elif kind == b"VP8L" and body[:1] == b"\x2f":
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags = _HAS_ALPHA if bits >> 28 & 1 else 0
    if not width or not height:
        raise LabelError("the webp is damaged: it starts with neither VP8X, VP8 nor VP8L")
    return bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


# AVIF: boxes of size, type and body. The box "meta" lists items (iinf), says where in the file each one
# lies (iloc) and what it describes (iref). The packet is an item; its bytes go behind everything else.

_XMP_TYPE = b"application/rdf+xml"
_UINT32 = 0xFFFFFFFF
# 64 megapixels in tiles of 64 x 64 px would be 16,000.
_MOST_ITEMS = 20_000
_META_SINGLE = (b"pitm", b"iinf", b"iloc", b"iref", b"idat", b"grpl")


@dataclass(frozen=True)
class _Item:
    """Where an item lies: ``extents`` of (index, offset, length).

    ``method`` 0 counts from the start of the file ``source`` (0 is this one), 1 from the start of idat.
    """

    id: int
    method: int
    source: int
    extents: tuple[tuple[int, int, int], ...]


class _Fields:
    """Reads numbers and texts one after the other."""

    def __init__(self, data: bytes, box: Box) -> None:
        self.data, self.at, self.end = data, box.body, box.end

    def number(self, size: int) -> int:
        self.at += size
        if self.at > self.end:
            raise LabelError("the avif is damaged: a box is too short")
        return int.from_bytes(self.data[self.at - size : self.at])

    def count(self, size: int) -> int:
        count = self.number(size)
        if count > _MOST_ITEMS:
            raise LabelError(f"the avif is damaged: it lists {count:,} items")
        return count

    def version(self) -> int:
        return self.number(4) >> 24

    def text(self) -> bytes:
        start, self.at = self.at, self.data.find(b"\0", self.at, self.end) + 1
        if not self.at:
            raise LabelError("the avif is damaged: a text has no end")
        return self.data[start : self.at - 1]


def _avif(data: bytes) -> Slot:
    top = list(avif_boxes(data, 0, len(data)))
    if any(box.kind in (b"moov", b"moof") for box in top):
        raise LabelError("an animated AVIF: only still ones can be labelled")
    metas = [box for box in top if box.kind == b"meta"]
    if len(metas) != 1:
        raise LabelError(f"the avif is damaged: it has {len(metas)} boxes meta")
    meta = metas[0]
    inside = list(avif_boxes(data, meta.body + 4, meta.end))
    by_kind = {box.kind: box for box in inside}
    if not {b"pitm", b"iinf", b"iloc"} <= by_kind.keys() or any(
        [box.kind for box in inside].count(kind) > 1 for kind in _META_SINGLE
    ):
        raise LabelError("the avif is damaged: it does not list its items, or twice")

    pitm = _Fields(data, by_kind[b"pitm"])
    primary = pitm.number(4 if pitm.version() else 2)
    kinds = _item_kinds(data, by_kind[b"iinf"])
    iloc_version, items = _items(data, by_kind[b"iloc"])
    iref = by_kind.get(b"iref")
    references = _references(data, iref) if iref else []
    packets = {id for kind, id, to in references if kind == b"cdsc" and primary in to and kinds.get(id) == _XMP_TYPE}
    places = [item for item in items if item.id in packets]
    if len(places) != len(packets):
        raise LabelError("the avif is damaged: an XMP packet lies nowhere, or twice")
    idat = by_kind.get(b"idat")
    start, end, old = _only([_place(data, item, idat) for item in places], len(data))
    groups = avif_boxes(data, by_kind[b"grpl"].body, by_kind[b"grpl"].end) if b"grpl" in by_kind else ()
    group_ids = [int.from_bytes(data[group.body + 4 : group.body + 8]) for group in groups]
    new_id = places[0].id if places else max(primary, *kinds, *(item.id for item in items), *group_ids) + 1
    others = [item for item in items if item not in places]

    def put(packet: bytes) -> bytes:
        if new_id > 0xFFFF:
            raise LabelError("the avif has no number left for one more item")
        spans = [span for item in others for span in _spans(item, idat)]
        if any(start < other_end and other_start < end for other_start, other_end in spans):
            raise LabelError("the avif is damaged: its XMP packet and another item share bytes")
        kept = bytearray(data)
        kept[start:end] = bytes(end - start)
        if data[top[-1].start : top[-1].start + 4] == bytes(4):  # "to the end of the file", which is about to move
            kept[top[-1].start : top[-1].start + 4] = struct.pack(">I", len(data) - top[-1].start)
        if old is not None and top[-1].kind == b"mdat" and (top[-1].body, top[-1].end) == (start, end):
            del kept[top[-1].start :]

        def new_meta(growth: int, position: int) -> bytes:
            moved = [_moved(item, meta, growth, len(data)) for item in others]
            changed = {b"iloc": _iloc(iloc_version, [*moved, _Item(new_id, 0, 0, ((0, position, len(packet)),))])}
            if not places:
                changed[b"iinf"] = _iinf(data, by_kind[b"iinf"], new_id)
                changed[b"iref"] = _iref(data, iref, new_id, primary)
                if not iref:
                    changed[b"iinf"] += changed[b"iref"]
            pieces = [changed.get(box.kind, bytes(kept[box.start : box.end])) for box in inside]
            return avif_box(b"meta", bytes(kept[meta.body : meta.body + 4]) + b"".join(pieces))

        # All numbers have a fixed width: the box has its final size before they are known.
        growth = len(new_meta(0, 0)) - (meta.end - meta.start)
        tail = bytes(kept[meta.end :])
        head = bytes(kept[: meta.start]) + new_meta(growth, len(kept) + growth + 8)
        return b"".join((head, tail, avif_box(b"mdat", packet)))

    return Slot(old, put)


def _spans(item: _Item, idat: Box | None) -> list[tuple[int, int]]:
    """Start and end in this file of every part of an item."""
    if item.source or item.method not in (0, 1) or (item.method == 1 and idat is None):
        return []
    zero = idat.body if item.method == 1 and idat else 0
    return [(zero + offset, zero + offset + length) for _, offset, length in item.extents]


def _place(data: bytes, item: _Item, idat: Box | None) -> tuple[int, int, bytes]:
    spans = _spans(item, idat)
    if len(spans) != 1 or spans[0][1] > len(data):
        raise LabelError("the avif is unusual: its XMP packet is in pieces, or outside of the file")
    start, end = spans[0]
    return start, end, data[start:end]


def _moved(item: _Item, meta: Box, growth: int, file_size: int) -> _Item:
    """The item when the box meta has grown, and everything behind it has moved."""
    if item.method or item.source:
        return item
    extents = []
    for index, offset, length in item.extents:
        if not length or offset + length > file_size or (offset < meta.end and offset + length > meta.start):
            raise LabelError("the avif is damaged: an item has no length, or is no part of the picture's data")
        extents.append((index, offset + growth if offset >= meta.end else offset, length))
    return replace(item, extents=tuple(extents))


def _item_kinds(data: bytes, iinf: Box) -> dict[int, bytes]:
    """The type of every item; of one that is a file of its own (mime), its content type."""
    kinds = {}
    fields = _Fields(data, iinf)
    count = fields.count(4 if fields.version() else 2)
    boxes = list(avif_boxes(data, fields.at, iinf.end))
    if len(boxes) != count:
        raise LabelError(f"the avif is damaged: it lists {len(boxes)} items and says {count}")
    for box in boxes:
        entry = _Fields(data, box)
        version = entry.version()
        if box.kind == b"infe" and version >= 2:
            id, _protection, kind = entry.number(4 if version > 2 else 2), entry.number(2), entry.number(4).to_bytes(4)
            _name = entry.text()
            kinds[id] = entry.text().lower() if kind == b"mime" else kind
    return kinds


def _iinf(data: bytes, iinf: Box, new_id: int) -> bytes:
    """The list of items with one more: the packet."""
    fields = _Fields(data, iinf)
    size = 4 if fields.version() else 2
    count = fields.number(size) + 1
    entry = avif_box(b"infe", struct.pack(">IHH4s", 2 << 24, new_id, 0, b"mime") + b"XMP\0" + _XMP_TYPE + b"\0")
    return avif_box(
        b"iinf", data[iinf.body : iinf.body + 4] + count.to_bytes(size) + data[fields.at : iinf.end] + entry
    )


def _items(data: bytes, iloc: Box) -> tuple[int, list[_Item]]:
    """Version of the box, and where every item lies."""
    fields = _Fields(data, iloc)
    version = fields.version()
    sizes = fields.number(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    if version > 2 or not length_size:
        raise LabelError("the avif is unusual: it does not say how long its items are")
    items = []
    for _ in range(fields.count(4 if version == 2 else 2)):
        id = fields.number(4 if version == 2 else 2)
        method = fields.number(2) & 15 if version else 0
        source, base = fields.number(2), fields.number(base_size)
        extents = tuple(
            (
                fields.number(index_size) if version else 0,
                base + fields.number(offset_size),
                fields.number(length_size),
            )
            for _ in range(fields.number(2))
        )
        if any(index > _UINT32 or offset + length > _UINT32 for index, offset, length in extents):
            raise LabelError("the avif is damaged: an item lies beyond four gigabytes")
        items.append(_Item(id, method, source, extents))
    return version, items


def _iloc(version: int, items: list[_Item]) -> bytes:
    """The box that says where every item lies; all numbers four bytes wide, counted from zero."""
    wide = "I" if version == 2 else "H"
    pieces = [struct.pack(">IH" + wide, version << 24, 0x4404 if version else 0x4400, len(items))]
    for item in items:
        pieces.append(struct.pack(">" + wide, item.id) + (struct.pack(">H", item.method) if version else b""))
        pieces.append(struct.pack(">HH", item.source, len(item.extents)))
        pieces += [struct.pack(">III", *extent)[0 if version else 4 :] for extent in item.extents]
    return avif_box(b"iloc", b"".join(pieces))


def _references(data: bytes, iref: Box) -> list[tuple[bytes, int, list[int]]]:
    """What each item refers to: kind of reference, from, to."""
    fields = _Fields(data, iref)
    size = 4 if fields.version() else 2
    found = []
    for box in avif_boxes(data, fields.at, iref.end):
        entry = _Fields(data, box)
        found.append((box.kind, entry.number(size), [entry.number(size) for _ in range(entry.number(2))]))
    return found


def _iref(data: bytes, iref: Box | None, new_id: int, primary: int) -> bytes:
    """The list of references with one more: the packet describes the primary item."""
    before = data[iref.body : iref.end] if iref else bytes(4)
    size = 4 if before[0] else 2
    entry = avif_box(b"cdsc", new_id.to_bytes(size) + (1).to_bytes(2) + primary.to_bytes(size))
    return avif_box(b"iref", before + entry)
