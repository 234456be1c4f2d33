"""Commands on registered models: list, describe, compare, and choose the one that serves."""

import textwrap
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.arguments import AsOf, Json, ModelId, Source
from flows.runtime import clock
from flows.runtime.terminal import print_counts, print_done, print_json, print_rows

# Of a table in a terminal.
_WIDTH = 100

app = typer.Typer(no_args_is_help=True, help="List models and choose the one that serves.")


@app.command("list")
def list_all(
    source: Annotated[str | None, typer.Option(help="Only models of this source.")] = None, as_json: Json = False
) -> None:
    """List models with stage, cut-off and main metrics.

    Example: icu-forecast models list --source clif
    """
    from flows.inspection.models import list_models

    print_rows(list_models(source), as_json)


@app.command()
def card(
    model_id: ModelId,
    out: Annotated[Path | None, typer.Option(help="Write the card to this file.", show_default=False)] = None,
) -> None:
    """Write the model card: the items of TRIPOD+AI, from what is stored with the model.

    Example: icu-forecast models card clif-stay-20260120T14-2 --out card.md
    """
    from flows.inspection.models import model_card
    from flows.pages.page import write_text

    text = model_card(model_id)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)


@app.command()
def page(
    model_id: ModelId,
    as_of: AsOf = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the page to this file; default: in reports of ICU_HOME.", show_default=False),
    ] = None,
) -> None:
    """Draw a model on one page: learning curves, reliability of quantiles and risks on unseen stays, settings.

    Example: icu-forecast models page clif-stay-20260120T14-2 --out model.html
    """
    from flows.experiments.model_page import draw_model
    from flows.runtime.databases import open_store

    typer.echo(f"page: {draw_model(open_store(), model_id, as_of or clock.slot(None), out)}")


@app.command()
def promote(
    model_id: ModelId,
    reason: Annotated[str | None, typer.Option(help="Reason, stored with the model.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Skip the gate; requires a reason.")] = False,
    as_json: Json = False,
) -> None:
    """Let a model serve from the next run on, if it passes the gate on stays that neither it nor the serving one saw.

    Example: icu-forecast models promote clif-stay-20260120T14-2
    """
    from flows.jobs.promotion import promote as let_serve
    from flows.runtime.databases import open_store

    done = let_serve(open_store(), model_id, reason, force)
    retired = done["retired"]
    print_done(
        f"{model_id} serves now as {done['stage']}" + (f"; {retired} is retired" if retired else ""), done, as_json
    )


@app.command()
def compare(first: ModelId, second: ModelId, as_of: AsOf = None, as_json: Json = False) -> None:
    """Compare two models metric by metric, paired, on stays that neither has learned from.

    Example: icu-forecast models compare clif-stay-20260113T14-2 clif-stay-wide-20260120T14-9
    """
    from flows.experiments.compare import compare_models
    from flows.runtime.databases import open_store

    found = compare_models(open_store(), first, second, as_of or clock.slot(None))
    if as_json:
        print_json(found.to_json())
        return
    for sentence in found.sentences():
        typer.echo(textwrap.fill(sentence, _WIDTH))
    print_rows(found.table(), width=_WIDTH)


@app.command()
def diff(first: ModelId, second: ModelId, as_json: Json = False) -> None:
    """List the differences of two models: origin, configuration, metrics.

    Example: icu-forecast models diff clif-stay-20260113T14-2 clif-stay-20260120T14-9
    """
    from flows.inspection.models import diff_models

    print_rows(diff_models(first, second), as_json)


@app.command()
def recalibrate(model_id: ModelId, source: Source, as_of: AsOf = None, as_json: Json = False) -> None:
    """Fit the risk of death of a model to the finished stays of a source; the copy becomes a candidate there.

    Example: icu-forecast models recalibrate clif-stay-20260120T14-2 mimic_iii
    """
    from flows.jobs.transfer import recalibrate as refit

    print_counts(refit(model_id, source, as_of or clock.slot(None)), as_json)


@app.command()
def rollback(
    source: Source,
    name: Annotated[Literal["stay", "unit", "arrivals"], typer.Option(help="Which forecaster.")] = "stay",
    as_json: Json = False,
) -> None:
    """Bring back the model that served before.

    Example: icu-forecast models rollback clif
    """
    from flows.runtime.databases import open_store
    from sql.published import registry

    row = registry.rollback(open_store(), source, name)
    print_done(f"{row['model_id']} serves now", {"model_id": row["model_id"], "stage": row["stage"]}, as_json)
