"""The export in the form of MEDS: what was known and published, as files that its own packages read."""

import json
from dataclasses import replace
from datetime import datetime

import builders_sql as b
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from builders_sql import NOW, hours
from sqlalchemy import insert, update

from flows.inspection.meds_export import export_meds
from rnn_core.contracts.errors import DataTooSmallError, ForecastError
from rnn_core.evaluation.scorecard import ALL, DIMENSIONS, score_published
from sql.intake.adapter import load_adapter
from sql.intake.reading import BEGINNING, read_observations, read_stays
from sql.loaders import meds
from sql.published import canonical, events
from sql.published.events import subject_id
from sql.store.engine import open_engine
from sql.store.schema import model, observation

IDS = ["7", "p-a", "007", "999999999999999999", "1" * 19, "Ä"]


def naive(time: datetime) -> datetime:
    return time.replace(tzinfo=None)


def observe(engine, stay_id: str, concept: str, value: float, observed_at, available_at) -> None:
    with engine.begin() as connection:
        row = {"concept": concept, "value": value, "observed_at": observed_at, "available_at": available_at}
        connection.execute(insert(observation).values(source=b.SOURCE, stay_id=stay_id, batch_id=1, **row))


@pytest.fixture
def ward(engine):
    """Twenty patients with a forecast each; half of them have left since, four of those died; ids are of all kinds."""
    b.add_model(engine, "m1")
    with engine.begin() as connection:
        connection.execute(update(model).values(data_cutoff=NOW - hours(40)))
    risks, batch_id = {}, b.add_batch(engine)
    for n in range(20):
        stay_id, patient = f"s{n}", {"patient_id": IDS[n] if n < len(IDS) else f"q{n}"}
        patient |= {"intime": NOW - hours(180 + n), "batch_id": batch_id}
        b.add_stay(engine, stay_id, **patient)
        if n % 2 == 0:
            outcome = "died" if n % 3 == 0 else "alive"
            end = NOW - hours(1 + n)
            died_at = end if outcome == "died" else None
            b.end_stay(engine, stay_id, outtime=end, outcome=outcome, died_at=died_at, **patient)
        risks[stay_id] = (n * 7 % 20) / 20
    b.add_forecasts(engine, risks, model_id="m1", as_of=NOW - hours(30))
    observe(engine, "s0", "heart_rate", 80.0, NOW - hours(50), NOW - hours(49))
    observe(engine, "s0", "heart_rate", 81.0, NOW - hours(50), NOW - hours(48))
    return engine


@pytest.fixture
def exported(ward, tmp_path):
    counts = export_meds(ward, b.SOURCE, tmp_path / "meds", NOW)
    return tmp_path / "meds", counts


def data(folder) -> pd.DataFrame:
    return pq.read_table(folder / "data").to_pandas()


def test_stays_and_observations_are_events_with_the_time_each_was_known(exported):
    folder, counts = exported
    found = data(folder)
    assert len(found) == counts["events"] and found["subject_id"].nunique() == counts["patients"] == 20
    assert found.equals(found.sort_values(["subject_id", "time"], kind="stable"))
    begin, end, once = NOW - hours(180), NOW - hours(1), NOW - hours(50)
    assert list(
        found[found["stay_id"] == "s0"][["subject_id", "time", "code", "numeric_value", "available_at"]]
        .fillna(-1)
        .itertuples(index=False, name=None)
    ) == [
        (7, naive(time), code, value, naive(known))
        for time, code, value, known in (
            (begin, "AGE", 60.0, begin),
            (begin, "GENDER//female", -1, begin),
            (begin, "ICU_ADMISSION//MICU", -1, begin),
            (begin, "UNIT_TYPE//medical", -1, begin),
            (once, "heart_rate", 80.0, NOW - hours(49)),
            (once, "heart_rate", 81.0, NOW - hours(48)),
            (end, "ICU_DISCHARGE//died", -1, end),
            (end, "MEDS_DEATH", -1, end),
        )
    ]


def test_an_export_as_of_an_earlier_time_holds_nothing_that_was_known_later(ward, tmp_path):
    at = NOW - hours(48.5)
    export_meds(ward, b.SOURCE, tmp_path / "then", at)
    found = data(tmp_path / "then")
    assert found["available_at"].max() <= naive(at)
    assert found.loc[found["code"] == "heart_rate", "numeric_value"].tolist() == [80.0]
    assert not (tmp_path / "then" / "predictions").exists()


def test_shards_hold_all_events_once_and_the_patients_number_is_the_same_in_python(
    ward, exported, monkeypatch, tmp_path
):
    from flows.inspection import meds_export

    folder, _ = exported
    monkeypatch.setattr(meds_export, "_PATIENTS_PER_FILE", 7)
    export_meds(ward, b.SOURCE, tmp_path / "shards", NOW)
    parts = [pq.read_table(file).to_pandas() for file in (tmp_path / "shards" / "data").iterdir()]
    assert len(parts) == 3
    assert sum(part["subject_id"].nunique() for part in parts) == 20
    together = pd.concat(parts).sort_values("subject_id", kind="stable").reset_index(drop=True)
    assert together.equals(data(folder))
    stays = canonical.read_stays(ward, b.SOURCE, NOW).set_index("stay_id")["patient_id"]
    numbers = together.groupby("stay_id")["subject_id"].unique()
    assert {stay: [subject_id(name)] for stay, name in stays.items()} == {s: list(n) for s, n in numbers.items()}


def test_what_is_exported_is_read_back_by_the_source_meds(ward, exported, tmp_path):
    folder, _ = exported
    engine = open_engine(f"duckdb:///{tmp_path / 'meds.db'}")
    meds.load(engine, folder, "main")
    adapter = replace(load_adapter("meds"), schemas={"schema": "main"})
    read = {
        name: pd.concat(batch.to_pandas() for batch in select(adapter, engine, BEGINNING, NOW))
        for name, select in (("stays", read_stays), ("values", read_observations))
    }
    engine.dispose()
    newest = read["stays"].sort_values("available_at").groupby("stay_id").tail(1).set_index("stay_id").sort_index()
    ours = canonical.read_stays(ward, b.SOURCE, NOW).set_index("stay_id").sort_index()
    for name in ("unit", "unit_type", "outcome", "sex", "age_years"):
        assert newest[name].fillna("").tolist() == ours[name].fillna("").tolist(), name
    for name in ("intime", "outtime", "died_at"):
        assert newest[name].dt.tz_localize(None).equals(ours[name].astype(newest[name].dt.tz_localize(None).dtype)), (
            name
        )
    values = read["values"].sort_values("available_at")
    assert values[["stay_id", "variable", "value"]].to_numpy().tolist() == [
        ["s0", "heart_rate", "80.0"],
        ["s0", "heart_rate", "81.0"],
    ]
    assert values["available_at"].tolist() == [NOW - hours(49), NOW - hours(48)]


def our_scores(engine) -> dict[str, dict]:
    """Of all forecasts together, by metric."""
    rows = score_published(canonical.read_outcome_pairs(engine, b.SOURCE, NOW))
    return {row["metric"]: row for row in rows if all(row[name] == ALL for name in DIMENSIONS)}


def test_predictions_are_the_rows_the_scorecard_judges(ward, exported):
    folder, counts = exported
    files = {file.stem: pq.read_table(file).to_pandas() for file in (folder / "predictions" / "m1").iterdir()}
    assert set(files) == {"mortality", "prolonged", "discharge_24h"}, "nobody knows yet who is in after 48 hours"
    assert sum(map(len, files.values())) == counts["predictions"]
    scores = our_scores(ward)
    assert {risk: len(rows) for risk, rows in files.items()} == {r: scores[f"{r}_auroc"]["n"] for r in files}
    death = files["mortality"].set_index("subject_id")
    assert set(death["prediction_time"]) == {pd.Timestamp(naive(NOW - hours(30)))}
    assert death["boolean_value"].sum() == 4 and death.loc[7, "predicted_boolean_probability"] == 0.0
    assert {subject_id(name) for name in ("7", "007", "Ä")} & set(death.index) == {7, subject_id("007")}


# A soak: the imports take seconds.
@pytest.mark.soak
def test_the_packages_of_meds_accept_the_files_and_meds_evaluation_gives_our_figures(ward, exported):
    standard = pytest.importorskip("meds", reason="meds is not installed")
    evaluate = pytest.importorskip("meds_evaluation.evaluate", reason="meds-evaluation is not installed")
    schema = pytest.importorskip("meds_evaluation.schema", reason="meds-evaluation is not installed")
    folder, _ = exported
    for file in (folder / "data").iterdir():
        standard.DataSchema.validate(pq.read_table(file))
    for file in (folder / "predictions").rglob("*.parquet"):
        schema.PredictionSchema.validate(pq.read_table(file))
    codes = pq.read_table(folder / "metadata" / "codes.parquet")
    standard.CodeMetadataSchema.validate(codes)
    assert set(data(folder)["code"]) == set(codes["code"].to_pylist())
    standard.DatasetMetadataSchema.validate(json.loads((folder / "metadata" / "dataset.json").read_text()))

    import polars

    ours = our_scores(ward)
    theirs = evaluate.evaluate_binary_classification(
        polars.read_parquet(folder / "predictions" / "m1" / "mortality.parquet")
    )["samples_equally_weighted"]
    for name, metric in {"roc_auc_score": "auroc", "average_precision_score": "auprc", "brier_score": "brier"}.items():
        assert theirs[name] == pytest.approx(ours[f"mortality_{metric}"]["value"], abs=1e-6), name
        assert np.isfinite(theirs[name])


def test_bad_input_ends_in_a_sentence_and_leaves_nothing(ward, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ForecastError, match=r"full exists already; give a folder that is new or empty\.$"):
        export_meds(ward, b.SOURCE, tmp_path / "full", NOW)
    with pytest.raises(DataTooSmallError, match="No stay of nobody is known"):
        export_meds(ward, "nobody", tmp_path / "meds", NOW)
    with pytest.raises(ForecastError, match="cannot be written"):
        export_meds(ward, b.SOURCE, tmp_path / "full" / "mine.txt" / "meds", NOW)

    def lost(*given):
        raise ForecastError("lost")

    monkeypatch.setattr(events, "read_events", lost)
    with pytest.raises(ForecastError, match="lost"):
        export_meds(ward, b.SOURCE, tmp_path / "meds", NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
