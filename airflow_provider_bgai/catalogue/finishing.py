"""From a landed picture to the files that are published: pasted back, rendered, labelled; and what a recipe asks of it.

None of it is part of what is bought. Pictures are finished from what has landed, so that another wish here makes
new files and no new bill.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from airflow_provider_bgai.catalogue.results import Finished
from airflow_provider_bgai.imaging.fidelity import Placement, Thresholds
from airflow_provider_bgai.imaging.label import SOURCE_TYPES, Label, LabelError, read_label, write_label
from airflow_provider_bgai.imaging.paste import paste_back
from airflow_provider_bgai.imaging.renditions import Rendered, Rendition, RenditionError, Renditions, render
from airflow_provider_bgai.imaging.verify import Picture, read_header
from airflow_provider_bgai.layout import Layout, PictureName

if TYPE_CHECKING:
    from PIL import Image

    from airflow_provider_bgai.buying.record import Call, Output
    from airflow_provider_bgai.storage import Storage

Sign = Callable[[bytes, Label], bytes]

LABEL_BYTES = 10_000
"""More than a label and a signature take: left free where a rendition has a limit."""

_SHAPING = {"paste_back", "sign", "source_type", "renditions"}
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
    :param sign: add C2PA provenance, signed with the certificate of the task's ``sign_conn_id``.
    :param renditions: further files of each picture, by name: published as ``<name>/<key>``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    fidelity: Annotated[Thresholds | None, BeforeValidator(_thresholds)] = Thresholds()
    retries: int = Field(default=0, ge=0, le=5)
    paste_back: Literal["auto"] | bool = "auto"
    sign: bool = False
    source_type: Annotated[str, AfterValidator(_source_type)] = SOURCE_TYPES[0]
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
        asked = (self.sign, self.renditions, self.source_type != SOURCE_TYPES[0], self.pastes(output))
        return not any(asked)

    def needs_source(self, outputs: Iterable[Output]) -> bool:
        """Whether the shop's own cut-out is needed."""
        return any(rendition.of == "cutout" for rendition in self.renditions.values()) or any(map(self.pastes, outputs))


def finish(
    storage: Storage,
    layout: Layout,
    call: Call,
    finishing: Finishing,
    *,
    source: bytes | None = None,
    sign: Sign | None = None,
) -> tuple[tuple[Finished, ...], tuple[str, ...]]:
    """Make the files to be published of a purchase, and put them below ``_bgai/finished``. Blocking.

    A rendition that cannot be made is left out, with the reason among the problems; the others are published.

    :param call: landed.
    :param source: the shop's cut-out; None if ``finishing`` does not need it.
    :param sign: signs a labelled file; needed where ``finishing`` asks for it.
    :returns: the files, and the problems in words.
    """
    from airflow_provider_bgai.imaging.prepare import read_rgba

    if all(map(finishing.publishes, call.images)):
        return tuple(keep_as_landed(storage, layout, call, finishing)), ()
    cutout = read_rgba(source) if source is not None else None
    made: list[tuple[Finished, Evidence]] = []
    problems: list[str] = []
    for index, output in enumerate(call.images, start=1):
        version = hashlib.sha256(f"{output.sha256} {finishing.digest}".encode()).hexdigest()[:16]
        data = landed_bytes = storage.read(layout.absolute(output.uri))
        picture = read_rgba(data)
        if finishing.pastes(output):
            placement = output.fidelity.placement if output.fidelity else None
            if cutout is None or placement is None:
                problems.append(f"picture {index} is not pasted back: nobody knows where the product lies")
            else:
                picture, data = _pasted_back(cutout, picture, placement, data)
        pasted = data is not landed_bytes
        desk = _Desk(storage, layout, version, call, index, output, pasted, sign if finishing.sign else None)
        try:
            made.append(desk.picture(data, finishing))
        except LabelError as error:
            problems.append(f"picture {index}: {error}")
        for name, rendition in finishing.renditions.items():
            try:
                made.append(desk.render(name, rendition, picture, cutout, finishing.label_of(name)))
            except (RenditionError, LabelError) as error:
                problems.append(f"rendition {name!r} of picture {index}: {error}")
    keep_evidence(storage, layout, finishing.digest, [evidence for _, evidence in made])
    return tuple(file for file, _ in made), tuple(problems)


def keep_as_landed(storage: Storage, layout: Layout, call: Call, finishing: Finishing) -> list[Finished]:
    """The files of pictures that are published as they landed, with their evidence written down. Blocking."""
    files = [Finished(**it.model_dump(), rendition="", index=index) for index, it in enumerate(call.images, start=1)]
    seen = [
        evidence_of(call, it, it.index, label=label_of(call, it.index)).of_file(it.uri, it.sha256) for it in files
    ]
    keep_evidence(storage, layout, finishing.digest, seen)
    return files


@dataclass(frozen=True)
class _Desk:
    """Where the files of one landed picture are labelled and put away."""

    storage: Storage
    layout: Layout
    version: str
    call: Call
    index: int
    sign: Sign | None

    def picture(self, output: Output, data: bytes, finishing: Finishing, *, pasted: bool) -> Finished:
        """The picture itself: what has landed, if that is what is asked for."""
        label = read_label(data)
        if pasted or self.sign or label is None or label.source_type != finishing.source_type:
            return self.keep("", data, read_header(data), finishing.source_type)
        return Finished(**output.model_dump(), rendition="", index=self.index)

    def render(
        self, name: str, rendition: Rendition, picture: Image.Image, cutout: Image.Image | None, source_type: str
    ) -> Finished:
        image = picture
        if rendition.of == "cutout":
            if cutout is None:
                raise RenditionError("of='cutout': the shop's own picture is not at hand")
            image = cutout
        if rendition.max_bytes is not None:
            rendition = rendition.model_copy(update={"max_bytes": max(1, rendition.max_bytes - LABEL_BYTES)})
        made = render(image, rendition)
        return self.keep(name, made.data, made, source_type, made.notes, by_vendor=rendition.of == "picture")

    def keep(
        self,
        name: str,
        data: bytes,
        like: Picture | Rendered,
        source_type: str,
        notes: tuple[str, ...] = (),
        *,
        by_vendor: bool = True,
    ) -> Finished:
        label = Label(
            source_type=source_type,
            vendor=self.call.vendor if by_vendor else None,
            model=self.call.model if by_vendor else None,
            created=self.call.sent_at,
            id="-".join(filter(None, (f"{self.call.fingerprint}.{self.call.number}", str(self.index), name))),
        )
        data = write_label(data, label)
        if self.sign is not None:
            data = self.sign(data, label)
        place = PictureName(self.call.fingerprint, self.call.number, self.index, len(self.call.images))
        uri = self.layout.finished(place, self.version, name, like.extension)
        self.storage.put(uri, data, content_type=like.content_type, metadata={"id": label.id})
        return Finished(
            rendition=name,
            index=self.index,
            uri=self.layout.relative(uri),
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            width=like.width,
            height=like.height,
            content_type=like.content_type,
            notes=notes,
        )


def _pasted_back(
    cutout: Image.Image, picture: Image.Image, placement: Placement, data: bytes
) -> tuple[Image.Image, bytes]:
    """The picture and its file, without any loss, or the product's own pixels would not be what they were."""
    pasted = paste_back(cutout, picture, placement)
    file = io.BytesIO()
    if read_header(data).extension == "webp":
        pasted.save(file, "WEBP", lossless=True)
    else:
        pasted.save(file, "PNG", compress_level=6)
    return pasted, file.getvalue()
