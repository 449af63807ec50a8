"""What others say in a picture: taken out byte by byte where it fits no more, carried over where it does."""

from __future__ import annotations

import io
import json

import pyexiv2
import pytest
from PIL import Image, PngImagePlugin

from airflow_provider_bgai.imaging.containers import jpeg_segments
from airflow_provider_bgai.imaging.label import Label, LabelError, overwrites, read_label, write_label
from airflow_provider_bgai.imaging.marks import bytes_of_marks, carry_marks, find_aigc, without_manifest
from airflow_provider_bgai.imaging.xmp import find_packet
from tests.imaging.signed import AIGC, TYPES, marked, picture, read, signed_by_vendor

LABEL = Label(vendor="Acme, Image API v2", model="studio-3", created=1_800_000_000, id="5f3c9a-1")
PLACES = [
    ("PNG", "xmp"),
    ("PNG", "text"),
    ("PNG", "exif"),
    ("JPEG", "xmp"),
    ("JPEG", "exif"),
    ("JPEG", "segment"),
    ("WEBP", "xmp"),
    ("WEBP", "exif"),
    ("AVIF", "xmp"),
]


def xmp(data: bytes) -> dict[str, str]:
    """What exiv2 reads."""
    pyexiv2.registerNs("http://www.tc260.org.cn/ns/AIGC/1.0/", "TC260")
    with pyexiv2.ImageData(data) as image:
        found: dict[str, str] = image.read_xmp()
        return found


@pytest.mark.parametrize("kind", TYPES)
def test_a_manifest_comes_out_and_nothing_else_changes(kind):
    before = marked(kind)
    signed = signed_by_vendor(before, kind)
    assert read(kind, signed)[0] == "Trusted"
    bare = without_manifest(signed)
    assert b"c2pa" not in bare
    assert bytes_of_marks(signed, manifest=True) > 1000 > bytes_of_marks(bare, manifest=True) == 0
    assert find_packet(bare).packet == find_packet(before).packet
    assert Image.open(io.BytesIO(bare)).tobytes() == Image.open(io.BytesIO(before)).tobytes()
    if kind == "AVIF":  # its place stays
        assert len(bare) == len(signed)
    else:
        assert bare == before
    assert read_label(write_label(bare, LABEL)) == LABEL


@pytest.mark.parametrize("kind", TYPES)
def test_a_file_without_a_manifest_is_the_very_same(kind):
    data = marked(kind)
    assert without_manifest(data) is data


def test_a_manifest_of_many_segments_comes_out_whole_and_other_boxes_stay():
    noise = io.BytesIO()
    Image.effect_noise((900, 900), 90).convert("RGB").save(noise, "JPEG")
    before = noise.getvalue()
    other = b"JP\0\7" + (1).to_bytes(4) + (40).to_bytes(4) + b"jumb" + (32).to_bytes(4) + b"jumdother" + bytes(23)
    segment = b"\xff\xeb" + (len(other) + 2).to_bytes(2) + other
    before = before[:2] + segment + before[2:]
    signed = signed_by_vendor(before, "JPEG")
    assert [marker for marker, _, _ in jpeg_segments(signed)].count(0xEB) >= 4
    assert without_manifest(signed).count(segment) == 1
    assert without_manifest(signed) == before


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a" + bytes(20), b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBP", b"\xff\xd8\xff"]
)
def test_what_is_no_picture_or_broken_is_refused(data):
    with pytest.raises(LabelError):
        without_manifest(data)
    assert bytes_of_marks(data, manifest=True) == 0


@pytest.mark.parametrize("kind", TYPES)
def test_a_file_that_is_cut_off_is_refused_or_read_and_nothing_else(kind):
    signed = signed_by_vendor(marked(kind), kind)
    for end in range(0, len(signed), max(1, len(signed) // 97)):
        try:
            without_manifest(signed[:end])
        except LabelError:
            continue


@pytest.mark.parametrize(("kind", "where"), PLACES)
def test_the_mark_is_found_wherever_vendors_put_it(kind, where):
    found = find_aigc(marked(kind, where))
    assert found is not None
    assert json.loads(found) == json.loads(AIGC)
    assert find_aigc(picture(kind)) is None


@pytest.mark.parametrize("target", TYPES)
@pytest.mark.parametrize(("kind", "where"), PLACES)
def test_marks_go_along_into_a_file_that_is_made_anew(kind, where, target):
    made = picture(target, 100)
    carried = write_label(carry_marks(write_label(marked(kind, where), LABEL), made), LABEL)
    said = xmp(carried)
    assert said["Xmp.photoshop.Credit"] == "Made by Acme"
    assert json.loads(said["Xmp.TC260.AIGC"]) == json.loads(AIGC)
    assert "Xmp.tiff.Orientation" not in said  # of the old bytes
    assert said["Xmp.iptcExt.AISystemUsed"] == "Acme, Image API v2"
    assert read_label(carried) == LABEL
    if (where, target) == ("text", "PNG"):
        assert Image.open(io.BytesIO(carried)).info["AIGC"] == AIGC
    assert Image.open(io.BytesIO(carried)).tobytes() == Image.open(io.BytesIO(made)).tobytes()


def test_without_marks_nothing_is_carried():
    made = picture("JPEG")
    assert carry_marks(picture("PNG"), made) is made


@pytest.mark.parametrize("text", ["AIGC", '{"AIGC": 5}', '{"AIGC": {"Colour": "red"}}', "[" * 50_000, "AIGC{"])
def test_a_text_that_only_looks_like_the_mark_is_none(text):
    exif = Image.Exif()
    exif[0x010E] = text
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "JPEG", exif=exif)
    assert find_aigc(buffer.getvalue()) is None


@pytest.mark.parametrize("text", ['{"Label":"\x01\\ud800"}', "\x00\x0b<&\"'>", "\\u0000"])
def test_a_mark_of_odd_characters_is_carried_without_them(text):
    exif = Image.Exif()
    exif[0x010E] = json.dumps({"AIGC": {"Label": text, "Odd": "\ud800"}})
    info = PngImagePlugin.PngInfo()
    info.add(b"tEXt", b"AIGC\0" + text.encode())
    for kind, options in (("PNG", {"pnginfo": info}), ("JPEG", {"exif": exif.tobytes()})):
        buffer = io.BytesIO()
        Image.new("RGB", (9, 9)).save(buffer, kind, **options)
        carried = write_label(carry_marks(buffer.getvalue(), picture("WEBP")), LABEL)
        assert read_label(carried) == LABEL
        assert xmp(carried)["Xmp.TC260.AIGC"]


@pytest.mark.parametrize("broken", [b"<x:y/>", b"<a><b></a>", b"<?xml version='1.0'?><!DOCTYPE a><a/>", b"\xff\xfe"])
def test_xmp_that_cannot_be_read_is_said_so(broken):
    source = find_packet(picture("PNG")).put(broken)
    for look in (lambda: carry_marks(source, picture("PNG")), lambda: find_aigc(source), lambda: overwrites(source)):
        with pytest.raises(LabelError, match="its XMP"):
            look()


def test_xmp_that_does_not_fit_is_refused():
    large = find_packet(picture("PNG")).put(b"<x><rdf:RDF xmlns:rdf='r'>" + b"a" * 70_000 + b"</rdf:RDF></x>")
    with pytest.raises(LabelError, match="do not fit into a JPEG"):
        carry_marks(large, picture("JPEG"))


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ('xmlns:q="http://ns.adobe.com/photoshop/1.0/" q:Credit="Acme"', False),
        ('xmlns:q="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" q:DigitalSourceType="x"', True),
        ('xmlns:q="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" q:AISystemUsed="Acme"', True),
        ('xmlns:q="http://ns.adobe.com/xap/1.0/" q:CreateDate="2020"', False),
        ('xmlns:q="http://purl.org/dc/terms/" q:provenance="https://acme.example/manifest"', True),
    ],
)
def test_a_label_says_whether_it_takes_something_from_a_picture(said, lost):
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    packet = f'<r:RDF xmlns:r="{rdf}"><r:Description r:about="" {said}/></r:RDF>'
    data = find_packet(picture("PNG")).put(packet.encode())
    assert overwrites(data) is lost
    labelled = find_packet(write_label(data, LABEL)).packet
    assert labelled is not None
    # A link to a manifest elsewhere would be taken for this file's.
    assert b"acme.example" not in labelled
    assert not overwrites(picture("PNG"))
