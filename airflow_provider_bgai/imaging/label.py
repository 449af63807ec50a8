"""The machine-readable label of a published picture: that AI took part, whose, when, and which picture this is.

What is written are properties of an XMP packet; :mod:`~airflow_provider_bgai.imaging.xmp` knows where in a file the
packet lies. Properties of others in the packet are kept, but for those of the same name, and a link to a C2PA manifest
elsewhere, which fits the file no longer. Publishing fails closed: a file goes out only if
``read_label(stored bytes) == label``.

Sources: IPTC Photo Metadata Standard 2025.1 (DigitalSourceType, AISystemUsed, AISystemVersionUsed,
AIPromptInformation), the IPTC vocabulary http://cv.iptc.org/newscodes/digitalsourcetype/, the XMP specification part 1.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from airflow_provider_bgai.imaging.containers import LabelError
from airflow_provider_bgai.imaging.xmp import find_packet

__all__ = ["SOURCE_TYPES", "VOCABULARY", "Label", "LabelError", "overwrites", "read_label", "write_label"]

SOURCE_TYPES = (
    "compositeWithTrainedAlgorithmicMedia",  # a photograph with parts that a trained model made: our backgrounds
    "trainedAlgorithmicMedia",  # made by a trained model; the one that Google Merchant Center names
    "compositeSynthetic",  # put together of parts, at least one of them synthetic
    "algorithmicallyEnhanced",  # a photograph, corrected by an algorithm: cut out, cleaned, put on white
)
"""Terms of the IPTC vocabulary that fit a product picture."""

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
}
_PROPERTIES = {
    "source_type": ("Iptc4xmpExt", "DigitalSourceType"),
    "vendor": ("Iptc4xmpExt", "AISystemUsed"),
    "model": ("Iptc4xmpExt", "AISystemVersionUsed"),
    "prompt": ("Iptc4xmpExt", "AIPromptInformation"),
    "created": ("xmp", "CreateDate"),
    "id": ("dc", "identifier"),
}
# As the XML parser names them.
_RDF = f"{{{_NAMESPACES['rdf']}}}RDF"
_NAMES = {field: f"{{{_NAMESPACES[prefix]}}}{local}" for field, (prefix, local) in _PROPERTIES.items()}
_LINKED_MANIFEST = "{http://purl.org/dc/terms/}provenance"
EMPTY_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_NAMESPACES["rdf"]}"></rdf:RDF></x:xmpmeta>\n'
    '<?xpacket end="w"?>'
)
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_DEEPEST, _MOST_NAMESPACES = 100, 200
# What is left of an older label when its properties are gone.
_LEFT_OVER = re.compile(r'<([\w.-]+:Description)(?: xmlns:[\w.-]+="[^"<>]*")*(?: [\w.-]+:about="")?></\1>')
# What XML 1.0 cannot hold.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a published picture says of itself.

    :param source_type: one of :data:`SOURCE_TYPES`.
    :param vendor: vendor and system in full, like "Acme, Image API v2"; None if none had a part in it.
    :param model: its model or version, where it is known.
    :param prompt: what the system was asked for; only where the shop wants it to be read.
    :param created: when the picture was made, seconds since 1970; kept to the second.
    :param id: names this picture, e.g. ``"<fingerprint>-1"``.
    :raises LabelError: for a value that cannot be written.
    """

    source_type: str = SOURCE_TYPES[0]
    vendor: str | None = None
    model: str | None = None
    prompt: str | None = None
    created: float
    id: str

    def __post_init__(self) -> None:
        if self.source_type not in SOURCE_TYPES:
            raise LabelError(f"source_type={self.source_type!r}: must be one of {', '.join(SOURCE_TYPES)}")
        for name in ("vendor", "model", "prompt", "id"):
            value = getattr(self, name)
            if value is None and name != "id":
                continue
            if not isinstance(value, str) or not value or _UNWRITABLE.search(value):
                raise LabelError(f"{name}={value!r}: must be text without control characters, and not empty")
        # To the year 9999, which is where dates end.
        if not 0 <= self.created < 253_402_300_800:
            raise LabelError(f"created={self.created!r}: must be seconds since 1970")
        object.__setattr__(self, "created", float(int(self.created)))


def writable(text: str) -> str:
    """A text without what XML cannot hold."""
    return _UNWRITABLE.sub(" ", text)


def write_label(data: bytes, label: Label) -> bytes:
    """Put the label into a PNG, JPEG, WebP or AVIF. Pixels and all other metadata stay as they are, byte by byte.

    Properties of the same name are replaced wherever the packet has them. A file with this label comes back as it is.

    :raises LabelError: if the file is damaged, animated AVIF, or its XMP cannot be read or has no room.
    """
    slot = find_packet(data)
    if slot.packet is not None and _read(slot.packet) == label:
        return data
    labelled = slot.put(_merged(slot.packet, label))
    if read_label(labelled) != label:
        raise LabelError("the label cannot be read back from the labelled file")
    return labelled


def read_label(data: bytes) -> Label | None:
    """The label of a picture, from its bytes; None if it has none, or only part of one.

    :raises LabelError: if the file or its XMP is damaged.
    """
    packet = find_packet(data).packet
    return None if packet is None else _read(packet)


def overwrites(data: bytes) -> bool:
    """Whether a label would replace what a picture says of itself already: its origin, its system, or an identity; or
    take out its link to a C2PA manifest that lies elsewhere. Then somebody has to keep the file as it is.

    :raises LabelError: if the file or its XMP is damaged.
    """
    root = packet_tree(find_packet(data).packet)
    said = {_LINKED_MANIFEST, *(name for field, name in _NAMES.items() if field != "created")}
    return root is not None and any(not said.isdisjoint((node.tag, *node.attrib)) for node in root.iter())


def packet_text(packet: bytes) -> str:
    """The XML of a packet, without what surrounds it; empty if there is none.

    Refuses what could take gigabytes or hours: document types (XMP must not have them), and such depth and such
    numbers of namespaces as no XMP has, because writing XML looks through all of them for every element.
    """
    try:
        text = packet.decode("utf-8-sig").strip("\0 \t\r\n")
    except UnicodeDecodeError as error:
        raise LabelError(f"its XMP is not UTF-8: {error}") from None
    if not text:
        return text
    namespaces = [0]  # in scope, for every open element

    def start(_name: str, attributes: dict[str, str]) -> None:
        namespaces.append(namespaces[-1] + sum(name.startswith("xmlns") for name in attributes))
        if len(namespaces) > _DEEPEST or namespaces[-1] > _MOST_NAMESPACES:
            raise LabelError("its XMP is nested deeper, or has more namespaces, than any XMP should")

    def doctype(*_: object) -> None:
        raise LabelError("its XMP declares a document type, which XMP must not")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _name: namespaces.pop()
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise LabelError(f"its XMP is not XML: {error}") from None
    return text


def packet_tree(packet: bytes | None) -> ElementTree.Element | None:
    """The XML of a packet, parsed; None if there is none. :raises LabelError: if it cannot be read."""
    text = packet_text(packet or b"")
    try:
        return ElementTree.fromstring(text) if text else None
    except ElementTree.ParseError as error:
        raise LabelError(f"its XMP is not XML: {error}") from None


def _read(packet: bytes) -> Label | None:
    root = packet_tree(packet)
    if root is None:
        return None
    # Only what is said of the picture itself; deeper down the same names may tell of its ingredients.
    rdf = root if root.tag == _RDF else root.find(_RDF)
    values = defaultdict(list)
    for node in () if rdf is None else rdf:
        for name, value in (*node.attrib.items(), *((child.tag, child.text or "") for child in node)):
            values[name].append(value)
    found = {field: values[name] for field, name in _NAMES.items() if values[name]}
    if any(len(several) > 1 for several in found.values()):
        return None
    single = {field: several[0] for field, several in found.items()}
    try:
        return Label(
            source_type=single["source_type"].removeprefix(VOCABULARY),
            vendor=single.get("vendor"),
            model=single.get("model"),
            prompt=single.get("prompt"),
            created=datetime.strptime(single["created"], _TIME).replace(tzinfo=UTC).timestamp(),
            id=single["id"],
        )
    except (KeyError, ValueError):  # a label of somebody else: other terms, other dates, parts missing
        return None


def _merged(packet: bytes | None, label: Label) -> bytes:
    """The packet with our properties instead of those of the same name."""
    names = {_LINKED_MANIFEST, *_NAMES.values()}
    try:
        # The canonical form keeps prefixes, and has neither empty-element tags nor comments, so RDF has a plain end.
        old = packet_text(packet or b"") or EMPTY_PACKET
        text = ElementTree.canonicalize(old, exclude_attrs=names, exclude_tags=names)
    except (ElementTree.ParseError, ValueError) as error:
        raise LabelError(f"its XMP is not XML: {error}") from None
    ends = [match.start() for match in re.finditer(r"</(?:[^<>\s:]+:)?RDF>", text)]
    if not ends:
        raise LabelError("its XMP has no rdf:RDF")
    before = _LEFT_OVER.sub("", text[: ends[-1]])
    return (before + _description(label, before) + text[ends[-1] :]).encode()


def _description(label: Label, text: str) -> str:
    """The label as a node of RDF, with the prefixes that ``text`` has: Adobe's toolkit takes one per namespace only."""
    found = ((prefix, re.search(rf'xmlns:([\w.-]+)="{re.escape(uri)}"', text)) for prefix, uri in _NAMESPACES.items())
    prefixes = {prefix: match[1] if match else prefix for prefix, match in found}
    values = {
        "source_type": VOCABULARY + label.source_type,
        "vendor": label.vendor,
        "model": label.model,
        "prompt": label.prompt,
        "created": datetime.fromtimestamp(label.created, UTC).strftime(_TIME),
        "id": label.id,
    }
    attributes = [(f"xmlns:{prefixes[prefix]}", uri) for prefix, uri in _NAMESPACES.items()]
    attributes.append((f"{prefixes['rdf']}:about", ""))
    for field, value in values.items():
        if value is not None:
            prefix, local = _PROPERTIES[field]
            attributes.append((f"{prefixes[prefix]}:{local}", value))
    return f"<{prefixes['rdf']}:Description {' '.join(f'{name}={quoteattr(value)}' for name, value in attributes)}/>"
