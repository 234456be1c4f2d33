"""Markdown from the templates of this room; a value that is not stored is printed as such, never made up."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader

MISSING = "not stored"


class _Missing(ChainableUndefined):
    def __str__(self) -> str:
        return MISSING


def render(template: str, **values: Any) -> str:
    """The text of `templates/<template>.md.j2`; values that are None or not given are printed as `MISSING`."""
    return _environment().get_template(f"{template}.md.j2").render(missing=MISSING, **values).rstrip() + "\n"


def render_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, one line per row.

    >>> print(render_table(["model", "AUROC"], [["lstm", "0.88"]]))
    | model | AUROC |
    |---|---|
    | lstm | 0.88 |
    <BLANKLINE>
    """
    return render("table", columns=columns, rows=rows)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=_Missing,
        finalize=lambda value: MISSING if value is None else value,
    )
    environment.filters |= {"brief": _brief, "count": _count, "counts": _counts, "parameters": _parameters}
    return environment


def _brief(number: float) -> str:
    return f"{number:g}"


def _count(number: int) -> str:
    return f"{number:,}"


def _counts(of_each: Mapping[str, int]) -> str:
    return ", ".join(f"{'not known' if name == 'nan' else name} {n:,}" for name, n in of_each.items())


def _parameters(of_steps: Mapping[str, Mapping[str, float]]) -> str | None:
    found = [
        f"{step} {name.replace('_', ' ')} {value:.3g}"
        for step, values in (of_steps or {}).items()
        for name, value in values.items()
    ]
    return ", ".join(found) or None
