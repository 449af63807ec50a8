"""A recipe is right as a whole before anything is spent, and asks for the same picture every night."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.catalogue.manifest import Product
from airflow_provider_bgai.catalogue.recipe import MAX_SEED, Recipe, RecipeError, Seed, load_recipe
from airflow_provider_bgai.exceptions import InvalidRequestError
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
    return Product(sku, known["image"], known, 7)


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
    assert (art.prompt, art.template, art.count) == (None, "17", 2)
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
        ("prompt", "{{ title.size.x }}", "has no attribute 'size'"),
        ("negative_prompt", "{{ 1 / 0 }}", "ZeroDivisionError"),
        ("prompt", "{{ title.__class__.__mro__ }}", "SecurityError"),
        ("prompt", "{{ range(10 ** 9) }}", "OverflowError"),
        ("name", "{{ titel }}.{ext}", "'titel' is undefined"),
        ("name", "../{{ sku }}.{ext}", "not allowed in an S3 key"),
        ("name", "/{{ sku }}.{ext}", "not allowed in an S3 key"),
        ("name", "a//{{ sku }}.{ext}", "not allowed in an S3 key"),
        ("name", "{{ sku }}\t.{ext}", "control characters"),
        ("name", "_bgai/{{ sku }}", "is reserved"),
        ("name", "{{ sku }}.{extension}", "no other braces"),
        ("name", "{{ sku }}/", "must name a picture, not a folder"),
        ("name", "{{ sku * 900 }}.{ext}", "is longer than 900 bytes"),
    ],
)
def test_what_only_a_product_shows_is_refused_for_that_product(field, text, problem):
    recipe = load({"prompt": "x", field: text})
    with pytest.raises(InvalidRequestError) as error:
        (recipe.name_of if field == "name" else recipe.request)(product())
    assert str(error.value).startswith(f"recipe, {field}: SKU 'A-1' (row 7): ")
    assert problem in str(error.value)


def test_a_product_cannot_write_templates():
    recipe = load({"prompt": "{{ title }}"})
    assert recipe.request(product(title="{{ 1 + 1 }}")).prompt == "{{ 1 + 1 }}"


def test_a_missing_category_column_is_an_error_where_the_recipe_needs_it():
    rows = Product("a", "a.png", {"sku": "a", "image": "a.png"}, 2)
    assert load({"prompt": "x"}).category_of(rows) == ""
    for needs in ({"categories": {"art": {}}}, {"seed": {"policy": "category"}}):
        with pytest.raises(InvalidRequestError, match="'category' is not a column of the manifest"):
            load({"prompt": "x", **needs}).category_of(rows)


@given(sku=st.text(max_size=40), other=st.text(max_size=40), value=st.none() | st.integers(1, 10**12))
def test_a_seed_belongs_to_its_sku_and_fits_every_vendor(sku, other, value):
    policy = Seed(policy="sku", value=value)
    assert policy.of(sku, "x") == policy.of(sku, "y")
    assert 1 <= policy.of(sku, "x") <= MAX_SEED
    assert (policy.of(sku, "x") == policy.of(other, "x")) == (sku == other)


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
