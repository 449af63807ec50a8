"""What to paint behind each product: templates over the manifest's columns, with overrides by category.

A recipe is checked as a whole when it is loaded: unknown fields, broken templates and impossible values are found
before anything is spent. What only a product can show (a column it does not have, or with nothing in it) is refused
for that product alone: nobody pays for "a  cup on ".
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from airflow_provider_bgai.catalogue.finishing import Finishing
from airflow_provider_bgai.catalogue.manifest import Product, is_remote, resolve
from airflow_provider_bgai.catalogue.tables import column_name
from airflow_provider_bgai.catalogue.templates import Text, check_template, columns_of, compiled, render
from airflow_provider_bgai.exceptions import InvalidRequestError, RecipeError
from airflow_provider_bgai.layout import MAX_SEGMENT, is_feed
from airflow_provider_bgai.mistakes import of_fields, reading, shown
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.storage import Storage, split_uri

SUFFIXES = (".yaml", ".yml", ".json")
MAX_SEED = 2**31 - 1
MAX_KEY = 900
"""Bytes of a stable key, with a rendition's name; S3 takes 1,024 with the destination's prefix."""
LONGEST_EXTENSION = "webp"
MAX_ALT = 512
"""Characters of an alt text: what Shopify takes."""
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


def _beside(text: str, info: ValidationInfo) -> str:
    text = text.strip()
    return resolve(text, (info.context or {}).get("where", "")) if text and not compiled(text) else text


def _public(url: str) -> str:
    try:
        parts = urlsplit(url)
        whole = parts.scheme == "https" and parts.hostname and parts.port != 0 and parts.username is None
    except ValueError:
        whole = False
    if not whole or parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be an address like https://cdn.example.com/pictures")
    return url.rstrip("/")


def _spelled_once(categories: dict[str, Style]) -> dict[str, Style]:
    spelled: dict[str, Style] = {}
    for name, style in categories.items():
        name = _category(name)
        if name in spelled:
            raise ValueError(f"{name!r} stands there twice")
        spelled[name] = style
    return spelled


def _category(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip())


Column = Annotated[str, AfterValidator(column_name)]


class Seed(BaseModel):
    """Where seeds come from.

    :param policy: ``none``; ``fixed``: ``value`` for all; ``sku``, ``category``: worked out from it, so that the same
        SKU or category always has the same seed.
    :param value: the seed itself (``fixed``), or any number that turns all the others into new ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Literal["none", "fixed", "sku", "category"] = "none"
    value: int | None = None

    @model_validator(mode="after")
    def _check(self) -> Seed:
        if self.policy == "fixed" and (self.value is None or not 1 <= self.value <= MAX_SEED):
            raise ValueError(f"policy 'fixed' needs a value from 1 to {MAX_SEED}")
        if self.policy == "none" and self.value is not None:
            raise ValueError("policy 'none' takes no value; for one seed for all, use policy 'fixed'")
        return self

    def of(self, sku: str, category: str) -> int | None:
        """The seed of a product."""
        if self.policy in ("none", "fixed"):
            return self.value
        key = f"{self.policy}\0{sku if self.policy == 'sku' else category}\0{self.value or ''}"
        spelled = unicodedata.normalize("NFC", key).encode()
        return 1 + int.from_bytes(hashlib.sha256(spelled).digest()[:8], "big") % MAX_SEED


class Feed(BaseModel):
    """The shop's feeds, which publishing writes. Texts are Jinja templates over the product's columns.

    :param url: ``https://…`` where the world reads what lies at the destination.
    :param title, handle: of the product in Shopify, as they are there: its importer takes no rows without them.
    :param google_id: the product's ``id`` in Merchant Center; left out, it is the SKU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, AfterValidator(_public)]
    title: Text | None = None
    handle: Text | None = None
    google_id: Text | None = None


class Style(Finishing):
    """What may differ by category. Texts are Jinja templates over the product's columns.

    :param prompt, negative_prompt, count, template, guidance_image, guidance_scale, options: as in
        :class:`~airflow_provider_bgai.models.BackgroundRequest`. A relative guidance image lies beside the recipe,
        one that is a template beside the manifest.
    :param name: the picture's key below the destination, with ``{ext}``, and ``{index}`` where there are several.
        Left out, it is the SKU.
    :param alt: what the picture shows, for those who do not see it; changes neither what is bought nor any file.

    What is done to the pictures (``fidelity``, ``retries``, ``paste_back``, ``source_type``, ``label_prompt``, ``sign``
    and ``renditions``) is described at :class:`~airflow_provider_bgai.catalogue.finishing.Finishing`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    prompt: Text | None = None
    negative_prompt: Text | None = None
    seed: Seed = Seed()
    count: int = Field(default=1, ge=1)
    template: Text | int | None = None
    guidance_image: Annotated[Text, AfterValidator(_beside)] | None = None
    guidance_scale: float | None = Field(default=None, ge=0, le=1)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    name: Text | None = None
    alt: Text | None = None

    @model_validator(mode="after")
    def _check_options(self) -> Style:
        for option, value in self.options.items():
            try:
                check_template(value)
            except ValueError as error:
                raise ValueError(f"options[{option!r}] {error}") from None
        return self


class Recipe(Style):
    """A recipe: a :class:`Style` for all products, and what differs by category.

    :param version: the recipe's own version, for readers of plans and reports.
    :param priority: the column with each product's priority (a number, higher is bought first); None: the file's order.
    :param category: the column with each product's category.
    :param categories: overrides by category. A field given there replaces the recipe's; the others hold.
    :param feed: the feeds that publishing writes; None for none.
    """

    version: int = 1
    priority: Column | None = None
    category: Column = "category"
    categories: Annotated[dict[str, Style], AfterValidator(_spelled_once)] = Field(default_factory=dict)
    feed: Feed | None = None

    _where: str = PrivateAttr("recipe")

    @model_validator(mode="after")
    def _check_names(self) -> Recipe:
        for category in (None, *self.categories):
            style = self.style(category)
            place = f"categories.{category}: " if category is not None else ""
            if style.name is not None and style.count > 1 and "{index}" not in style.name:
                raise ValueError(
                    f"{place}name={style.name!r} needs {{index}}, or {style.count} pictures would overwrite each other"
                )
            if style.name is not None and not style.name.strip():
                raise ValueError(f"{place}name={style.name!r} is empty")
        return self

    def style(self, category: str | None) -> Style:
        """What holds for a category."""
        own = {name: getattr(self, name) for name in Style.model_fields}
        other = self.categories.get(category) if category is not None else None
        if other is not None:
            own |= {name: getattr(other, name) for name in other.model_fields_set}
        return Style.model_construct(**own)

    @property
    def digest(self) -> str:
        """Names the recipe as a whole: another digest means that something in it changed."""
        overrides = {name: style.model_dump(mode="json", exclude_unset=True) for name, style in self.categories.items()}
        own = self.model_dump(mode="json", exclude_defaults=True, exclude={"categories"})
        return _digest({**own, "version": self.version, "categories": overrides})

    def digest_of(self, category: str) -> str:
        """Names what holds for a category: a change for another one leaves it alone."""
        # What is done to pictures, and said of them, changes nothing in what is bought.
        afterwards = {*Finishing.model_fields, "alt"}
        style = self.style(category).model_dump(mode="json", exclude_defaults=True, exclude=afterwards)
        return _digest({**style, "version": self.version})

    def finishing_of(self, category: str) -> Finishing:
        """What is done to the pictures of a category."""
        style = self.style(category)
        return Finishing.model_construct(**{name: getattr(style, name) for name in Finishing.model_fields})

    def category_of(self, product: Product) -> str:
        """The product's category. :raises InvalidRequestError: if the recipe needs one and there is no such column."""
        if self.category in product.fields:
            return _category(product.fields[self.category])
        if self.categories or self.seed.policy == "category":
            raise self._refuse(product, "category", _no_column(self.category, product))
        return ""

    def priority_of(self, product: Product) -> float:
        """The product's priority; 0 where it has none. :raises InvalidRequestError: if it is no number."""
        if self.priority is None:
            return 0.0
        if self.priority not in product.fields:
            raise self._refuse(product, "priority", _no_column(self.priority, product))
        text = product.fields[self.priority].strip()
        try:
            number = float(text or 0)
        except ValueError:
            number = float("nan")
        if not abs(number) < float("inf"):
            raise self._refuse(product, "priority", f"{self.priority}={text[:80]!r} is not a number")
        return number

    def request(self, product: Product) -> BackgroundRequest:
        """The request for a product. :raises InvalidRequestError: naming recipe, field, SKU and row."""
        category = self.category_of(product)
        return self._painter(category).request(self, product, category)

    def name_of(self, product: Product) -> str:
        """The product's stable key below the destination, with ``{index}`` and ``{ext}`` still in it.

        :raises InvalidRequestError: if it is not safe as a key.
        """
        painter = self._painter(self.category_of(product))
        name = painter.name(self, product)
        problem = _key_problem(name, painter.constant["count"], painter.folder)
        if problem:
            raise self._refuse(product, "name", f"{name[:120]!r} {problem}")
        return name

    def words_of(self, product: Product) -> dict[str, str]:
        """What the shop says of the product's pictures, each in one line: ``alt``, and the texts of ``feed``.

        :raises InvalidRequestError: naming recipe, field, SKU and row.
        """
        words = {}
        for field, text in self._painter(self.category_of(product)).words.items():
            if line := _BREAKS.sub(" ", self._render(product, field, text)).strip():
                words[field.rpartition(".")[2]] = line
        if (length := len(words.get("alt", ""))) > MAX_ALT:
            raise self._refuse(product, "alt", f"has {length} characters; shops take {MAX_ALT}")
        return words

    @cached_property
    def painters(self) -> Mapping[str, _Painter]:
        """Every category's style made ready; ``""`` for the others. A plain attribute: every product asks for it."""
        return {name: _Painter.of(self.style(name), self.feed) for name in ("", *self.categories)}

    def _painter(self, category: str) -> _Painter:
        painters = self.painters
        return painters.get(category) or painters[""]

    def _refuse(self, product: Product, field: str, problem: str) -> InvalidRequestError:
        row = f"{product.manifest}, row {product.row}"
        return InvalidRequestError(f"{self._where}, {field}: SKU {product.sku!r} ({row}): {problem}")

    def _render(self, product: Product, field: str, text: str) -> str:
        try:
            return render(text, product.fields)
        except ValueError as error:
            raise self._refuse(product, field, str(error)) from None


def _no_column(name: str, product: Product) -> str:
    return f"{name!r} is not a column of the manifest; {columns_of(product.fields)}"


@dataclass(frozen=True, slots=True)
class _Painter:
    """A style made ready for many products: what is a template, and what is the same for all.

    :param folder: the longest one that keys are published under once more: a rendition's name.
    :param words: what the shop says, by the recipe's field.
    """

    texts: Mapping[str, str]
    constant: Mapping[str, Any]
    options: Mapping[str, Any]
    seed: Seed
    key: str
    folder: str
    words: Mapping[str, str]

    @classmethod
    def of(cls, style: Style, feed: Feed | None) -> _Painter:
        fields = ("prompt", "negative_prompt", "template", "guidance_image")
        values = {name: getattr(style, name) for name in fields if getattr(style, name) is not None}
        texts = {name: value for name, value in values.items() if isinstance(value, str) and compiled(value)}
        constant = {name: value for name, value in values.items() if name not in texts}
        constant |= {"count": style.count, "guidance_scale": style.guidance_scale}
        key = style.name or ("{{ sku }}.{ext}" if style.count == 1 else "{{ sku }}-{index}.{ext}")
        folder = max((f"{name}/" for name in style.renditions), key=len, default="")
        said = feed.model_dump(exclude={"url"}) if feed is not None else {}
        words = {"alt": style.alt, **{f"feed.{name}": text for name, text in said.items()}}
        given = {name: text for name, text in words.items() if text is not None}
        return cls(texts, constant, style.options, style.seed, key, folder, given)

    def request(self, recipe: Recipe, product: Product, category: str) -> BackgroundRequest:
        texts: dict[str, Any] = {name: recipe._render(product, name, text) for name, text in self.texts.items()}
        if guidance := texts.get("guidance_image", "").strip():
            # Both have written it, so both have to be this machine's for it to be one of its files.
            foreign = is_remote(recipe._where) and not is_remote(product.manifest)
            try:
                texts["guidance_image"] = resolve(guidance, recipe._where if foreign else product.manifest)
            except ValueError as error:
                raise recipe._refuse(product, "guidance_image", f"{shown(guidance)[:80]!r} {error}") from None
        options = {
            name: recipe._render(product, f"options[{name!r}]", value) if isinstance(value, str) else value
            for name, value in self.options.items()
        }
        try:
            return BackgroundRequest(
                product.image, **self.constant, **texts, options=options, seed=self.seed.of(product.sku, category)
            )
        except InvalidRequestError as error:
            raise recipe._refuse(product, "request", str(error)) from None

    def name(self, recipe: Recipe, product: Product) -> str:
        if self.key == "{{ sku }}.{ext}":
            return f"{product.sku}.{{ext}}"
        return recipe._render(product, "name", self.key)


def load_recipe(recipe: str | Mapping[str, Any], storage: Storage) -> Recipe:
    """A recipe, checked as a whole.

    :param recipe: a mapping; or a path or ``s3://`` URI ending in ``.yaml``, ``.yml`` or ``.json``; or YAML text
        of more than one line.
    :raises RecipeError: naming every wrong field.
    """
    import yaml

    where = "recipe"
    if isinstance(recipe, str):
        text: str | bytes = recipe
        if "\n" not in recipe:
            where, text = recipe, _read(recipe, storage)
        try:
            recipe = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise RecipeError(f"{where}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, Mapping):
        raise RecipeError(f"{where}: must be a mapping of fields like prompt and count, not {type(recipe).__name__}")
    try:
        loaded = Recipe.model_validate(dict(recipe), context={"where": where})
    except ValidationError as error:
        raise RecipeError(of_fields(where, error, recipe, Recipe)) from None
    loaded._where = where
    return loaded


def _read(uri: str, storage: Storage) -> bytes:
    if Path(uri).suffix.lower() not in SUFFIXES:
        raise RecipeError(f"recipe={uri[:200]!r}: must be a mapping, or a file ending in {', '.join(SUFFIXES)}")
    if uri.startswith("s3://"):
        with reading(uri, uri, storage, RecipeError):
            return storage.read(uri)
    try:
        return Path(uri).read_bytes()
    except FileNotFoundError:
        raise RecipeError(f"{uri}: there is no such recipe") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{uri}: cannot be read: {error}") from None


def _key_problem(name: str, count: int, folder: str) -> str | None:
    rest = name.replace("{index}", str(count)).replace("{ext}", LONGEST_EXTENSION)
    if "{" in rest or "}" in rest or "\\" in rest:
        return "may hold {index} and {ext}, and no other braces or backslashes"
    if not rest or rest.endswith("/"):
        return "must name a picture, not a folder"
    if rest.partition("/")[0].lower() == "_bgai":
        return "is reserved: _bgai/ holds the records"
    if is_feed(rest):
        return "is the name of a feed"
    try:
        split_uri(f"s3://bucket/{rest}")
        longest = max(len(part.encode()) for part in rest.split("/"))
        size = len(f"{folder}{rest}".encode())
    except InvalidRequestError as error:
        return str(error).rpartition(": ")[2]
    except UnicodeEncodeError:
        return "is not UTF-8 text"
    if longest > MAX_SEGMENT:
        return f"has a part of {longest} bytes between slashes; at most {MAX_SEGMENT}"
    return f"is longer than {MAX_KEY} bytes" if size > MAX_KEY else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
