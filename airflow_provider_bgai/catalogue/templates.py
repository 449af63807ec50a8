"""A recipe's texts: Jinja templates over the manifest's columns, checked when the recipe is loaded.

A template that prints a column which is not there, or has nothing in it, cannot be rendered: nobody pays for
"a  cup on ".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import AfterValidator

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)
_GLOBALS = dict(_ENVIRONMENT.globals)


def check_template(text: Any) -> Any:
    """A value as it is. :raises ValueError: for text that is no template."""
    if isinstance(text, str):
        try:
            compiled(text)
        except TemplateSyntaxError as error:
            raise ValueError(f"is not a template: {error.message} (line {error.lineno})") from None
    return text


Text = Annotated[str, AfterValidator(check_template)]
"""A recipe's field."""


@lru_cache(maxsize=1024)
def compiled(text: str) -> Any:
    """A template, or None where the text is the same for every product."""
    if not any(mark in text for mark in ("{{", "{%", "{#")):
        return None
    return _ENVIRONMENT.from_string(text)


def render(text: str, columns: Mapping[str, str]) -> str:
    """The text for a product with these columns. :raises ValueError: in words, if it cannot be made of them."""
    template = compiled(text)
    if template is None:
        return text
    try:
        # As render() does, without copying 100,000 products' fields three times each.
        fields = {**_GLOBALS, **{name: value or _empty(name) for name, value in columns.items()}}
        return "".join(template.root_render_func(template.new_context(fields, shared=True)))
    except _EmptyColumnError as error:
        raise ValueError(str(error.message)) from None
    except UndefinedError as error:
        raise ValueError(f"{error.message}; {columns_of(columns)}") from None
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def columns_of(columns: Mapping[str, str]) -> str:
    """What columns there are, in words."""
    return f"the manifest's columns are {', '.join(columns)}"


class _EmptyColumnError(UndefinedError):
    """A template prints a column that has nothing in it."""


class _Empty(Undefined):
    """The value of an empty column: may be asked about and given a default, but not printed."""

    __slots__ = ()
    __str__ = Undefined._fail_with_undefined_error
    __hash__ = Undefined.__hash__

    def __eq__(self, other: Any) -> bool:
        return other == "" or isinstance(other, _Empty)


@lru_cache(maxsize=1024)
def _empty(column: str) -> _Empty:
    rule = f"is empty; fill it in, or write {{{{ {column} | default('…') }}}} or {{% if {column} %}}"
    return _Empty(f"column {column!r} {rule}", name=column, exc=_EmptyColumnError)
