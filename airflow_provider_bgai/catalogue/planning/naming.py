"""What products want, with the names of that: its key in the shop, and its fingerprint as far as hints tell.

A fingerprint is made exactly as whoever generates makes it, with the content that a source had when it last looked as
it looks now. Where nobody has seen it look so, the wish has a stand-in that is equal for equal wishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_bgai.buying.purchase import able_to, name_of
from airflow_provider_bgai.catalogue.manifest import Product
from airflow_provider_bgai.catalogue.planning.images import Images, read_few
from airflow_provider_bgai.catalogue.recipe import Recipe
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.storage import Storage

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook

MOODS = 100
"""So many guidance images are read: a recipe has few. Were there one a product, the others would stay unknown."""

Refuse = Callable[[Product, str, str], None]
"""Called with a product, its key (or ``""``) and what is wrong."""


@dataclass(frozen=True, slots=True)
class NamedWish:
    """What the recipe makes of a product.

    :param key: below the destination, with ``{index}`` and ``{ext}``.
    :param able: place of the first hook that takes it.
    :param name: the fingerprint, or its stand-in where it is not ``known``.
    :param source: sha256 of the source, as far as hints tell.
    :param words: what the shop says of the product's pictures.
    """

    product: Product
    request: BackgroundRequest
    category: str
    priority: float
    key: str
    able: int
    name: bytes
    source: bytes | None
    known: bool
    words: dict[str, str]


class Names:
    """Names what products want; each key once.

    :param images: what the sources look like.
    """

    def __init__(self, recipe: Recipe, hooks: Sequence[BackgroundHook], storage: Storage, images: Images) -> None:
        self.recipe, self.hooks, self.storage, self.images = recipe, hooks, storage, images
        self._keys: dict[str, str] = {}
        self._moods: dict[str, bytes | None] = {}

    def of(self, products: Sequence[Product], refuse: Refuse) -> list[NamedWish]:
        """What the recipe makes of some products; those it cannot be made for are refused."""
        wanted = []
        for product in products:
            try:
                category, priority = self.recipe.category_of(product), self.recipe.priority_of(product)
                request = self.recipe.request(product)
                words = self.recipe.words_of(product)
                wanted.append((product, request, category, priority, self._key(product, request), words))
            except InvalidRequestError as error:
                refuse(product, "", str(error))
        requests = [request for _, request, *_ in wanted]
        self.images.look(request.image for request in requests)
        self._read_moods(requests)
        named = []
        for product, request, category, priority, key, words in wanted:
            try:
                hook = able_to(self.hooks, request)[0]
                name, source, known = self._name(hook, request)
            except InvalidRequestError as error:
                refuse(product, key, f"row {product.row}: {error}")
            else:
                able = self.hooks.index(hook)
                named.append(NamedWish(product, request, category, priority, key, able, name, source, known, words))
        return named

    def _key(self, product: Product, request: BackgroundRequest) -> str:
        name = self.recipe.name_of(product)
        keys = [name] if request.count == 1 else [name.replace("{index}", str(i + 1)) for i in range(request.count)]
        for key in keys:
            if key in self._keys:
                where = f"name={key!r} of SKU {product.sku!r} (row {product.row})"
                raise InvalidRequestError(f"{where} is the name of {self._keys[key]!r} as well")
        for key in keys:
            self._keys[key] = product.sku
        return name

    def _read_moods(self, requests: Sequence[BackgroundRequest]) -> None:
        moods = dict.fromkeys(str(it.guidance_image) for it in requests if it.guidance_image is not None)
        new = [mood for mood in moods if mood not in self._moods][: max(0, MOODS - len(self._moods))]
        if new:
            allow = self.hooks[0].settings.allow_private_hosts
            self._moods |= read_few(new, self.storage, allow_private_hosts=allow)

    def _name(self, hook: BackgroundHook, request: BackgroundRequest) -> tuple[bytes, bytes | None, bool]:
        source, mood = self.images[request.image], None
        known = source is not None
        said = source.hex() if source is not None else f"? {request.image!r}"
        if request.guidance_image is not None:
            found = self._moods.get(str(request.guidance_image))
            known = known and found is not None
            mood = found.hex() if found is not None else f"? {request.guidance_image!r}"
        return bytes.fromhex(name_of(hook, request, source=said, guidance=mood)), source, known
