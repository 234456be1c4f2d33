"""Small hand-made worlds in a migrated database: a batch, a stay version, a model, a run with its forecasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pandas as pd
from sqlalchemy import Engine, insert, text

from sql.intake.reading import BEGINNING
from sql.published import registry, results, runs
from sql.store import migrate, schema
from sql.store.engine import open_engine

SOURCE = "hospital"
NOW = datetime(2031, 5, 10, 12, tzinfo=UTC)


def hours(n: float) -> timedelta:
    return timedelta(hours=n)


@contextmanager
def migrated(url) -> Iterator[Engine]:
    """An engine on a database brought to the newest revision."""
    engine = open_engine(url)
    migrate.upgrade(engine)
    yield engine
    engine.dispose()


def empty(engine: Engine) -> None:
    """Take every row of every table away."""
    # Truncating them would exchange the files of all tables, for the few rows of a test.
    tables = "; ".join(f"delete from {t.schema}.{t.name}" for t in reversed(schema.metadata.sorted_tables))
    restart = "select setval((schemaname || '.' || sequencename)::regclass, 1, false) from pg_sequences"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"{tables}; {restart}")


def rows(engine: Engine, sql: str, **bound) -> list[dict]:
    """What a query gives, as dictionaries."""
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(sql), bound).mappings()]


def tuples(engine: Engine, sql: str, **bound) -> list:
    """What a query gives, as rows to unpack and to compare with tuples."""
    with engine.connect() as connection:
        return connection.execute(text(sql), bound).all()


def one(engine: Engine, sql: str, **bound) -> dict:
    (row,) = rows(engine, sql, **bound)
    return row


def add_batch(engine: Engine, *, as_of=NOW, ingested_at=NOW, source=SOURCE) -> int:
    with engine.begin() as connection:
        return connection.execute(
            insert(schema.batch)
            .values(source=source, as_of=as_of, read_since=as_of, ingested_at=ingested_at, status="done")
            .returning(schema.batch.c.batch_id)
        ).scalar_one()


def add_stay(engine: Engine, stay_id: str, *, batch_id: int | None = None, source=SOURCE, **values) -> None:
    """One version of a stay; without other values it began 30 hours ago, was known at once, and is open."""
    row = {
        "intime": NOW - hours(30),
        "patient_id": f"p-{stay_id}",
        "unit": "MICU",
        "unit_type": "medical",
        "ends_at": "unit",
        "age_years": 60.0,
        "sex": "female",
    } | values
    row.setdefault("available_at", row["intime"])
    with engine.begin() as connection:
        connection.execute(
            insert(schema.stay_version).values(
                source=source, stay_id=stay_id, batch_id=batch_id or add_batch(engine, source=source), **row
            )
        )


def end_stay(engine: Engine, stay_id: str, *, outtime, outcome="alive", **values) -> None:
    """A newer version of the stay, known at its end."""
    add_stay(engine, stay_id, **{"outtime": outtime, "outcome": outcome, "available_at": outtime} | values)


def add_model(engine: Engine, model_id: str, *, stage: str | None = "champion", name="stay", source=SOURCE) -> str:
    with engine.begin() as connection:
        registry.register(
            connection,
            {
                "model_id": model_id,
                "name": name,
                "source": source,
                "data_cutoff": NOW - hours(24),
                "artifact": f"models/{model_id}",
                "config": {},
                "metrics": {},
            },
        )
    if stage not in (None, "candidate"):
        registry.set_stage(engine, model_id, stage, "test")
    return model_id


def forecasts(risks: dict[str, float | None], **others) -> pd.DataFrame:
    """A frame to publish: a mortality risk per stay, None where the forecaster abstains; `others`: columns of one's own."""
    scored = [risk is not None for risk in risks.values()]

    def only_scored(value: float) -> list[float | None]:
        return [value if s else None for s in scored]

    return pd.DataFrame(
        {
            "stay_id": list(risks),
            "status": ["scored" if s else "abstained" for s in scored],
            "status_reason": [None if s else "too few observations" for s in scored],
            "mortality_risk": list(risks.values()),
            "prolonged_stay_risk": only_scored(0.2),
            "remaining_los_p10_hours": only_scored(5.0),
            "remaining_los_p50_hours": only_scored(20.0),
            "remaining_los_p90_hours": only_scored(90.0),
            "discharge_24h_prob": only_scored(0.25),
            "discharge_48h_prob": only_scored(0.5),
            "discharge_72h_prob": only_scored(0.625),
            "risk_band": [None if r is None else "high" if r >= 0.5 else "low" for r in risks.values()],
            "n_observations": [40 if s else 2 for s in scored],
            "hours_since_last_observation": [1.0] * len(risks),
        }
    ).assign(**others)


def add_unit(engine: Engine, unit: str, beds=None, staffed=None, *, available_at=BEGINNING, source=SOURCE) -> None:
    """A version of the beds of a unit; without a time they hold since ever."""
    row = {"source": source, "unit": unit, "beds": beds, "staffed_beds": staffed, "available_at": available_at}
    with engine.begin() as connection:
        connection.execute(insert(schema.unit).values(row))


def census(counts: dict[str, int | None], horizons=(24, 48), **values) -> pd.DataFrame:
    """A frame to publish: a certain number of patients per unit at each horizon, None where the forecast abstains."""
    rows = []
    for unit, count in counts.items():
        for horizon in horizons:
            numbers = dict.fromkeys(set(results.UNIT_FORECAST_COLUMNS) - {"status_reason"})
            if count is not None:
                numbers |= {name: count for name in numbers if name.startswith(("census_p", "expected_c"))}
                numbers |= {"expected_arrivals": 1.5, "expected_discharges": 1.0, "expected_deaths": 0.5}
                numbers["census_probabilities"] = [0.0] * count + [1.0]
            named = {"unit": unit, "horizon_hours": horizon, "n_present": 1}
            said = {"status": "abstained", "status_reason": "stale"} if count is None else {"status": "scored"}
            rows.append({"status_reason": None} | numbers | named | said | values)
    return pd.DataFrame(rows, columns=list(results.UNIT_FORECAST_COLUMNS))


def add_forecasts(
    engine: Engine,
    risks: dict[str, float | None],
    *,
    model_id: str,
    census: pd.DataFrame | None = None,
    as_of=NOW,
    kind="forecast",
    role="champion",
    source=SOURCE,
    **others,
) -> int:
    """A published run with these risks and `others` (`forecasts`); its run_id."""
    run_id = runs.start_run(engine, source, kind, as_of, role=role, model_id=model_id)
    published = results.Publication(
        run_id=run_id,
        kind=kind,
        model_id=model_id,
        source=source,
        prediction_time=as_of,
        stays=forecasts(risks, **others),
        census=census,
        watermark=as_of,
        newest_observation_at=as_of - hours(2),
    )
    results.publish(engine, published)
    return run_id
