"""What others say in a picture of where it comes from: C2PA manifests, found and taken out; all marks, carried over.

A C2PA manifest vouches for every byte of its file, so it comes out before one of them is changed. XMP and the mark
that Chinese law demands (``AIGC``) go along into every file that is made of the picture. All of it needs no library
of C2PA's: who has one can ask what a manifest says (:func:`~airflow_provider_bgai.imaging.sign.read_claim`).

Sources: C2PA specification 2.2, appendix A (the chunk ``caBX`` of a PNG, JUMBF in APP11 of a JPEG, the chunk ``C2PA``
of a WebP, a box ``uuid`` of an AVIF). The property ``TC260:AIGC`` and its namespace: TC260-PG-20258A, the practice
guide to GB 45438-2025, as public implementations have it; the same text in a PNG's ``tEXt``, in EXIF and in a segment
of a JPEG: as they report having met it.
"""

from __future__ import annotations

import json
import struct
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from airflow_provider_bgai.imaging.containers import (
    LabelError,
    avif_boxes,
    jpeg_segments,
    png_chunks,
    webp_chunks,
)
from airflow_provider_bgai.imaging.label import EMPTY_PACKET, packet_text, packet_tree, writable
from airflow_provider_bgai.imaging.xmp import find_packet
from airflow_provider_bgai.models import PUBLISHED, picture_type

AIGC_NAMESPACE = "http://www.tc260.org.cn/ns/AIGC/1.0/"

_AIGC = f"{{{AIGC_NAMESPACE}}}AIGC"
_JUMBF = b"JP"
_C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_PNG_AIGC = b"AIGC\0"
_BEHIND_IHDR = 33
"""Bytes of a PNG's head: its signature and its first chunk, which is always as long."""
_MAX_AIGC = 10_000
"""Characters of the mark: seven short fields."""

OF_THE_BYTES = (
    "http://ns.adobe.com/tiff/1.0/",  # sides, orientation, resolution
    "http://ns.adobe.com/exif/1.0/",  # sides again, colour space
    "http://cipa.jp/exif/1.0/",
    "http://ns.adobe.com/xap/1.0/mm/",  # the file's own IDs, and the history of its hashes
    "http://ns.adobe.com/xmp/note/",  # where the rest of the packet is: in a segment of that file
    "http://ns.adobe.com/camera-raw-settings/1.0/",
    "http://ns.adobe.com/hdr-gain-map/1.0/",  # further pictures behind the first one
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/1.0/panorama/",
)
"""Namespaces of XMP that describe a file and not the picture in it: they stay behind when a file is made anew."""
_OF_THE_BYTES = {
    "{http://ns.adobe.com/xap/1.0/}Thumbnails",
    "{http://purl.org/dc/elements/1.1/}format",
    "{http://purl.org/dc/terms/}provenance",
    "{http://ns.adobe.com/photoshop/1.0/}ICCProfile",
    "{http://ns.adobe.com/photoshop/1.0/}ColorMode",
}


def without_manifest(data: bytes) -> bytes:
    """The picture without a C2PA manifest; the very same object if it has none. All other bytes stay as they are.

    In an AVIF its place stays, empty: every position in the file counts from the start.

    :raises LabelError: if it is no PNG, JPEG, WebP or AVIF, or is broken.
    """
    places = _manifests(data)
    if not places:
        return data
    pieces, at = [], 0
    for start, end in places:
        pieces.append(data[at:start])
        if data[4:8] == b"ftyp":
            pieces.append(struct.pack(">I4s", end - start, b"free") + bytes(end - start - 8))
        at = end
    bare = b"".join((*pieces, data[at:]))
    if data.startswith(b"RIFF"):
        size = int.from_bytes(data[4:8], "little") - sum(end - start for start, end in places)
        bare = b"".join((b"RIFF", size.to_bytes(4, "little"), bare[8:]))
    return bare


def bytes_of_marks(data: bytes, *, manifest: bool) -> int:
    """Roughly how long the marks of a picture are: its XMP, or its C2PA manifest; 0 where nobody can read them."""
    try:
        return sum(end - start for start, end in _manifests(data)) if manifest else len(find_packet(data).packet or b"")
    except LabelError:
        return 0


def _manifests(data: bytes) -> list[tuple[int, int]]:
    """Start and end of the parts of the file that hold a manifest."""
    kind = (picture_type(data[:16]) or ("none",))[0]
    if kind not in PUBLISHED:
        raise LabelError(f"only PNG, JPEG, WebP and AVIF can be looked through; this starts with {data[:16]!r}")
    try:
        return {"png": _in_png, "jpg": _in_jpeg, "webp": _in_webp, "avif": _in_avif}[kind](data)
    except (IndexError, struct.error) as error:
        raise LabelError(f"the {kind} is damaged or cut off: {error}") from None


def _in_png(data: bytes) -> list[tuple[int, int]]:
    return [(start, end) for kind, start, end in png_chunks(data) if kind == b"caBX"]


def _in_jpeg(data: bytes) -> list[tuple[int, int]]:
    """The segments of the JUMBF box whose label is ``c2pa``; one box may take many, all with the same number."""
    places, ours = [], set()
    for marker, start, end in jpeg_segments(data):
        if marker != 0xEB or data[start + 4 : start + 6] != _JUMBF:
            continue
        number = data[start + 6 : start + 8]
        # Behind two lengths and types (superbox, description box) come a UUID that starts so, and the label.
        if data[start + 28 : start + 32] == b"c2pa":
            ours.add(number)
        if number in ours:
            places.append((start, end))
    return places


def _in_webp(data: bytes) -> list[tuple[int, int]]:
    places, at = [], 12
    for kind, body in webp_chunks(data)[0]:
        end = at + 8 + len(body) + len(body) % 2
        if kind == b"C2PA":
            places.append((at, end))
        at = end
    return places


def _in_avif(data: bytes) -> list[tuple[int, int]]:
    boxes = avif_boxes(data, 0, len(data))
    return [(it.start, it.end) for it in boxes if it.kind == b"uuid" and data.startswith(_C2PA_BOX, it.body)]


def find_aigc(data: bytes) -> str | None:
    """The mark ``AIGC`` (GB 45438-2025), JSON as text, wherever in the file it stands; None if there is none.

    :raises LabelError: if the file or its XMP is damaged.
    """
    return _aigc_in_xmp(find_packet(data).packet) or _aigc_elsewhere(data)


def carry_marks(source: bytes, target: bytes) -> bytes:
    """The picture ``target``, made of ``source``, with the XMP and the ``AIGC`` mark that ``source`` has.

    The mark goes into XMP, where the practice guide has it, wherever it stood; into a PNG's ``tEXt``, too, if it came
    from one. Left behind is what describes the bytes of the old file (:data:`OF_THE_BYTES`).

    :raises LabelError: if ``source`` is damaged, or its marks do not fit into ``target``.
    """
    packet = find_packet(source).packet
    text = _of_the_picture(packet)
    elsewhere = None if _aigc_in_xmp(packet) else _aigc_elsewhere(source)
    if elsewhere:
        head, end, tail = (text or EMPTY_PACKET).rpartition("</rdf:RDF>")
        if not end:
            raise LabelError("its XMP has no rdf:RDF")
        attributes = f'rdf:about="" xmlns:TC260="{AIGC_NAMESPACE}" TC260:AIGC={quoteattr(writable(elsewhere))}'
        text = f"{head}<rdf:Description {attributes}/>{end}{tail}"
    marked = find_packet(target).put(text.encode()) if text else target
    if (chunk := _aigc_chunk(source)) and marked.startswith(b"\x89PNG"):
        marked = marked[:_BEHIND_IHDR] + chunk + marked[_BEHIND_IHDR:]
    return marked


def _of_the_picture(packet: bytes | None) -> str:
    """The XML of a packet without what describes the bytes; empty if there is no packet."""
    root = packet_tree(packet)
    if root is None:
        return ""
    names = set(_OF_THE_BYTES)
    for node in root.iter():
        names.update(name for name in (node.tag, *node.attrib) if name[1:].partition("}")[0] in OF_THE_BYTES)
    try:
        return ElementTree.canonicalize(packet_text(packet or b""), exclude_attrs=names, exclude_tags=names)
    except ValueError as error:
        raise LabelError(f"its XMP is not XML: {error}") from None


def _aigc_in_xmp(packet: bytes | None) -> str | None:
    root = packet_tree(packet)
    nodes = () if root is None else root.iter()
    said = (node.attrib.get(_AIGC) or (node.text if node.tag == _AIGC else None) for node in nodes)
    return next(filter(None, said), None)


def _aigc_elsewhere(data: bytes) -> str | None:
    """The mark in a chunk of its own, in a segment of its own, or in EXIF."""
    if chunk := _aigc_chunk(data):
        # By the book Latin-1; what writes JSON writes UTF-8.
        return chunk[13 : min(len(chunk) - 4, 13 + _MAX_AIGC)].decode("utf-8", "replace")
    segments = jpeg_segments(data) if data.startswith(b"\xff\xd8") else ()
    texts = [data[start + 4 : end] for _marker, start, end in segments]
    texts = [text for text in texts if text.startswith(b"AIGC{")]
    return next((mark for text in (*texts, *_exif_texts(data)) if (mark := _parsed(text))), None)


def _aigc_chunk(data: bytes) -> bytes | None:
    """The chunk of a PNG that holds the mark, as it is."""
    chunks = png_chunks(data) if data.startswith(b"\x89PNG") else ()
    found = ((start, end) for kind, start, end in chunks if kind == b"tEXt")
    return next((data[start:end] for start, end in found if data.startswith(_PNG_AIGC, start + 8)), None)


def _exif_texts(data: bytes) -> list[bytes]:
    """The two texts of EXIF that the mark was met in: UserComment and ImageDescription."""
    import io

    from PIL import Image

    from airflow_provider_bgai.imaging.opening import BROKEN

    if b"AIGC" not in data and b"A\0I\0G\0C" not in data:
        return []
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
            found = (exif.get_ifd(0x8769).get(0x9286), exif.get(0x010E))
    except BROKEN:  # EXIF that nobody can read marks nothing
        return []
    return [text.encode("utf-8") if isinstance(text, str) else text for text in found if text]


def _parsed(text: bytes) -> str | None:
    """The mark out of ``AIGC{…}`` or ``{"AIGC": {…}}``; None if it is another text."""
    words = text.removeprefix(b"ASCII\0\0\0")
    if words.startswith(b"UNICODE\0"):
        words = words[8:].replace(b"\0", b"")
    try:
        found = json.loads(words.strip(b"\0 ").removeprefix(b"AIGC").decode()[:_MAX_AIGC])
    except (ValueError, RecursionError):
        return None
    mark = found.get("AIGC", found) if isinstance(found, dict) else None
    if not isinstance(mark, dict) or not {"Label", "ContentProducer", "ServiceProvider"} & mark.keys():
        return None
    return json.dumps(mark, ensure_ascii=False, separators=(",", ":"))
