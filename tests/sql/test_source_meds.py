"""The source `meds`: events without ids and without the time they were known, and the demo against the same patients in CLIF."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders_source import check_slices_are_one_pass
from conftest import SHARED
from sqlalchemy import create_engine

from flows.jobs.ingest import ingest
from flows.runtime.databases import open_store
from flows.runtime.settings import load_settings
from rnn_core.contracts.concepts import INDEX
from rnn_core.contracts.errors import ForecastError
from sql.intake.adapter import load_adapter
from sql.intake.reading import read_observations, read_stays
from sql.loaders import meds
from sql.published import canonical
from sql.store.engine import open_engine

ADAPTER = replace(load_adapter("meds"), schemas={"schema": "main"})
BEGIN = datetime(2026, 3, 2, 8)
SINCE, UNTIL = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
MICU = "Medical Intensive Care Unit (MICU)"
EVENTS = [
    (None, "GENDER//F", None),
    (datetime(1960, 7, 1), "MEDS_BIRTH", None),
    (-30, "HOSPITAL_ADMISSION//URGENT//TRANSFER FROM HOSPITAL", None),
    (-25, "LAB//220045//bpm", 70.0),
    (-5, "LAB//50912//mg/dL", 1.1),
    (0, f"ICU_ADMISSION//{MICU}", None),
    (1, "LAB//220045//bpm", 80.0),
    (2, "LAB//50912//mg/dL", 1.2),
    (2, "LAB//50813//mmol/L", 2.5),
    (3, "SUBJECT_FLUID_OUTPUT//226559//ml", 100.0),
    (3, "SUBJECT_FLUID_OUTPUT//226560//ml", 50.0),
    (3, "SUBJECT_FLUID_OUTPUT//226588//ml", 999.0),
    (4, "LAB//223835//UNK", 40.0),
    (20, f"ICU_DISCHARGE//{MICU}", None),
    (40, "ICU_ADMISSION//Coronary Care Unit (CCU)", None),
    (50, "MEDS_DEATH", None),
    (50, "HOSPITAL_DISCHARGE//DIED", None),
    (50.5, "ICU_DISCHARGE//Coronary Care Unit (CCU)", None),
]


def at(time):
    return BEGIN + timedelta(hours=time) if isinstance(time, int | float) else time


def write(folder: Path, **renamed) -> Path:
    """The events as the shared demo has them: no time of knowing, no ids, and the value under another name."""
    columns = {
        "subject_id": pa.array([7] * len(EVENTS), pa.int64()),
        "time": pa.array([at(time) for time, *_ in EVENTS], pa.timestamp("us")),
        "code": pa.array([code for _, code, _ in EVENTS]),
        "value": pa.array([value for *_, value in EVENTS], pa.float32()),
    }
    folder.mkdir(exist_ok=True)
    table = pa.table({renamed.get(name, name): column for name, column in columns.items()})
    pq.write_table(table, folder / "events.parquet")
    return folder


def open_duckdb(folder: Path):
    return open_engine(f"duckdb:///{folder / 'meds.db'}")


def rows(read, engine) -> list[dict]:
    return [row for batch in read(ADAPTER, engine, SINCE, UNTIL) for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meds")
    engine = open_duckdb(folder)
    report = meds.load(engine, write(folder / "events's"), "main")
    assert report.rows == {"meds_event": len(EVENTS)} and "no available_at" in report.notes[0]
    yield engine
    engine.dispose()


def hour(time) -> float | None:
    return time and (time.replace(tzinfo=None) - BEGIN) / timedelta(hours=1)


def test_admissions_are_paired_with_the_end_that_follows_and_a_death_ends_its_stay(ward):
    found = sorted(rows(read_stays, ward), key=lambda row: (row["stay_id"], row["available_at"]))
    course = [
        (r["stay_id"], hour(r["available_at"]), hour(r["outtime"]), r["outcome"], hour(r["died_at"])) for r in found
    ]
    assert course == [
        ("7-1", 0, None, None, None),
        ("7-1", 20, 20, "alive", None),
        ("7-1", 50, 20, "alive", 50),
        ("7-2", 40, None, None, None),
        ("7-2", 50, 50, "died", 50),
        ("7-2", 50.5, 50.5, "died", 50),
    ]
    same = {"patient_id": "7", "age_years": 65, "sex": "female", "admission_type": "urgent", "ends_at": "unit"}
    assert all({name: row[name] for name in same} == same for row in found)
    assert {(row["unit_type"], hour(row["hospital_intime"])) for row in found} == {("medical", -30), ("cardiac", -30)}


def test_values_are_known_when_a_laboratory_would_have_told_and_belong_to_the_stay_they_were_observed_in(ward):
    found = sorted(
        (hour(r["observed_at"]), hour(r["available_at"]), r["stay_id"], r["variable"], r["unit"], r["value"])
        for r in rows(read_observations, ward)
    )
    assert found == [
        (-5, 0, "7-1", "LAB//50912", "mg/dL", "1.1"),
        (1, 1, "7-1", "LAB//220045", "bpm", "80.0"),
        (2, 3, "7-1", "LAB//50813", "mmol/L", "2.5"),
        (2, 5, "7-1", "LAB//50912", "mg/dL", "1.2"),
        (3, 3, "7-1", "urine of all ways out", None, "150.0"),
        (4, 4, "7-1", "LAB//223835", None, "0.4"),
    ]


@pytest.mark.parametrize("which", ["stays", "observations"])
def test_slices_are_one_pass(ward, which):
    check_slices_are_one_pass(ward, ADAPTER, which, [at(hour).replace(tzinfo=UTC) for hour in (-1, 0, 2.5, 20, 50)])


def test_what_is_no_meds_data_set_is_refused_in_a_sentence(tmp_path, ward):
    with pytest.raises(ForecastError, match=r"There are no Parquet files in .*give the folder of a MEDS data set"):
        meds.load(ward, tmp_path, "main")
    with pytest.raises(ForecastError, match=r"have no column code, numeric_value; are they events of MEDS\?"):
        meds.load(ward, write(tmp_path / "other", code="name", value="number"), "main")
    with pytest.raises(ForecastError, match=r"set ICU_SOURCES__MEDS__URL to a file that is to be made"):
        meds.load(create_engine("sqlite://"), tmp_path, "main")


def values(known) -> pd.DataFrame:
    """Of the newest version of each value, by patient, concept and time."""
    o = known.observations
    columns = {"concept": o.concept, "observed_at": o.observed_at, "value": o.value}
    frame = pd.DataFrame({"patient_id": known.stays["patient_id"].to_numpy()[o.stay], **columns})
    return frame.drop_duplicates(["patient_id", "concept", "observed_at"], keep="last")


@pytest.mark.soak
def test_the_demo_agrees_with_the_same_patients_in_clif(make_database, tmp_path, monkeypatch):
    from sql.loaders import clif

    folder, of_clif = SHARED / "data" / "mimic-iv-demo-meds", make_database("as_published")
    if not folder.is_dir():
        pytest.skip("the MIMIC-IV demo in MEDS form is not there")
    clif.load(open_engine(of_clif), reanchor=False)
    of_meds = open_duckdb(tmp_path)
    meds.load(of_meds, folder, "main")
    of_meds.dispose()
    monkeypatch.setenv("ICU_DATABASE_URL", make_database("agreement").render_as_string(hide_password=False))
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", of_clif.render_as_string(hide_password=False))
    monkeypatch.setenv("ICU_SOURCES__MEDS__URL", f"duckdb:///{tmp_path / 'meds.db'}")
    monkeypatch.setenv("ICU_SOURCES__MEDS__DATA_TIMEZONE", "Etc/GMT+5")
    for source in ("CLIF", "MEDS"):
        monkeypatch.setenv(f"ICU_SOURCES__{source}__SHIFT_DAYS", "-73052")
    load_settings.cache_clear()
    for source in ("clif", "meds"):
        ingest.fn(source, datetime(2026, 1, 19, tzinfo=UTC))
    ours, theirs = (canonical.read_known(open_store(), source, UNTIL) for source in ("meds", "clif"))
    load_settings.cache_clear()
    both = values(ours).merge(values(theirs), on=["patient_id", "concept", "observed_at"])
    both = both[both["concept"] != INDEX["gcs_verbal"]]
    far = (both["value_x"] - both["value_y"]).abs() > 0.005 * both["value_y"].abs().clip(lower=1)
    assert len(both) > 120_000 and far.mean() < 0.0005
    same = ours.stays.merge(theirs.stays, on=["patient_id", "intime", "outtime", "outcome"])
    assert len(same) == 120
    assert (same["age_years_x"] == same["age_years_y"]).all() and (same["sex_x"] == same["sex_y"]).all()
