"""A template makes text of a product's columns, or says in words why it cannot."""

from __future__ import annotations

import re

import pytest

from airflow_provider_bgai.catalogue.templates import check_template, render

CUP = {"sku": "A-1", "title": "Cup", "colour": ""}


@pytest.mark.parametrize(
    ("text", "empty", "red"),
    [
        ("a cup{% if colour %} in {{ colour }}{% endif %}", "a cup", "a cup in red"),
        ("a {{ colour | default('plain') }} cup", "a plain cup", "a red cup"),
        ("a {{ colour or 'plain' }} cup", "a plain cup", "a red cup"),
        ("a cup{% if colour != '' %} in {{ colour }}{% endif %}", "a cup", "a cup in red"),
        ("{{ 'warm' if colour == 'red' else 'cool' }}", "cool", "warm"),
        ("{{ [title, colour] | select | join(', ') }}", "Cup", "Cup, red"),
    ],
)
def test_a_template_may_provide_for_an_empty_column(text, empty, red):
    assert (render(text, CUP), render(text, CUP | {"colour": "red"})) == (empty, red)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{ titel }}", "'titel' is undefined; the manifest's columns are sku, title, colour"),
        ("{{ title.size.x }}", "has no attribute 'size'"),
        ("{{ title.__class__.__mro__ }}", "SecurityError"),
        ("{{ range(10 ** 9) }}", "OverflowError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ colour }}", "column 'colour' is empty; fill it in, or write {{ colour | default("),
        ("{{ colour | lower }}", "column 'colour' is empty"),
    ],
)
def test_what_cannot_be_rendered_is_said_in_words(text, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        render(text, CUP)


def test_a_product_cannot_write_templates():
    assert render("{{ title }}", {"title": "{{ 1 + 1 }}"}) == "{{ 1 + 1 }}"


def test_text_without_a_mark_is_as_it_stands():
    assert render("100 % cotton } {", CUP) == "100 % cotton } {"


def test_a_broken_template_is_found_before_it_is_rendered():
    assert [check_template(value) for value in ("{{ title }}", "x", 17, None)] == ["{{ title }}", "x", 17, None]
    with pytest.raises(ValueError, match=r"is not a template: .* \(line 2\)"):
        check_template("x\n{{ title")
