"""Pages for people: one HTML file that holds its plots and tables and opens without a network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError
from sql.intake.adapter import load_adapter

_TEMPLATES = Path(__file__).parent / "templates"
# The source whose units are made up, whatever name it has in the settings.
_MADE_UP = "replay"


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; the first cell of a row names it.

    sentences: the columns whose cells are prose, which is wrapped; other cells stay on one line.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    sentences: Sequence[str] = ()


@dataclass(frozen=True)
class Plot:
    """An SVG and its caption."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """plots_first: the plots stand before the tables that give their numbers."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = field(default_factory=tuple)
    plots_first: bool = False


def render_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page as HTML; all text is escaped, the SVG of the plots is inserted unchanged."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(title=title, lead=lead, sections=sections)


def warning(source: str) -> str:
    """The first sentence of the page of a made-up hospital, which says so; empty for any other source."""
    name = load_settings().source(source).adapter or source
    return f"{load_adapter(name).title}. " if name == _MADE_UP else ""


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all. Raises ForecastError if its folder is not writable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ForecastError(
            f"{path} cannot be written ({error.strerror}); choose a file in a writable folder."
        ) from None
