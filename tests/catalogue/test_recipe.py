"""A recipe is right as a whole before anything is spent, and asks for the same picture every night."""

from __future__ import annotations

import json
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.catalogue.manifest import Product
from airflow_provider_bgai.catalogue.recipe import MAX_SEED, Recipe, Seed, load_recipe
from airflow_provider_bgai.exceptions import InvalidRequestError, RecipeError
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.storage import Storage

YAML = """
version: 4
prompt: "{{ title }} on {{ surface|lower }}"
count: 2
seed: {policy: category}
options: {style: "{{ category }}", strength: 0.5}
categories:
  shoes: {count: 1, negative_prompt: feet, options: {}}
  art: {prompt: null, template: "17"}
"""


def load(recipe) -> Recipe:
    return load_recipe(recipe, Storage(None))


def product(sku: str = "A-1", **fields: str) -> Product:
    known = {"sku": sku, "image": "s3://shop/a.png", "title": "Cup", "surface": "OAK", "category": "kitchen"} | fields
    return Product(sku, known["image"], known, 7, "products.csv")


def test_a_recipe_comes_from_a_mapping_text_a_path_or_s3(tmp_path, storage, upload):
    import yaml

    (tmp_path / "r.yml").write_text(YAML)
    (tmp_path / "r.json").write_text(json.dumps(yaml.safe_load(YAML)))
    uri = upload("recipes/r.yaml", YAML.encode())
    sources = [yaml.safe_load(YAML), YAML, str(tmp_path / "r.yml"), str(tmp_path / "r.json"), uri]
    assert len({load_recipe(source, storage).digest for source in sources}) == 1


def test_the_request_is_the_template_filled_in():
    recipe = load(YAML)
    assert recipe.request(product()) == BackgroundRequest(
        "s3://shop/a.png",
        "Cup on oak",
        count=2,
        seed=Seed(policy="category").of("A-1", "kitchen"),
        options={"style": "kitchen", "strength": 0.5},
    )


def test_a_category_overrides_what_it_names_and_no_more():
    recipe = load(YAML)
    shoes, art = recipe.request(product(category="shoes")), recipe.request(product(category="art"))
    assert (shoes.prompt, shoes.count, shoes.negative_prompt, shoes.options) == ("Cup on oak", 1, "feet", {})
    assert (art.prompt, art.template, art.count) == (None, 17, 2)
    assert recipe.name_of(product()) == "A-1-{index}.{ext}"
    assert recipe.name_of(product(category="shoes")) == "A-1.{ext}"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"promt": "x"}, 'recipe, promt="x": there is no such field'),
        ({"prompt": "{{ title"}, "recipe, prompt=.*is not a template: .* \\(line 1\\)"),
        ({"prompt": 5}, "recipe, prompt=5"),
        ({"count": 0}, "recipe, count=0: .*greater than or equal to 1"),
        ({"guidance_scale": 2}, "recipe, guidance_scale=2"),
        ({"seed": {"policy": "sometimes"}}, 'recipe, seed.policy="sometimes"'),
        ({"seed": {"policy": "fixed"}}, "recipe, seed: policy 'fixed' needs a value"),
        ({"seed": {"policy": "none", "value": 3}}, "recipe, seed: policy 'none' takes no value"),
        ({"options": {"a": "{{"}}, "options\\['a'\\] is not a template"),
        ({"count": 2, "name": "{{ sku }}.{ext}"}, "needs {index}"),
        ({"name": "{{ sku }}.{ext}", "categories": {"art": {"count": 2}}}, "categories.art: name=.* needs {index}"),
        (
            {"guidance_image": "https://u:secret@host:99999/a?s=secret"},
            '"https://host:99999/a": has an impossible port',
        ),
        ({"feed": {"url": "s3://shop/pictures"}}, 'feed.url="s3://shop/pictures": must be an address like https://cdn'),
        ({"feed": {"url": "https://shop/p?key=1"}}, 'feed.url="https://shop/p": must be an address'),
        ({"feed": {"url": "https://a:b@shop/p"}}, 'feed.url="https://shop/p": must be an address'),
        ({"feed": {"url": "https://shop:x/"}}, "feed.url=.*: must be an address"),
        ({"feed": {"title": "x"}}, "recipe, feed.url=null: Field required"),
        ({"feed": {"url": "https://shop/p", "handel": "x"}}, "feed.handel=.*no such field; is handle meant?"),
        ({"feed": {"url": "https://shop/p", "title": "{{"}}, "feed.title=.*is not a template"),
        ({"alt": "{{ title"}, "recipe, alt=.*is not a template"),
        ({"categories": {"art": {"version": 2}}}, "recipe, categories.art.version=2: there is no such field"),
        ({"categories": {"art": {"prompt": "{% if %}"}}}, "recipe, categories.art.prompt=.*is not a template"),
        ("no-such-file.yaml", "no-such-file.yaml: there is no such recipe"),
        ("recipe.txt", "must be a mapping, or a file ending in .yaml, .yml, .json"),
        ("- a\n- b\n", "must be a mapping of fields like prompt and count, not list"),
        ("a: [\n", "recipe: is not YAML"),
        ("!!python/object/apply:os.system\n- 'true'\n", "recipe: is not YAML"),
    ],
)
def test_a_wrong_recipe_says_which_field_and_why(recipe, message):
    with pytest.raises(RecipeError, match=message):
        load(recipe)


def test_all_wrong_fields_are_said_at_once():
    with pytest.raises(RecipeError) as error:
        load({"count": 0, "categories": {"a": {"prompt": "{{"}, "b": {"coun": 1}}})
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        "recipe, count=0",
        'recipe, categories.a.prompt="{{"',
        "recipe, categories.b.coun=1",
    ]


@pytest.mark.parametrize(
    ("field", "text", "problem"),
    [
        ("prompt", "{{ titel }}", "'titel' is undefined; the manifest's columns are sku, image, title, surface"),
        ("negative_prompt", "{{ 1 / 0 }}", "ZeroDivisionError"),
        ("name", "{{ titel }}.{ext}", "'titel' is undefined"),
        ("name", "../{{ sku }}.{ext}", "not allowed in an S3 key"),
        ("name", "/{{ sku }}.{ext}", "not allowed in an S3 key"),
        ("name", "a//{{ sku }}.{ext}", "not allowed in an S3 key"),
        ("name", "{{ sku }}\t.{ext}", "control characters"),
        ("name", "_bgai/{{ sku }}", "is reserved"),
        ("name", "feeds/feed.csv", "is the name of a feed"),
        ("name", "{{ sku }}.{extension}", "no other braces"),
        ("name", "{{ sku }}/", "must name a picture, not a folder"),
        ("name", "{{ (sku ~ '/') * 230 }}.{ext}", "is longer than 900 bytes"),
        ("name", "{{ sku * 900 }}.{ext}", "has a part of 2705 bytes between slashes; at most 255"),
        (
            "prompt",
            "{{ title }} in {{ colour }}",
            "column 'colour' is empty; fill it in, or write {{ colour | default(",
        ),
        ("template", "{{ colour ~ 1 }}", "column 'colour' is empty"),
        ("options", {"x": "{{ [title, colour] | join }}"}, "column 'colour' is empty"),
        ("name", "{{ colour }}.{ext}", "column 'colour' is empty"),
        ("guidance_image", "https://host:99999/{{ title }}.png", "has an impossible port"),
    ],
)
def test_what_only_a_product_shows_is_refused_for_that_product(field, text, problem):
    recipe = load({"prompt": "x", field: text})
    field = "options['x']" if field == "options" else field
    with pytest.raises(InvalidRequestError) as error:
        (recipe.name_of if field == "name" else recipe.request)(product(colour=""))
    assert str(error.value).startswith(f"recipe, {field}: SKU 'A-1' (products.csv, row 7): ")
    assert problem in str(error.value)


def test_one_wish_is_one_request_however_it_is_spelled():
    text: dict[str, Any] = {
        "prompt": "{{ title }} in {{ cafe }}",
        "template": "{{ scene }}",
        "options": {"style": "{{ cafe }}"},
        "seed": {"policy": "category"},
    }
    one = load(text | {"guidance_scale": 0.1})
    other = load(text | {"guidance_scale": "0.1", "prompt": text["prompt"] + "\n"})
    other.options["padding"] = None
    plain = product(cafe="caf\u00e9", scene="5", category="caf\u00e9")
    odd = product(cafe="cafe\u0301", scene="5\n", category=" cafe\u0301", title="Cup")
    assert one.request(plain) == one.request(odd) == other.request(odd)


def test_a_category_is_found_however_it_is_spelled():
    recipe = load({"prompt": "x", "categories": {"cafe\u0301 ": {"prompt": "y"}}})
    assert recipe.request(product(category="caf\u00e9")).prompt == "y"
    with pytest.raises(RecipeError, match="categories: 'caf\u00e9' stands there twice"):
        load({"prompt": "x", "categories": {"cafe\u0301": {}, "caf\u00e9": {}}})


@pytest.mark.parametrize(
    ("recipe", "sku", "fits"),
    [
        ({}, "x" * 250, True),
        ({}, "x" * 251, False),
        ({}, "鞋" * 84, False),
        ({"count": 10}, "x" * 247, True),
        ({"count": 10}, "x" * 248, False),
        ({"name": "shoes/{{ sku }}.{ext}"}, "x" * 250, True),
        ({"name": "{{ sku }}/1.{ext}"}, "x" * 255, True),
        ({"name": "{{ sku }}/1.{ext}"}, "x" * 256, False),
    ],
)
def test_a_part_of_a_key_has_255_bytes_with_index_and_extension(recipe, sku, fits):
    loaded = load({"prompt": "x", **recipe})
    if fits:
        assert sku in loaded.name_of(product(sku))
    else:
        with pytest.raises(InvalidRequestError, match="between slashes; at most 255"):
            loaded.name_of(product(sku))


def test_a_key_is_short_enough_with_the_name_of_each_rendition():
    name = "/".join(["x" * 200] * 4) + "/{{ sku }}.{ext}"
    thumbs = {"renditions": {"t" * 64: {"width": 10}}}
    assert load({"prompt": "x", "name": name}).name_of(product("x" * 90))
    assert load({"prompt": "x", "name": name, **thumbs}).name_of(product("x" * 20))
    with pytest.raises(InvalidRequestError, match="is longer than 900 bytes"):
        load({"prompt": "x", "name": name, **thumbs}).name_of(product("x" * 90))


@pytest.mark.parametrize("mood", ["/etc/passwd", "file:///etc/passwd", "/opt/moods/red.png"])
def test_no_column_of_a_foreign_manifest_names_a_local_guidance_image(mood):
    recipe = load({"prompt": "x", "guidance_image": "{{ mood }}"})
    known = {"sku": "a", "image": "s3://shop/a.png", "mood": mood}
    with pytest.raises(InvalidRequestError, match="guidance_image.*may not name local files"):
        recipe.request(Product("a", known["image"], known, 2, "s3://shop/products.csv"))
    if not mood.startswith("file"):
        assert recipe.request(Product("a", known["image"], known, 2, "/srv/products.csv")).guidance_image == mood


def test_a_guidance_image_lies_beside_the_file_that_names_it(tmp_path):
    (tmp_path / "r.yaml").write_text("prompt: x\nguidance_image: moods/red.png\n")
    assert load(str(tmp_path / "r.yaml")).request(product()).guidance_image == f"{tmp_path}/moods/red.png"
    rendered = load({"prompt": "x", "guidance_image": "moods/{{ title }}.png"})
    known = {"sku": "a", "image": "s3://shop/a.png", "title": "Cup"}
    found = rendered.request(Product("a", known["image"], known, 2, "s3://shop/lists/products.csv"))
    assert found.guidance_image == "s3://shop/lists/moods/Cup.png"


def test_a_recipe_in_s3_names_no_local_guidance_image(storage, upload):
    uri = upload("recipes/hidden.yaml", b"prompt: x\nguidance_image: \"{{ '/etc' }}/passwd\"\n")
    with pytest.raises(InvalidRequestError, match="guidance_image.* '/etc/passwd' .*may not name local files"):
        load_recipe(uri, storage).request(product())
    uri = upload("recipes/local.yaml", b"prompt: x\ncategories: {art: {guidance_image: /etc/passwd}}\n")
    with pytest.raises(RecipeError, match="categories.art.guidance_image=.*may not name local files"):
        load_recipe(uri, storage)


def test_a_missing_category_column_is_an_error_where_the_recipe_needs_it():
    rows = Product("a", "a.png", {"sku": "a", "image": "a.png"}, 2, "products.csv")
    assert load({"prompt": "x"}).category_of(rows) == ""
    needing: list[dict[str, Any]] = [{"categories": {"art": {}}}, {"seed": {"policy": "category"}}]
    for needs in needing:
        with pytest.raises(InvalidRequestError, match="'category' is not a column of the manifest"):
            load({"prompt": "x", **needs}).category_of(rows)


@given(sku=st.text(max_size=40), other=st.text(max_size=40), value=st.none() | st.integers(1, 10**12))
def test_a_seed_belongs_to_its_sku_and_fits_every_vendor(sku, other, value):
    policy = Seed(policy="sku", value=value)
    seed = policy.of(sku, "x")
    assert seed is not None
    assert seed == policy.of(sku, "y")
    assert 1 <= seed <= MAX_SEED
    assert (seed == policy.of(other, "x")) == (normalize("NFC", sku) == normalize("NFC", other))


def test_seeds_stay_the_same_from_release_to_release():
    """A changed seed is a changed wish: it would buy the whole catalogue anew."""
    assert Seed(policy="sku").of("A-1", "shoes") == 1909938848
    assert Seed(policy="category").of("A-1", "shoes") == 1028745216
    assert Seed(policy="sku", value=2).of("A-1", "shoes") == 927145995
    assert Seed(policy="fixed", value=5).of("A-1", "shoes") == 5
    assert Seed().of("A-1", "shoes") is None


def test_the_digest_names_what_is_in_the_recipe_and_not_how_it_was_written():
    one = load({"prompt": "x", "count": 1})
    assert one.digest == load({"prompt": "x"}).digest
    assert one.digest != load({"prompt": "x", "version": 2}).digest
    both = load({"prompt": "x", "categories": {"art": {"count": 2}}})
    assert both.digest != one.digest
    assert both.digest_of("shoes") == one.digest_of("shoes") != both.digest_of("art")


def test_what_the_shop_says_of_a_picture_is_one_line_by_category_and_nothing_is_bought_for_it():
    feed = {"url": "https://shop/p", "title": "{{ title }}", "handle": "{{ sku | lower }}", "google_id": "{{ gone }}"}
    recipe = load({"prompt": "x", "alt": "{{ title }}\n on\toak ", "feed": feed, "categories": {"art": {"alt": "Art"}}})
    said = recipe.words_of(product(title=" Cup \x07☕", gone="0"))
    assert said == {"alt": "Cup ☕ on oak", "title": "Cup ☕", "handle": "a-1", "google_id": "0"}
    assert recipe.words_of(product(category="art", gone="0"))["alt"] == "Art"
    assert load({"prompt": "x"}).words_of(product()) == {}
    for name in ("", "art"):
        assert recipe.digest_of(name) == load({"prompt": "x"}).digest_of(name)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"alt": "{{ colour }}"}, "recipe, alt: SKU 'A-1' .*'colour' is undefined; the manifest's columns are sku"),
        ({"feed": {"url": "https://shop/p", "handle": "{{ surface }}"}}, "feed.handle: .*'surface' is empty; fill it"),
        ({"alt": "x" * 513}, "alt: .*has 513 characters; shops take 512"),
    ],
)
def test_what_the_shop_cannot_say_of_a_product_is_refused_before_anything_is_paid(more, problem):
    recipe = load({"prompt": "x", **more})
    with pytest.raises(InvalidRequestError, match=problem):
        recipe.words_of(product(surface=""))
