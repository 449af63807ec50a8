from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyexiv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from airflow_provider_bgai.imaging.label import SOURCE_TYPES, Label, LabelError, read_label, write_label

PILLOW = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "avif": "AVIF"}
EXTENSIONS = tuple(PILLOW)
SAMPLES = sorted((Path(__file__).parents[2] / "demo" / "catalogue" / "images").glob("*.png"))
LABEL = Label(vendor="photoroom", model="studio-3", created=1_800_000_000.9, id="5f3c9a-1")
OTHER = Label(source_type="trainedAlgorithmicMedia", vendor="gptge", created=1_700_000_000, id="77aa-2")
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
# As another tool may have left it: other prefixes, elements, a label of its own, a comment, padding.
FOREIGN = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Some tool"><!-- written by some tool --><rdf:RDF xmlns:rdf="{RDF}">
 <rdf:Description rdf:about="" xmlns:shop="urn:shop" shop:note="one&#xA;two" xmlns:d="http://purl.org/dc/elements/1.1/"
   xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" i:AISystemUsed='older "vendor"'>
  <i:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture</i:DigitalSourceType>
  <d:title><rdf:Alt><rdf:li xml:lang="x-default">Füße &amp; Schuhe</rdf:li></rdf:Alt></d:title>
 </rdf:Description>
</rdf:RDF></x:xmpmeta>
{" " * 2000}
<?xpacket end="w"?>""".encode()


def noise(mode: str = "RGB", size: tuple[int, int] = (65, 47)) -> Image.Image:
    pixels = np.random.default_rng(7).integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def encode(extension: str, mode: str = "RGB", size: tuple[int, int] = (65, 47), **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise(mode, size).save(buffer, PILLOW[extension], **options)
    return buffer.getvalue()


def foreign(extension: str) -> bytes:
    """A picture with the foreign packet."""
    if extension != "png":
        return encode(extension, xmp=FOREIGN)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", FOREIGN.decode())
    return encode("png", pnginfo=info)


ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PLAIN = {extension: encode(extension) for extension in EXTENSIONS}
KINDS = {
    **PLAIN,
    "png with alpha": encode("png", "RGBA"),
    "png with a palette": encode("png", "P"),
    "grey png": encode("png", "L"),
    "grey jpg": encode("jpg", "L"),
    "progressive jpg": encode("jpg", progressive=True),
    "jpg in CMYK": encode("jpg", "CMYK"),
    "webp with alpha": encode("webp", "RGBA"),
    "lossless webp": encode("webp", lossless=True),
    "lossless webp with alpha": encode("webp", "RGBA", lossless=True),
    "webp of odd size": encode("webp", size=(1, 1)),
    "avif with alpha": encode("avif", "RGBA"),
    "animated webp": encode("webp", save_all=True, append_images=[Image.new("RGB", (65, 47))]),
    **{
        f"{extension} with EXIF and ICC": encode(
            extension, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", icc_profile=ICC
        )
        for extension in EXTENSIONS
    },
    **{f"{extension} with XMP": foreign(extension) for extension in EXTENSIONS},
}


def looks(data: bytes) -> tuple[Any, ...]:
    with Image.open(io.BytesIO(data)) as image:
        frames = []
        for frame in range(getattr(image, "n_frames", 1)):
            image.seek(frame)
            frames.append(image.tobytes())
        marks = {name: image.info.get(name) for name in ("exif", "icc_profile", "transparency", "gamma")}
        return image.mode, image.size, frames, marks


def xmp(data: bytes) -> dict[str, Any]:
    """What exiv2, a reader that shares nothing with this package, finds."""
    found: dict[str, Any] = pyexiv2.ImageData(data).read_xmp()
    return found


def shown(label: Label) -> dict[str, str | None]:
    """What exiv2 should find of a label."""
    found = {
        "Xmp.iptcExt.DigitalSourceType": f"http://cv.iptc.org/newscodes/digitalsourcetype/{label.source_type}",
        "Xmp.iptcExt.AISystemUsed": label.vendor,
        "Xmp.dc.identifier": label.id,
        "Xmp.xmp.CreateDate": np.datetime_as_string(np.datetime64(int(label.created), "s"), timezone="UTC"),
    }
    return found | ({"Xmp.iptcExt.AISystemVersionUsed": label.model} if label.model else {})


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_is_read_back_and_nothing_else_has_changed(kind):
    data = KINDS[kind]
    labelled = write_label(data, LABEL)
    assert read_label(data) is None
    assert read_label(labelled) == LABEL
    assert looks(labelled) == looks(data)
    assert len(labelled) - len(data) < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_an_independent_reader_finds_the_label(kind):
    found = xmp(write_label(KINDS[kind], LABEL))
    assert found | shown(LABEL) == found


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("product", SAMPLES, ids=lambda path: path.stem)
def test_the_sample_products_are_labelled_in_every_format(product, extension):
    with Image.open(product) as image:
        buffer = io.BytesIO()
        pixels = image.convert("RGBA")
        (pixels.convert("RGB") if extension == "jpg" else pixels).save(buffer, PILLOW[extension], speed=10)
    data = product.read_bytes() if extension == "png" else buffer.getvalue()
    labelled = write_label(data, LABEL)
    assert looks(labelled) == looks(data)
    assert xmp(labelled) == shown(LABEL)
    assert read_label(labelled) == LABEL


@pytest.mark.parametrize("kind", KINDS)
def test_labelling_again_changes_nothing(kind):
    labelled = write_label(KINDS[kind], LABEL)
    assert write_label(labelled, LABEL) == labelled


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_label_takes_the_place_of_the_old_one(kind):
    once = write_label(KINDS[kind], OTHER)
    twice = write_label(write_label(KINDS[kind], LABEL), OTHER)
    assert read_label(twice) == OTHER
    assert twice == once


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_outside_the_label_every_byte_is_the_same(extension):
    data, labelled = PLAIN[extension], write_label(PLAIN[extension], LABEL)
    same = next(at for at, (old, new) in enumerate(zip(data, labelled, strict=False)) if old != new)
    assert any(
        data == labelled[:at] + labelled[at + len(labelled) - len(data) :] for at in range(max(0, same - 8), same + 1)
    )


def test_outside_the_label_every_chunk_of_a_webp_is_the_same():
    def chunks(data):
        at, found = 12, []
        while at < len(data):
            kind, length = struct.unpack_from("<4sI", data, at)
            found.append((kind, data[at + 8 : at + 8 + length]))
            at += 8 + length + length % 2
        assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
        return found

    for simple in (PLAIN["webp"], KINDS["lossless webp"]):
        header, picture, last = chunks(write_label(simple, LABEL))
        assert [picture] == chunks(simple)
        assert (header[0], last[0]) == (b"VP8X", b"XMP ")
        assert header[1] == bytes([0x04, 0, 0, 0, 64, 0, 0, 46, 0, 0])
    extended = KINDS["webp with EXIF and ICC"]
    old, new = chunks(extended), chunks(write_label(extended, LABEL))
    assert new[1:-1] == old[1:]
    assert (new[0][1][0], new[0][1][1:]) == (old[0][1][0] | 0x04, old[0][1][1:])


def test_outside_the_label_every_item_of_an_avif_is_the_same():
    data = KINDS["avif with EXIF and ICC"]
    labelled = write_label(data, LABEL)
    meta, mdat = data.index(b"meta") - 4, data.index(b"mdat") - 4
    assert labelled[:meta] == data[:meta]
    assert data[mdat:] in labelled
    assert labelled[labelled.index(data[mdat:]) + len(data[mdat:]) :][4:8] == b"mdat"


def test_a_webp_that_becomes_extended_still_says_that_it_has_alpha():
    simple = KINDS["lossless webp with alpha"]
    assert simple[12:16] == b"VP8L"
    assert write_label(simple, LABEL)[20] == 0x10 | 0x04


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_nothing_is_left_of_a_replaced_label(extension):
    assert b"digitalCapture" in foreign(extension)
    assert b"digitalCapture" not in write_label(foreign(extension), LABEL)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_what_others_have_written_stays_and_same_names_are_replaced(extension):
    data = foreign(extension)
    assert xmp(data)["Xmp.iptcExt.DigitalSourceType"].endswith("digitalCapture")
    found = xmp(write_label(data, LABEL))
    assert found == shown(LABEL) | {"Xmp.dc.title": {'lang="x-default"': "Füße & Schuhe"}, "Xmp.shop.note": "one\ntwo"}


def test_prefixes_of_others_do_not_matter():
    data = encode("jpg", xmp=FOREIGN.replace(b"rdf:", b"r:").replace(b"xmlns:rdf", b"xmlns:r"))
    labelled = write_label(data, LABEL)
    assert read_label(labelled) == LABEL
    assert b"<r:Description xmlns:r=" in labelled
    assert write_label(write_label(data, OTHER), LABEL) == labelled


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">HH", marker, len(body) + 2) + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def webp_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def riff(*chunks: bytes) -> bytes:
    return webp_chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


MARK = b"manifest of the vendor" * 7
MARKED = {
    "PNG with caBX": PLAIN["png"][:33] + chunk(b"caBX", MARK) + chunk(b"tEXt", b"Software\0x") + PLAIN["png"][33:],
    "PNG with bytes behind its end": PLAIN["png"] + MARK,
    "JPEG with APP11": PLAIN["jpg"][:20] + segment(0xFFEB, MARK) + segment(0xFFFE, b"hello") + PLAIN["jpg"][20:],
    "JPEG with extended XMP": PLAIN["jpg"][:20]
    + segment(0xFFE1, b"http://ns.adobe.com/xmp/extension/\0" + MARK)
    + PLAIN["jpg"][20:],
    "JPEG with fill bytes": PLAIN["jpg"][:20] + b"\xff\xff\xff" + segment(0xFFEB, MARK) + PLAIN["jpg"][20:],
    "WebP with C2PA": riff(KINDS["webp with alpha"][12:], webp_chunk(b"C2PA", MARK)),
    "AVIF with uuid": PLAIN["avif"] + box(b"uuid", b"0123456789abcdef" + MARK),
    "AVIF with uuid in front": PLAIN["avif"] + box(b"free", MARK),
}


@pytest.mark.parametrize("kind", MARKED)
def test_marks_of_others_stay_where_they_are(kind):
    data = MARKED[kind]
    labelled = write_label(data, LABEL)
    assert labelled.count(MARK) == data.count(MARK) == 1
    assert looks(labelled) == looks(data)
    assert xmp(labelled) == shown(LABEL)


def test_an_avif_whose_last_box_reaches_to_the_end_of_the_file_is_labelled():
    data = PLAIN["avif"]
    mdat = data.index(b"mdat") - 4
    labelled = write_label(data[:mdat] + bytes(4) + data[mdat + 4 :], LABEL)
    assert labelled == write_label(data, LABEL)


def test_a_compressed_packet_in_a_png_is_read():
    packed = chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0en\0x\0" + zlib.compress(FOREIGN))
    labelled = write_label(PLAIN["png"][:33] + packed + PLAIN["png"][33:], LABEL)
    assert xmp(labelled)["Xmp.shop.note"] == "one\ntwo"
    assert labelled == write_label(KINDS["png with XMP"], LABEL)


def packed(packet: bytes) -> bytes:
    return PLAIN["png"][:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet) + PLAIN["png"][33:]


@pytest.mark.parametrize("packet", [b"", b"\0\0", b"\xef\xbb\xbf \n"])
def test_an_empty_packet_is_as_good_as_none(packet):
    assert read_label(packed(packet)) is None
    assert write_label(packed(packet), LABEL) == write_label(PLAIN["png"], LABEL)


@pytest.mark.parametrize(
    "part",
    [
        b'dc:identifier="5f3c9a-1"',
        b'xmp:CreateDate="2027-01-15T08:00:00Z"',
        b"compositeWithTrained",
    ],
)
def test_part_of_a_label_is_no_label(part):
    labelled = write_label(packed(b""), LABEL)
    packet = labelled[labelled.index(b"<?xpacket") : labelled.index(b'end="w"?>') + 9]
    assert read_label(packed(packet)) == LABEL
    assert read_label(packed(packet.replace(part, b""))) is None


def test_a_picture_without_a_vendor_names_none():
    label = Label(source_type="algorithmicallyEnhanced", created=0, id="a-1")
    labelled = write_label(packed(b""), label)
    assert read_label(labelled) == label
    assert b"AISystem" not in labelled


def test_a_label_of_an_ingredient_is_no_label_of_the_picture():
    labelled = write_label(packed(b""), LABEL)
    node = labelled[labelled.index(b"<rdf:Description") : labelled.index(b"</rdf:RDF>")].decode()
    nested = rdf(f"<rdf:Description xmlns:shop='urn:shop'><shop:part>{node}</shop:part></rdf:Description>")
    assert read_label(packed(nested)) is None
    assert read_label(write_label(packed(nested), OTHER)) == OTHER


def test_two_answers_to_the_same_question_are_no_label():
    labelled = write_label(packed(b""), LABEL)
    packet = labelled[labelled.index(b"<?xpacket") : labelled.index(b'end="w"?>') + 9]
    start, end = packet.index(b"<rdf:Description"), packet.index(b"</rdf:RDF>")
    doubled = packet[:end] + packet[start:end].replace(b"5f3c9a", b"000000") + packet[end:]
    assert read_label(packed(doubled)) is None
    assert xmp(write_label(packed(doubled), LABEL)) == shown(LABEL)


def test_the_boxes_below_are_an_avif_when_they_are_not_broken():
    assert read_label(write_label(avif(), LABEL)) == LABEL


def rdf(inside: str, outside: str = "") -> bytes:
    return f'{outside}<rdf:RDF xmlns:rdf="{RDF}">{inside}</rdf:RDF>'.encode()


def avif(*, extent: tuple[int, int] = (300, 8), count: int = 1, id: int = 1) -> bytes:
    """The boxes of an AVIF of one item, without a picture in it."""
    item = box(b"infe", struct.pack(">IHH4s", 2 << 24, id, 0, b"av01") + b"\0")
    meta = (
        box(b"hdlr", bytes(24))
        + box(b"pitm", struct.pack(">IH", 0, id))
        + box(b"iloc", struct.pack(">IHHHHHII", 0, 0x4400, 1, id, 0, 1, *extent))
        + box(b"iinf", struct.pack(">IH", 0, count) + item)
    )
    return box(b"ftyp", b"avif\0\0\0\0avifmif1miaf") + box(b"meta", bytes(4) + meta) + box(b"mdat", bytes(400))


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
REFUSED = {
    "entities that grow": (packed(rdf("<x>&j;</x>", BOMB + "]>")), "document type"),
    "an entity that is a file": (
        packed(rdf("&f;", '<!DOCTYPE x [<!ENTITY f SYSTEM "/etc/hostname">]>')),
        "document type",
    ),
    "UTF-16": (packed(FOREIGN.decode().encode("utf-16")), "not UTF-8"),
    "no XML": (packed(b"{}"), "not XML"),
    "an unbound prefix": (packed(rdf("<a:b/>")), "not XML"),
    "half of a packet": (packed(FOREIGN[:500]), "not XML"),
    "no RDF": (packed(b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"), "no rdf:RDF"),
    "deep nesting": (packed(rdf("<a>" * 30_000 + "</a>" * 30_000)), "nested deeper"),
    "many namespaces": (
        packed(rdf("<a " + " ".join(f"xmlns:n{i}='urn:{i}'" for i in range(5000)) + ">" + "<b/>" * 5000 + "</a>")),
        "more namespaces",
    ),
    "a packet too long": (packed(rdf(" " * 250_001)), "more than 250,000"),
    "a packet that unpacks to 100 MB": (
        PLAIN["png"][:33]
        + chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(bytes(100_000_000), 1))
        + PLAIN["png"][33:],
        "more than 250,000",
    ),
    "a packet that does not unpack": (
        PLAIN["png"][:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0abc") + PLAIN["png"][33:],
        "compressed and damaged",
    ),
    "a wrong checksum": (
        packed(FOREIGN).replace(FOREIGN[-30:], FOREIGN[-30:].replace(b"end", b"END")),
        "checksum",
    ),
    "two packets": (packed(rdf(""))[:-12] + packed(rdf(""))[33:], "2 XMP packets"),
    "an animated AVIF": (encode("avif", save_all=True, append_images=[Image.new("RGB", (65, 47))]), "animated AVIF"),
    "an AVIF with an item beyond 4 GB": (avif(extent=(0xFFFFFFF0, 100)), "four gigabytes"),
    "an AVIF with an item outside": (avif(extent=(10_000, 100)), "no part of the picture's data"),
    "an AVIF with an item in the list of items": (avif(extent=(60, 100)), "no part of the picture's data"),
    "an AVIF with a wrong number of items": (avif(count=7), "lists 1 items and says 7"),
    "an AVIF with too many items": (avif(count=60_000), "lists 60,000 items"),
    "an AVIF with no number left": (avif(id=0xFFFF), "no number left"),
    "a JPEG of several pictures": (
        PLAIN["jpg"][:20] + segment(0xFFE2, b"MPF\0II") + PLAIN["jpg"][20:],
        "several pictures",
    ),
    "a GIF": (b"GIF89a" + bytes(99), "only PNG, JPEG, WebP and AVIF"),
    "nothing": (b"", "only PNG, JPEG, WebP and AVIF"),
    **{f"half a {extension}": (data[: len(data) // 9], "damaged or cut off") for extension, data in PLAIN.items()},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_understood_is_refused(kind):
    data, why = REFUSED[kind]
    tracemalloc.start()
    try:
        with pytest.raises(LabelError, match=why):
            write_label(data, LABEL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000 + 10 * len(data)


def test_a_jpeg_has_room_for_65_kb_of_xmp_only():
    note = f"<rdf:Description xmlns:shop='urn:shop' shop:note='{'n' * 65_100}'/>"
    data = encode("jpg", xmp=rdf(note))
    with pytest.raises(LabelError, match="do not fit into a JPEG"):
        write_label(data, LABEL)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source_type", "digitalCapture"),
        ("vendor", ""),
        ("id", None),
        ("model", "a\0b"),
        ("model", ""),
        ("id", "\ud800"),
        ("id", 7),
        ("created", float("nan")),
        ("created", -1),
        ("created", 1e12),
    ],
)
def test_a_label_that_cannot_be_written_is_not_made(field, value):
    values = {"vendor": "picwish", "created": 0, "id": "a-1"} | {field: value}
    with pytest.raises(LabelError, match=field):
        Label(**values)


def test_the_default_is_a_photograph_with_parts_by_a_model():
    assert Label(vendor="a", created=0, id="b").source_type == "compositeWithTrainedAlgorithmicMedia"
    assert "trainedAlgorithmicMedia" in SOURCE_TYPES


# Text without what XML cannot hold; Label refuses that.
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff").filter(
        lambda char: char >= " " or char in "\t\n\r"
    ),
    min_size=1,
    max_size=50,
)
labels = st.builds(
    Label,
    source_type=st.sampled_from(SOURCE_TYPES),
    vendor=texts,
    model=st.none() | texts,
    created=st.floats(0, 253_402_300_799),
    id=texts,
)


@given(label=labels, extension=st.sampled_from(EXTENSIONS))
@settings(max_examples=150)
def test_any_label_round_trips_in_any_format(label, extension):
    labelled = write_label(PLAIN[extension], label)
    assert read_label(labelled) == label
    assert write_label(labelled, label) == labelled
    assert looks(labelled) == looks(PLAIN[extension])
    assert write_label(labelled, LABEL) == write_label(PLAIN[extension], LABEL)


@st.composite
def broken(draw):
    """A picture with a few bytes changed, lost or doubled, mostly near its start, where the containers are."""
    data = bytearray(draw(st.sampled_from([*KINDS.values(), *MARKED.values(), write_label(PLAIN["avif"], LABEL)])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), draw(st.sampled_from([64, 700, len(data)])))))
        change = draw(st.sampled_from(["value", "number", "cut", "twice", "end"]))
        length = draw(st.integers(1, 40))
        if change == "value":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif change == "number":
            data[at : at + 4] = draw(st.sampled_from([bytes(4), b"\xff" * 4, b"\0\0\0\1", b"\x7f\xff\xff\xff"]))
        elif change == "cut":
            del data[at : at + length]
        elif change == "twice":
            data[at:at] = data[at : at + length]
        else:
            del data[at:]
    return bytes(data)


@given(data=broken())
@settings(max_examples=800)
def test_a_broken_picture_is_refused_or_labelled(data):
    try:
        labelled = write_label(data, LABEL)
    except LabelError:
        return
    assert read_label(labelled) == LABEL
    assert len(labelled) < len(data) + 3000


@given(data=st.binary(max_size=200), extension=st.sampled_from(EXTENSIONS))
def test_noise_behind_the_magic_bytes_is_refused_or_labelled(data, extension):
    try:
        assert read_label(write_label(PLAIN[extension][:16] + data, LABEL)) == LABEL
    except LabelError:
        return
