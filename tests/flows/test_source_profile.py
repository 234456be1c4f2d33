"""The pass over a source: exact counts, sampled quantiles in bounded memory, and what is looked at."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from builders_source import adapter_at

from flows.inspection import lookalikes, source_profile
from flows.inspection.lookalikes import looks_like, missed
from flows.inspection.source_check import _full_units, _midnight_faults, _unit_faults, _untimed, _whole_reads, _zones
from flows.inspection.source_profile import SAMPLE, Sample, by_unit, coverage, profile
from rnn_core.contracts.concepts import NAMES
from sql.engines.cells import NO_TIME
from sql.intake.adapter import Beds, MappedVariable
from sql.loaders import replace_table
from sql.store.engine import open_engine

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_sample_is_bounded_and_its_quantiles_are_those_of_the_stream():
    rng, sample = np.random.default_rng(3), Sample()
    values = rng.lognormal(size=300_000)
    for part in np.array_split(values, 60):
        sample.add(part, rng)
    assert len(sample.values) == len(sample.priorities) == SAMPLE
    ranks = [(values <= q).mean() for q in sample.quantiles(0.01, 0.5, 0.99)]
    assert ranks == pytest.approx([0.01, 0.5, 0.99], abs=0.01)


@pytest.fixture
def made(monkeypatch):
    """A source of three stays, one without a begin: temperatures in both units, one of them mislabelled, two without a
    usable time, and a variable without a line."""
    rows = pd.DataFrame(
        {
            "stay_id": ["a"] * 40 + ["b"] * 30 + ["a"] * 4,
            "variable": ["T"] * 70 + ["X"] * 2 + ["T"] * 2,
            "unit": ["C"] * 40 + ["F"] * 30 + [None] * 2 + ["C"] * 2,
            "value": ["37"] * 39 + ["not done"] + ["37"] * 30 + ["1", "2"] + ["37"] * 2,
        }
    )
    rows["observed_at"] = pd.to_datetime([NOW] * 72 + [None, NO_TIME], utc=True)
    rows["available_at"] = pd.Timestamp(NOW) + pd.Timedelta(hours=2)
    stays = pa.RecordBatch.from_pydict(
        {"stay_id": ["a", "b", "c"], "intime": [NOW, NOW, None], "available_at": [NOW] * 3}
    )
    monkeypatch.setattr(source_profile, "read_stays", lambda *_: iter([stays]))
    monkeypatch.setattr(
        source_profile, "read_observations", lambda *_: iter([pa.RecordBatch.from_pandas(rows, preserve_index=False)])
    )
    lines = (
        MappedVariable("T", "C", "temperature", 1, 0),
        MappedVariable("T", "F", "temperature", 5 / 9, -160 / 9),
        MappedVariable("HR", "*", "heart_rate", 1, 0),
    )
    return profile(replace(adapter_at("clif"), concept_map=lines), None, NOW)


def test_coverage_counts_rows_stays_numbers_and_delays_and_says_what_is_lacking(made):
    rows = {row["concept"]: row for row in coverage(made)}
    assert next(iter(rows)) == "temperature", "what the source has comes first"
    temperature = rows["temperature"]
    assert (temperature["rows"], temperature["stays %"], temperature["delay h"]) == (70, 66.7, 2.0)
    assert temperature["numbers %"] == 98.6
    assert (rows["heart_rate"]["lacks"], rows["spo2"]["lacks"]) == ("no row", "not in the map")
    assert made.unknown == {("X", ""): 2}


def test_rows_without_a_usable_time_are_something_to_look_at(made):
    not_read = [{"kind": kind, "name": "vitals", "rows": 1_200, "stays": 1} for kind in ("row", "stay", "untimed")]
    assert [fault.split(";")[0] for fault in _untimed(made, not_read)] == [
        "1 rows of stays have no usable time",
        "2 rows of observations have no usable time",
        "1,200 rows of vitals have no usable time: they belong to no stay and are not read",
    ]


def test_a_unit_that_does_not_fit_is_told_by_its_own_row(made):
    """Celsius charted as Fahrenheit: the concept as a whole has half its values in range, the unit none."""
    units = by_unit(made)
    assert [(row["charted in"], row["plausible %"]) for row in units] == [("C", 100.0), ("F", 0.0)]
    (fault,) = _unit_faults(units)
    assert fault.startswith("temperature: of 30 rows of 'T' in F only 0 % are within its range")


def test_a_large_table_without_an_index_is_something_to_look_at(make_database, monkeypatch):
    engine = open_engine(make_database("profile"))
    stored = pa.array(np.arange(120_000).astype("datetime64[m]").astype("datetime64[us]"), pa.timestamp("us"))
    with engine.begin() as connection:
        replace_table(connection, "public", "chart", pa.table({"stored": stored}))
    select = (
        "select stored as available_at from {schema}.chart"
        " where stored > cast(:since as timestamptz) and stored <= cast(:until as timestamptz)"
    )
    adapter = replace(adapter_at("clif"), stays_sql=select, observations_sql=select)
    (fault,) = _whole_reads(adapter, engine, datetime(1970, 2, 1, tzinfo=UTC))
    assert fault.startswith("an hourly run would scan all 120,000 rows of chart: no index serves it")


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
def test_a_column_with_a_zone_in_a_source_without_one_is_something_to_look_at(make_database, kind):
    engine = open_engine(make_database("zones"))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"create table chart (stored {kind}, value text)")
    adapter = replace(adapter_at("site"), tables={"chart": ["stored", "value"]})
    found = " ".join(_zones(adapter, engine))
    assert ("chart.stored (timestamp with time zone) have one" in found) == (kind == "timestamptz")
    assert not list(_zones(replace(adapter, local_times=False), engine))


def test_more_patients_than_beds_is_something_to_look_at():
    hours = pd.to_timedelta([-30, -20, -10, -9, 5, -8], unit="h")
    stays = pd.DataFrame({"unit": ["ICU1", "ICU1", "ICU1", "ICU1", "ICU1", "ICU2"], "intime": NOW + hours})
    stays["outtime"] = pd.to_datetime([None, NOW, NOW + pd.Timedelta(hours=1), None, None, None], utc=True)
    stays["outcome"] = [None, None, None, "died", None, None]
    adapter = replace(adapter_at("clif"), units={"ICU1": Beds(1), "ICU2": Beds(None)})
    (fault,) = _full_units(adapter, stays, NOW)
    assert fault.startswith("2 patients are in ICU1, which has 1 beds"), (
        "the ended, the dead and the planned are not in it"
    )
    assert list(_full_units(replace(adapter, units={"ICU1": Beds(2)}), stays, NOW)) == []


def test_a_variable_in_a_unit_without_a_line_is_not_left_out_with_the_others():
    lines = (MappedVariable("T", "C", "temperature", 1, 0), MappedVariable("*", "*", None, 1, 0))
    adapter = replace(adapter_at("clif"), concept_map=lines)
    assert adapter.line_of("T", "C") is lines[0] and adapter.line_of("T", "F") is None
    assert adapter.line_of("bed", "") is lines[1]


def test_times_that_are_all_midnight_are_told_as_dates(made):
    assert [fault.split(" are ")[0] for fault in _midnight_faults(made)] == ["100% of the 70 rows of 'T'"]


@pytest.mark.parametrize(
    ("name", "concepts"),
    [
        ("infusiondrug.Norepinephrine (ml/hr)", ["norepinephrine"]),
        ("infusiondrug.EPINEPHrine(Adrenalin)STD 4 mg (mcg/min)", ["epinephrine"]),
        ("respiratorycharting.RT Vent On/Off", ["mechanical_ventilation"]),
        ("respiratorycharting.Exhaled TV (machine)", ["tidal_volume"]),
        ("nursecharting.Non-Invasive BP Mean", ["map_noninvasive"]),
        ("chartevents 6701 Arterial BP [Diastolic]", ["dbp_invasive"]),
        ("chartevents 807 Fingerstick Glucose", ["glucose"]),
        ("outputevents 226559 Foley", ["urine"]),
        ("labevents 51082 Creatinine, Urine", []),
        ("chartevents 220046 Heart rate Alarm - High", []),
        ("intakeoutput.Crystalloids", []),
    ],
)
def test_a_name_looks_like_the_concepts_whose_words_it_has(name, concepts):
    assert looks_like(name) == concepts


def test_what_looks_like_a_concept_and_is_not_taken_is_something_to_look_at(made):
    """Of the three stays two have a temperature and none a ventilator; few rows and a concept that all have are no finding."""
    of_b = pd.DataFrame({"stay_id": ["b"] * 30, "value": 1.0, "observed_at": NOW, "available_at": NOW})
    lines = (*made.adapter.concept_map, MappedVariable("T", "K", None, 1, 0))
    found = replace(made, adapter=replace(made.adapter, concept_map=lines))
    source_profile._take(found, "T", "K", of_b, {"a": 0, "b": 1, "c": 2}, np.random.default_rng(0))

    def row(name, rows, stays, kind="row"):
        return {"kind": kind, "name": name, "rows": rows, "stays": stays}

    faults = list(
        missed(
            found,
            [
                row("chart.Ventilator Mode", 500, 2),
                row("chart.Temp (axillary)", 40, 1),
                row("chart.Heart Rate", 19, 3),
                row("4160140 Surgical ICU", 27, 9, "stay"),
                row("9201 Ward", 270, 90, "stay"),
            ],
        )
    )
    assert faults == [
        "27 rows of stays named '4160140 Surgical ICU' look like intensive care and are not read",
        "temperature is taken of 2 stays, and what looks like it is not (40 rows of 1 stays: 'chart.Temp (axillary)';"
        " 30 rows of 1 stays: 'T in other units')",
        "mechanical_ventilation is taken of 0 stays, and what looks like it is not"
        " (500 rows of 2 stays: 'chart.Ventilator Mode')",
    ]
    all_have_it = [row("chart.Temp (axillary)", 40, 1)]
    assert list(missed(replace(made, stays=made.stays.slice(0, 2)), all_have_it)) == []


def test_every_concept_has_words():
    assert set(lookalikes._WORDS) | {"ph_venous", "pco2_venous", "so2_arterial", "so2_mixed_venous"} >= set(NAMES) - {
        "neutrophils_percent",
        "lymphocytes_percent",
        "bilirubin_conjugated",
    }


def test_free_text_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(source_profile, "_MOST_UNITS", 3)
    known = {}
    for number in range(10):
        key = source_profile._bounded(known, ("T", f"unit {number}"), ("T", "(other units)"))
        known[key] = known.get(key, 0) + 1
    assert known == {("T", "unit 0"): 1, ("T", "unit 1"): 1, ("T", "unit 2"): 1, ("T", "(other units)"): 7}
