"""The evaluate flow: published forecasts against outcomes, data against training data, and which model serves next."""

from datetime import datetime, timedelta

import pandas as pd
from sqlalchemy import Engine

from flows.jobs.promotion import promote_challenger
from flows.runtime.databases import open_store
from flows.runtime.flow import flow
from flows.runtime.log import log
from flows.runtime.naming import run_name
from flows.runtime.run_report import report_run
from flows.runtime.steps import Recorded, recorded_alone, step
from rnn_core.contracts.errors import ForecastError
from sql.published import canonical, census_outcomes, registry, results, runs


@flow(name="evaluate", flow_run_name=run_name)
def evaluate(source: str, as_of: datetime | None = None) -> dict:
    """Score what was published for `source` against what is known at `as_of`; open stays count as followed so far."""
    store = open_store()
    with recorded_alone(store, source, "evaluate", as_of) as run:
        as_of = run.as_of
        pairs = pair_outcomes(store, source, as_of)
        census = pair_census(store, source, as_of)
        rows = make_scorecard(pairs)
        of_census = make_census_scorecard(census)
        drift = measure_drift(store, source, as_of)
        write_scorecard(store, run, rows + of_census, drift)
        run.counts |= {"drifted concepts": ", ".join(row["concept"] for row in drift if row["drifted"]) or "none"}
        run.counts |= {"page": draw_page(store, source, as_of, pairs, rows, drift, census, of_census)}
        run.counts |= judge_challenger(store, source, as_of)
        run.counts |= {"forecasts paired": len(pairs), "stays": int(pairs["stay_id"].nunique())}
        run.counts |= {"censuses paired": len(census), "scores": len(rows) + len(of_census)}
        report_run(run, "evaluate")
    return run.counts


@step("judge the challenger")
def judge_challenger(store: Engine, source: str, as_of: datetime) -> dict[str, str]:
    """A challenger that cannot be evaluated does not affect the scorecard."""
    try:
        return promote_challenger(store, source, as_of)
    except ForecastError as error:
        log.error("the challenger was not evaluated: %s", error)
        return {"challenger": f"not evaluated: {error}"}


@step("pair forecasts with outcomes", retries=2)
def pair_outcomes(store: Engine, source: str, as_of: datetime) -> pd.DataFrame:
    pairs = canonical.read_outcome_pairs(store, source, as_of)
    log.info("%s scored forecasts followed up", f"{len(pairs):,}")
    return pairs


@step("pair forecasts of units with the census that came", retries=2)
def pair_census(store: Engine, source: str, as_of: datetime) -> pd.DataFrame:
    """Each forecast with what came and its figures, see `judge_published_census`."""
    from rnn_core.evaluation.census_scorecard import judge_published_census

    judged = judge_published_census(census_outcomes.read_published_census(store, source, as_of))
    log.info("%s forecasts of units followed up", f"{len(judged):,}")
    return judged


@step("score")
def make_scorecard(pairs: pd.DataFrame) -> list[dict]:
    from rnn_core.evaluation.scorecard import score_published

    return score_published(pairs)


@step("score the census")
def make_census_scorecard(census: pd.DataFrame) -> list[dict]:
    from rnn_core.evaluation.census_scorecard import score_census

    return score_census(census)


@step("measure drift")
def measure_drift(store: Engine, source: str, as_of: datetime) -> list[dict]:
    """The last days compared with the training data of the serving model; no rows without a model or its reference."""
    from rnn_core.evaluation import drift

    serving = registry.serving_model(store, source, "stay")
    if serving is None:
        return []
    recent = canonical.read_known(store, source, as_of, since=as_of - timedelta(days=drift.RECENT_DAYS))
    rows = drift.measure_drift(serving["metrics"].get("participants", {}), recent)
    return [{"model_id": serving["model_id"], **row} for row in rows]


@step("write the scorecard")
def write_scorecard(store: Engine, run: Recorded, rows: list[dict], drift: list[dict]) -> None:
    with runs.finishing(store, run.run_id) as (connection, _):
        results.write_scores(connection, run.run_id, [{**row, "source": run.source} for row in rows])
        results.write_drift(connection, run.run_id, [{**row, "source": run.source} for row in drift])


@step("draw the page")
def draw_page(
    store: Engine,
    source: str,
    as_of: datetime,
    pairs: pd.DataFrame,
    rows: list[dict],
    drift: list[dict],
    census: pd.DataFrame,
    of_census: list[dict],
) -> str:
    from flows.pages.census_evaluation import census_section
    from flows.pages.evaluation import write_page

    return str(write_page(store, source, as_of, pairs, rows, drift, [census_section(census, of_census)]))
