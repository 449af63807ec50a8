"""From a landed picture to the files that are published: pasted back, rendered, labelled; and what a recipe asks of it.

What the vendor said in the picture goes along into all of them; its C2PA manifest stands in a signed one as that of the
parent, out of the bytes that it fits, which are in ``incoming/``.
None of it is part of what is bought. Pictures are finished from what has landed, so that another wish here makes
new files and no new bill.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from airflow_provider_bgai.catalogue.evidence import Evidence, evidence_of, keep_evidence
from airflow_provider_bgai.catalogue.results import Finished
from airflow_provider_bgai.imaging.fidelity import Placement, Thresholds
from airflow_provider_bgai.imaging.label import SOURCE_TYPES, Label, LabelError, read_label, writable, write_label
from airflow_provider_bgai.imaging.marks import bytes_of_marks, carry_marks, without_manifest
from airflow_provider_bgai.imaging.paste import paste_back, pasted_unseen
from airflow_provider_bgai.imaging.renditions import Rendered, Rendition, RenditionError, Renditions, render
from airflow_provider_bgai.imaging.sign import Making
from airflow_provider_bgai.imaging.verify import Picture, read_header
from airflow_provider_bgai.layout import Layout, PictureName
from airflow_provider_bgai.models import picture_type

if TYPE_CHECKING:
    from PIL import Image

    from airflow_provider_bgai.buying.record import Call, Output
    from airflow_provider_bgai.storage import Storage


class Sign(Protocol):
    """Signs a labelled file: :func:`~airflow_provider_bgai.imaging.sign.sign` with a certificate."""

    def __call__(self, data: bytes, label: Label, *, making: Making) -> bytes: ...


LABEL_BYTES = 10_000
"""More than a label and a signature take: left free where a rendition has a limit, beside what others' marks take."""

_SHAPING = {"paste_back", "sign", "source_type", "label_prompt", "renditions"}
"""What changes the published files. The other fields decide whether there are any."""


def _thresholds(value: Any) -> Any:
    return {} if value is True else None if value is False else value


def _source_type(value: str) -> str:
    if value not in SOURCE_TYPES:
        raise ValueError(f"must be one of {', '.join(SOURCE_TYPES)}")
    return value


def _renditions(renditions: dict[str, Rendition]) -> dict[str, Rendition]:
    for name, rendition in renditions.items():
        if rendition.source_type is not None and rendition.source_type not in SOURCE_TYPES:
            raise ValueError(f"{name}.source_type must be one of {', '.join(SOURCE_TYPES)}")
    return renditions


class Finishing(BaseModel):
    """The part of a recipe that pictures are inspected and finished by. May differ by category.

    :param fidelity: limits beyond which a picture does not show the product any more and goes to quarantine; False
        to publish whatever comes.
    :param retries: how often such a picture is bought again in the same run, with another seed or from the next
        connection. Each time is paid for.
    :param paste_back: put the product's own pixels over the vendor's: ``auto`` where nobody would see that it was done
        (:func:`~airflow_provider_bgai.imaging.paste.pasted_unseen`), true wherever they lie, false never.
    :param source_type: the IPTC ``DigitalSourceType`` on the label.
    :param label_prompt: write the prompt on the label, where everybody can read it.
    :param sign: add C2PA provenance, signed with the certificate of the task's ``sign_conn_id``.
    :param renditions: further files of each picture, by name: published as ``<name>/<key>``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    fidelity: Annotated[Thresholds | None, BeforeValidator(_thresholds)] = Thresholds()
    retries: int = Field(default=0, ge=0, le=5)
    paste_back: Literal["auto"] | bool = "auto"
    sign: bool = False
    source_type: Annotated[str, AfterValidator(_source_type)] = SOURCE_TYPES[0]
    label_prompt: bool = False
    renditions: Annotated[Renditions, AfterValidator(_renditions)] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Names what the published files look like, given the landed ones."""
        asked = self.model_dump(mode="json", include=_SHAPING, exclude_defaults=True)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    def label_of(self, rendition: str) -> str:
        """The IPTC ``DigitalSourceType`` on a rendition's label, or (``""``) on that of the picture itself."""
        if (asked := self.renditions.get(rendition)) is None:
            return self.source_type
        return asked.source_type or ("algorithmicallyEnhanced" if asked.of == "cutout" else self.source_type)

    def pastes(self, output: Output) -> bool:
        """Whether the product's own pixels are put over a landed picture."""
        seen = output.fidelity
        return self.paste_back is True or (self.paste_back == "auto" and seen is not None and pasted_unseen(seen))

    def publishes(self, output: Output) -> bool:
        """Whether a picture is published as it landed, and nothing else is made of it."""
        relabelled = self.source_type != SOURCE_TYPES[0] or self.label_prompt
        return not (relabelled or self.sign or self.renditions or self.pastes(output))

    def needs_source(self, outputs: Iterable[Output]) -> bool:
        """Whether the shop's own cut-out is needed."""
        return self.sign or any(it.of == "cutout" for it in self.renditions.values()) or any(map(self.pastes, outputs))


def finish(
    storage: Storage,
    layout: Layout,
    call: Call,
    finishing: Finishing,
    *,
    source: bytes | None = None,
    prompt: str | None = None,
    sign: Sign | None = None,
) -> tuple[tuple[Finished, ...], tuple[str, ...]]:
    """Make the files to be published of a purchase, and put them below ``_bgai/finished``. Blocking.

    A rendition that cannot be made is left out, with the reason among the problems; the others are published.

    :param call: landed.
    :param source: the shop's cut-out; None if ``finishing`` does not need it.
    :param prompt: what the vendor was asked for; written only where ``finishing`` asks for it.
    :param sign: signs a labelled file; needed where ``finishing`` asks for it.
    :returns: the files, and the problems in words.
    """
    from airflow_provider_bgai.imaging.prepare import read_rgba
    from airflow_provider_bgai.imaging.recent import read_source

    if all(map(finishing.publishes, call.images)):
        return keep_as_landed(storage, layout, call, finishing), ()
    cutout = read_source(source).image if source is not None else None
    made: list[tuple[Finished, Evidence]] = []
    problems: list[str] = []
    for index, output in enumerate(call.images, start=1):
        landed = storage.read(layout.absolute(output.uri))
        making = Making(cutout=source)
        if finishing.sign and output.delivered is not None:
            try:
                making = replace(making, original=storage.read(layout.absolute(output.delivered.uri)))
            except FileNotFoundError:
                problems.append(f"picture {index}: the vendor's own manifest is lost: {output.delivered.uri} is gone")
        desk = _Desk(
            storage,
            layout,
            call,
            index,
            output,
            landed,
            version=hashlib.sha256(f"{output.sha256} {finishing.digest}".encode()).hexdigest()[:16],
            prompt=writable(prompt) if prompt and finishing.label_prompt else None,
            sign=sign if finishing.sign else None,
            making=making,
        )
        picture = read_rgba(landed)
        pasted = None
        if finishing.pastes(output):
            placement = output.fidelity.placement if output.fidelity else None
            if cutout is None or placement is None:
                problems.append(f"picture {index} is not pasted back: nobody knows where the product lies")
            else:
                picture, pasted = _pasted_back(cutout, picture, placement, landed)
                desk = replace(desk, making=replace(making, pasted=True))
        try:
            made.append(desk.picture(pasted, finishing.source_type))
        except LabelError as error:
            problems.append(f"picture {index}: {error}")
        for name, rendition in finishing.renditions.items():
            try:
                made.append(desk.render(name, rendition, picture, cutout, finishing.label_of(name)))
            except (RenditionError, LabelError) as error:
                problems.append(f"rendition {name!r} of picture {index}: {error}")
    keep_evidence(storage, layout, finishing.digest, [evidence for _, evidence in made])
    return tuple(file for file, _ in made), tuple(problems)


def keep_as_landed(storage: Storage, layout: Layout, call: Call, finishing: Finishing) -> tuple[Finished, ...]:
    """The files of pictures that are published as they landed, with their evidence written down. Blocking."""
    made = [_as_landed(call, index, output) for index, output in enumerate(call.images, start=1)]
    keep_evidence(storage, layout, finishing.digest, [evidence for _, evidence in made])
    return tuple(file for file, _ in made)


def _as_landed(call: Call, index: int, output: Output) -> tuple[Finished, Evidence]:
    file = Finished(**output.model_dump(), rendition="", index=index)
    return file, evidence_of(call, output, index, label=call.label(index)).of_file(output.uri, output.sha256)


@dataclass(frozen=True)
class _Desk:
    """Where the files of one landed picture are labelled and put away.

    :ivar landed: its bytes, with all that the vendor says in them but a manifest.
    :ivar making: how it came about, up to the picture itself.
    """

    storage: Storage
    layout: Layout
    call: Call
    index: int
    output: Output
    landed: bytes
    version: str
    prompt: str | None
    sign: Sign | None
    making: Making

    def picture(self, pasted: bytes | None, source_type: str) -> tuple[Finished, Evidence]:
        """The picture itself: what has landed, if that is what is asked for."""
        wanted = self.label("", source_type)
        if pasted is not None:
            like = read_header(pasted)
            changed = like.extension != read_header(self.landed).extension
            steps = (("c2pa.converted", None),) if changed else ()
            data, notes = self._carried(pasted, wanted)
            return self.keep("", data, like, wanted, notes=notes, steps=steps)
        label, bare = read_label(self.landed), without_manifest(self.landed)
        as_wanted = label is not None and (label.source_type, label.prompt) == (wanted.source_type, wanted.prompt)
        if as_wanted and self.sign is None and bare is self.landed:
            return _as_landed(self.call, self.index, self.output)
        return self.keep("", bare, read_header(bare), wanted)

    def render(
        self, name: str, rendition: Rendition, picture: Image.Image, cutout: Image.Image | None, source_type: str
    ) -> tuple[Finished, Evidence]:
        """A rendition, with what the vendor says in the picture that it shows."""
        by_vendor = rendition.of == "picture"
        shown, came = (picture, self.landed) if by_vendor else (cutout, self.making.cutout)
        if shown is None or came is None:
            raise RenditionError("of='cutout': the shop's own picture is not at hand")
        if rendition.max_bytes is not None:
            taken = self._bytes_of_marks(by_vendor)
            left = rendition.max_bytes - LABEL_BYTES - taken
            if taken and left < 1:
                raise RenditionError(f"max_bytes={rendition.max_bytes}: others' marks alone take {taken:,} bytes")
            rendition = rendition.model_copy(update={"max_bytes": max(1, left)})
        made = render(shown, rendition)
        label = self.label(name, source_type, by_vendor=by_vendor)
        data, notes = self._carried(made.data, label) if by_vendor else (made.data, ())
        steps = tuple(_steps(rendition, made, shown.size, came))
        return self.keep(name, data, made, label, notes=(*made.notes, *notes), steps=steps, rendered=rendition)

    def _carried(self, made: bytes, label: Label) -> tuple[bytes, tuple[str, ...]]:
        """A file made of the landed one, labelled, with what the vendor says in that; or without both, and with the
        reason: a packet that just fits a JPEG leaves the label no room."""
        try:
            return write_label(carry_marks(self.landed, made), label), ()
        except LabelError as error:
            return made, (f"the vendor's own marks are not carried over: {error}",)

    def _bytes_of_marks(self, by_vendor: bool) -> int:
        """Roughly what others' marks take in a file: XMP, and if it is signed the manifests of what it is made of."""
        parts = (self.making.original if by_vendor else None, self.making.cutout) if self.sign is not None else ()
        carried = bytes_of_marks(self.landed, manifest=False) if by_vendor else 0
        return carried + sum(bytes_of_marks(part, manifest=True) for part in parts if part is not None)

    def label(self, name: str, source_type: str, *, by_vendor: bool = True) -> Label:
        """The label of the picture itself (``""``) or of a rendition."""
        prompt = self.prompt if by_vendor else None
        return self.call.label(self.index, name, source_type=source_type, prompt=prompt, by_vendor=by_vendor)

    def keep(
        self,
        name: str,
        data: bytes,
        like: Picture | Rendered,
        label: Label,
        *,
        notes: tuple[str, ...] = (),
        steps: tuple[tuple[str, str | None], ...] = (),
        rendered: Rendition | None = None,
    ) -> tuple[Finished, Evidence]:
        data = write_label(data, label)
        of_cutout = rendered is not None and rendered.of == "cutout"
        pasted = self.making.pasted and not of_cutout
        evidence = evidence_of(self.call, self.output, self.index, label=label, pasted=pasted)
        evidence = evidence.model_copy(update={"rendition": name, "rendered": rendered})
        if self.sign is not None:
            data = self.sign(data, label, making=replace(self.making, steps=steps, evidence=evidence.assertion()))
        place = PictureName(self.call.fingerprint, self.call.number, self.index, len(self.call.images))
        uri = self.layout.finished(place, self.version, name, like.extension)
        self.storage.put(uri, data, content_type=like.content_type, metadata={"id": label.id})
        file = Finished(
            rendition=name,
            index=self.index,
            uri=self.layout.relative(uri),
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            width=like.width,
            height=like.height,
            content_type=like.content_type,
            delivered=self.output.delivered if label.vendor is not None else None,
            notes=notes,
        )
        return file, evidence.of_file(file.uri, file.sha256)


def _steps(
    rendition: Rendition, made: Rendered, size: tuple[int, int], came: bytes
) -> Iterator[tuple[str, str | None]]:
    """What a rendition does to a picture of this size, that came in this file, as actions of C2PA."""
    if (made.width, made.height) != size:
        yield "c2pa.resized", f"fit: {rendition.fit}"
    if rendition.icon is not None:
        yield "c2pa.edited", "a visible mark: AI"
    kind = picture_type(came[:16])
    yield ("c2pa.transcoded" if kind is not None and kind[0] == made.extension else "c2pa.converted"), None


def _pasted_back(
    cutout: Image.Image, picture: Image.Image, placement: Placement, data: bytes
) -> tuple[Image.Image, bytes]:
    """The picture and its file, without any loss, or the product's own pixels would not be what they were."""
    pasted = paste_back(cutout, picture, placement)
    file = io.BytesIO()
    if read_header(data).extension == "webp":
        pasted.save(file, "WEBP", lossless=True)
    else:
        pasted.save(file, "PNG", compress_level=3)  # 6 takes three times as long, and saves a tenth
    return pasted, file.getvalue()
