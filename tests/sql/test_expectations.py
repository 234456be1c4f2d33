"""Every check of every suite is seen to fail for dirty rows, to act on them with its reason, and to leave the clean."""

import itertools
import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import builders_sql as b
import pandas as pd
import pytest
from sqlalchemy import text

from rnn_core.contracts.config import Sampling
from rnn_core.contracts.errors import ForecastError, QualityError
from sql.engines.cells import MARK
from sql.intake import landing, quality
from sql.intake.adapter import Adapter, MappedVariable
from sql.store import refusals, schema
from sql.store.engine import open_engine

SUITES = ("stay", "observation", "beds", "planned", "forecast")
READ = SUITES[:-1]
EVERY_CHECK = [
    pytest.param(suite, check, id=f"{suite}-{check.name}") for suite in SUITES for check in quality.load_suite(suite)
]
BEGIN = datetime(2026, 3, 2, 8, tzinfo=UTC)
AS_OF = BEGIN + timedelta(days=10)

# It hands over its tables whole and as text, so that any row can come; a read that ignores its bounds is one more.
ADAPTER = Adapter(
    name=b.SOURCE,
    title="",
    licence="",
    ends_at="unit",
    sampling=Sampling(0.0, math.inf),
    availability="",
    dialects=("postgresql",),
    tables={},
    units={},
    stays_sql="select * from {schema}.stay where :since < :until",
    observations_sql="select * from {schema}.observation where :since < :until",
    optional_sql={
        "beds.sql": "select * from {schema}.beds where :since < :until",
        "arrivals.sql": "select * from {schema}.planned where :since < :until",
    },
    concept_map=(MappedVariable("HR", "bpm", "heart_rate", 1.0, 0.0), MappedVariable("K", "*", "potassium", 1.0, 0.0)),
)


def at(hours: float) -> str:
    return (BEGIN + timedelta(hours=hours)).isoformat()


def stay(stay_id: str | None, **values: str | None) -> dict:
    """A finished, clean stay of three days as text, but for `values`."""
    row = {
        "stay_id": stay_id,
        "available_at": at(72),
        "patient_id": f"of {stay_id}",
        "unit": "MICU",
        "unit_type": "medical",
        "intime": at(0),
        "outtime": at(72),
        "outcome": "alive",
        "ends_at": "unit",
        "end_precision_hours": "0",
        "hospital_intime": at(-10),
        "hospital_outtime": at(72),
        "died_at": None,
        "age_years": "71",
        "sex": "female",
        "height_cm": "170",
        "weight_kg": "80",
        "admission_type": "emergency",
    }
    return row | values


_minutes = itertools.count()


def observation(**values: str | None) -> dict:
    """A clean observation as text, each in a minute of its own, but for `values`."""
    when = at(1 + next(_minutes) / 60)
    row = {
        "stay_id": "clean-0",
        "variable": "HR",
        "unit": "bpm",
        "observed_at": when,
        "available_at": when,
        "value": "80",
    }
    return row | values


def beds(unit: str | None, **values: str | None) -> dict:
    """A clean version of the beds of a unit as text, but for `values`."""
    return {"unit": unit, "beds": "12", "staffed_beds": "10", "available_at": at(0)} | values


def plan(planned_id: str | None, **values: str | None) -> dict:
    """A clean plan as text, but for `values`."""
    row = {
        "planned_id": planned_id,
        "unit": "MICU",
        "kind": "admission",
        "expected_at": at(300),
        "available_at": at(100),
        "probability": "0.8",
        "status": "planned",
        "stay_id": None,
    }
    return row | values


CLEAN = {
    "beds": [beds("MICU"), beds("MICU", beds="0", staffed_beds=None, available_at=at(5)), beds("NEW", beds=None)],
    "planned": [
        plan("p1"),
        plan("p1", available_at=at(101), status="cancelled", probability="0"),
        plan("p2", unit="NEW", kind="transfer", probability="1", stay_id="clean-0", expected_at=at(-5)),
        plan("p3", kind="discharge", status="done", available_at=at(0)),
    ],
    "stay": [stay(f"clean-{n}") for n in range(150)],
    "observation": [observation(stay_id=f"clean-{n % 150}") for n in range(1500)]
    + [
        observation(variable="K", unit=None, value="4.5"),
        observation(variable="K", unit=None, value="4.6", observed_at=at(-30 * 24)),
    ],
}

# A value other than the clean one for each column that a version of a stay holds besides its key.
CHANGED = {
    "patient_id": "another",
    "unit": "SICU",
    "unit_type": "surgical",
    "intime": at(1),
    "outtime": at(71),
    "outcome": "died",
    "ends_at": "hospital",
    "end_precision_hours": "24",
    "hospital_intime": at(-11),
    "hospital_outtime": None,
    "died_at": at(72),
    "age_years": "72",
    "sex": None,
    "height_cm": "171",
    "weight_kg": "81",
    "admission_type": "elective",
}
CHANGED_PLAN = {
    "unit": "NEW",
    "kind": "discharge",
    "expected_at": at(301),
    "probability": "0.9",
    "status": "done",
    "stay_id": "clean-0",
}
BEFORE_A_CHANGE = {
    "beds": [beds("changed beds"), beds("changed staff")],
    "planned": [plan(f"changed-{column}") for column in CHANGED_PLAN],
    "stay": [stay(f"changed-{column}") for column in CHANGED],
    "observation": [observation()],
}
AFTER_A_CHANGE = {
    "beds": [beds("changed beds", beds="13"), beds("changed staff", staffed_beds=None)],
    "planned": [plan(f"changed-{column}", **{column: value}) for column, value in CHANGED_PLAN.items()],
    "stay": [row | {column: CHANGED[column]} for row, column in zip(BEFORE_A_CHANGE["stay"], CHANGED, strict=True)],
    "observation": [BEFORE_A_CHANGE["observation"][0] | {"value": "81"}],
}
KNOWN_LATER = (AS_OF + timedelta(seconds=1)).isoformat()


WITHOUT_RISK = {"mortality_risk": None, "risk_band": None, "status_reason": "outcome_not_learned"}


def forecast(stay_id: str, *, scored: bool = True, **values) -> dict:
    """A clean row of a run, but for `values`."""
    return b.forecasts({stay_id: 0.3 if scored else None}).iloc[0].to_dict() | values


NUMBERS = {
    "mortality_risk": 0.1,
    "prolonged_stay_risk": 0.1,
    "remaining_los_p10_hours": 1.0,
    "remaining_los_p50_hours": 1.0,
    "remaining_los_p90_hours": 1.0,
    "discharge_24h_prob": 0.1,
    "discharge_48h_prob": 0.1,
    "discharge_72h_prob": 0.1,
}

# Per suite and check the rows that are to fail it. The rows of a critical check come in a batch of their own.
DIRTY: dict[str, dict[str, list[dict]]] = {
    "stay": {
        "times_are_readable": [stay(f"unreadable-{n}", intime="2 March") for n in range(120)],
        "nothing_is_from_after_the_slot": [stay("from the future", available_at=KNOWN_LATER)],
        "death_shortly_before_charted_end": [
            stay("died 36 h before", died_at=at(36)),
            stay("died just after it began", died_at=at(0.01), outtime=at(20), outcome=None),
        ],
        "implausible_age": [stay("too old", age_years="300"), stay("age below 0", age_years="-1")],
        "implausible_height": [stay("height in m", height_cm="1.7"), stay("height not a number", height_cm="NaN")],
        "implausible_weight": [stay("weight in g", weight_kg="80000")],
        "unreadable_text": [stay(rf"S\xfcd{MARK}"), stay("unit is no text", unit=rf"Innere S\xfcd{MARK}")],
        "missing_stay_id": [stay(None), stay("")],
        "missing_patient_id": [stay("no patient", patient_id=None), stay("empty patient", patient_id="")],
        "unreadable_time": [
            stay("no begin", intime=None),
            stay("begin is no time", intime="last night"),
            stay("known at no time", available_at="soon"),
            stay("end is no time", outtime="2026-02-31"),
            stay("death is no time", died_at="unknown"),
            stay("end without end", outtime="infinity", outcome=None),
            stay("admitted before everything", hospital_intime="-infinity"),
            stay("died before Christ", died_at="0044-03-15 BC"),
            stay("left hospital in the year 999", hospital_outtime="0999-12-31T00:00:00+00:00"),
            stay("begins whenever it is read", intime="now", outtime=None, outcome=None),
        ],
        "unreadable_number": [
            stay("age in words", age_years="old"),
            stay("precise in words", end_precision_hours="a day"),
            *(stay(f"precise to {hours}", end_precision_hours=hours) for hours in ("Infinity", "NaN", "-1", "8785")),
        ],
        "unknown_outcome": [stay("transferred", outcome="transferred")],
        "unknown_end": [stay("ends nowhere", ends_at=None), stay("ends on a ward", ends_at="ward")],
        "begins_before_first_day": [
            stay("since 1900", intime="1900-01-01T00:00:00+00:00", outtime=None, outcome=None),
            stay("since 1700", intime="1700-01-01T00:00:00+00:00"),
            stay("the day before", intime="1989-12-31T23:59:59+00:00"),
        ],
        "ends_before_it_begins": [
            stay("negative", outtime=at(-1)),
            stay("no length", outtime=at(0)),
            stay("negative, died first", outtime=at(-1), died_at=at(-2), outcome="died"),
            stay("died as it began", died_at=at(0), outtime=at(20)),
            stay("died shortly before", died_at=at(-5), outtime=at(20)),
            stay("died long before", died_at=at(-50)),
            stay("died before, still open", died_at=at(-5), outtime=None, outcome=None),
        ],
        "duplicate_key": [CLEAN["stay"][0]],
        "changed_without_new_available_at": AFTER_A_CHANGE["stay"],
    },
    "observation": {
        "times_are_readable": [observation(variable="K", value="4.5", observed_at="noon") for _ in range(1200)],
        "nothing_is_from_after_the_slot": [observation(available_at=KNOWN_LATER)],
        "units_fit_the_concepts": [observation(value="1.3") for _ in range(250)],
        "unreadable_text": [observation(**{column: rf"\xfc{MARK}"}) for column in ("stay_id", "variable", "unit")],
        "missing_stay_id": [observation(stay_id=None), observation(stay_id="")],
        "empty_variable_name": [observation(variable=v) for v in (None, "", "  ")],
        "unknown_variable": [observation(variable="XYZ"), observation(variable="hr")],
        "unknown_unit": [observation(unit="Hz"), observation(unit=None)],
        "unreadable_time": [
            *(observation(observed_at=time) for time in ("noon", None, "-infinity", "0044-03-15 BC")),
            observation(available_at=None),
        ],
        "available_before_observed": [observation(available_at=at(0))],
        "missing_value": [observation(value=None), observation(value=" ")],
        "text_in_a_number": [observation(value=v) for v in ("haemolysed", "<0.5", "37,2", "1e308", "1e-308")],
        "implausible_value": [
            *(observation(value=v) for v in ("735", "-5", "NaN", "Infinity")),
            CLEAN["observation"][1] | {"value": "735"},
        ],
        "unknown_stay": [observation(stay_id="of no stay"), observation(stay_id="negative")],
        "observed_long_before_stay": [
            *(observation(observed_at=f"{year}-01-01T00:00:00+00:00") for year in (1700, 1900, 2000)),
            observation(observed_at=at(-30 * 24 - 0.01)),
        ],
        "duplicate_key": [CLEAN["observation"][0] | {"value": "99"}],
        "changed_without_new_available_at": AFTER_A_CHANGE["observation"],
    },
    "beds": {
        "unreadable_text": [beds(rf"S\xfcd{MARK}")],
        "missing_unit": [beds(None), beds("")],
        "unreadable_time": [beds("no time", available_at=None), beds("some time", available_at="soon")],
        "known_after_the_slot": [beds("from the future", available_at=KNOWN_LATER)],
        "impossible_number": [
            *(beds(f"of {n}", beds=n, staffed_beds=None) for n in ("-1", "many", "1.5", "NaN", "1e300", "10001")),
            *(beds(f"staffed by {n}", beds=None, staffed_beds=n) for n in ("-1", "some", "0.5", "Infinity")),
        ],
        "more_staffed_than_beds": [beds("overstaffed", staffed_beds="13")],
        "duplicate_key": [CLEAN["beds"][0]],
        "changed_without_new_available_at": AFTER_A_CHANGE["beds"],
    },
    "planned": {
        "unreadable_text": [plan(rf"S\xfcd{MARK}"), plan("text", status=rf"\xfc{MARK}")],
        "missing_plan_id": [plan(None), plan("")],
        "unreadable_time": [plan("no time", available_at=None), plan("some time", available_at="soon")],
        "known_after_the_slot": [plan("from the future", available_at=KNOWN_LATER)],
        "no_expected_time": [plan("never", expected_at=None), plan("tomorrow", expected_at="tomorrow")],
        "unknown_kind": [plan("no kind", kind=None), plan("visit", kind="visit")],
        "unknown_status": [plan("no status", status=None), plan("sure", status="sure")],
        "impossible_probability": [
            plan(f"with {p}", probability=p) for p in (None, "-0.1", "1.01", "80", "NaN", "likely")
        ],
        "unknown_unit": [plan("nowhere", unit="GEN4"), plan("no unit", unit=None)],
        "duplicate_key": [CLEAN["planned"][0]],
        "changed_without_new_available_at": AFTER_A_CHANGE["planned"],
    },
    # Each of these breaks its own check and no other, so the counts of a run are known exactly.
    "forecast": {
        "probabilities_lie_between_0_and_1": [
            forecast("1", mortality_risk=-0.1),
            forecast("2", prolonged_stay_risk=1.1),
            forecast("3", prolonged_stay_risk=None),
            forecast("4", discharge_24h_prob=-0.1),
        ],
        "times_are_finite": [
            forecast("5", remaining_los_p90_hours=math.inf),
            forecast("6", remaining_los_p10_hours=-1.0),
        ],
        "quantiles_rise": [
            forecast("7", remaining_los_p50_hours=91.0),
            forecast("8", remaining_los_p10_hours=21.0),
            forecast("9", remaining_los_p50_hours=None),
        ],
        "discharge_probability_rises_with_the_horizon": [
            forecast("10", discharge_24h_prob=0.6),
            forecast("11", discharge_48h_prob=0.64),
        ],
        "leaving_alive_and_dying_do_not_exceed_certainty": [forecast("12", mortality_risk=0.4)],
        "abstentions_carry_a_reason_and_no_number": [
            forecast("13", scored=False, status_reason=None),
            forecast("14", scored=False, risk_band="low"),
            *(forecast(column, scored=False, **{column: number}) for column, number in NUMBERS.items()),
        ],
        "a_missing_risk_of_death_carries_a_reason": [
            forecast("15", mortality_risk=None, risk_band=None),
            forecast("16", status_reason="outcome_not_learned"),
            forecast("17", **WITHOUT_RISK | {"risk_band": "low"}),
        ],
        "one_row_per_stay": [forecast("twice")],
    },
}
CLEAN["forecast"] = [
    forecast("twice"),
    forecast("clean"),
    forecast("abstained", scored=False),
    forecast("without a risk", **WITHOUT_RISK),
]

# What a correction makes of its rows; all other columns stay as they came.
CORRECTED = {
    "death_shortly_before_charted_end": lambda row: {"outtime": row["died_at"], "outcome": "died"},
    "implausible_age": lambda row: {"age_years": None},
    "implausible_height": lambda row: {"height_cm": None},
    "implausible_weight": lambda row: {"weight_kg": None},
}


def dirty_rows(relation: str, severity: str) -> list[dict]:
    """The rows of all cases of a severity, but for those that only a second reading can show to be dirty."""
    wanted = {check.name for check in quality.load_suite(relation) if check.severity == severity}
    wanted.discard("changed_without_new_available_at")
    return [row for name, rows in DIRTY[relation].items() if name in wanted for row in rows]


@dataclass(frozen=True)
class Found:
    """What reading a set of rows left: an outcome per check name, and the new rows of the quarantine."""

    outcomes: dict[str, dict[str, quality.CheckOutcome]]
    quarantine: list[dict]
    versions: list[dict]
    beds: list[dict]
    plans: list[dict]
    observations: list[dict]


@pytest.fixture(scope="module")
def engine(make_database, migrated_template):
    with b.migrated(make_database("t", migrated_template)) as engine:
        yield engine


@pytest.fixture(scope="module")
def first(engine) -> Found:
    """All that is clean among all that is dirty in a row."""
    return read(engine, {r: CLEAN[r] + BEFORE_A_CHANGE[r] + dirty_rows(r, "warning") for r in READ})


@pytest.fixture(scope="module")
def again(engine, first) -> Found:
    """The same rows once more, but for the clean ones that changed."""
    return read(engine, {r: CLEAN[r] + AFTER_A_CHANGE[r] + dirty_rows(r, "warning") for r in READ})


@pytest.fixture(scope="module")
def stopped(engine, again) -> Found:
    """What is dirty in the batch as a whole."""
    return read(engine, {r: CLEAN[r][:10] + dirty_rows(r, "critical") for r in READ}, stops=True)


@pytest.fixture(scope="module")
def forecasts(engine) -> dict[str, dict[str, quality.CheckOutcome]]:
    """Outcomes of the suite `forecast` for a clean run and a broken one."""
    quality.check_forecasts(engine, 1, b.SOURCE, pd.DataFrame(CLEAN["forecast"]))
    broken = CLEAN["forecast"] + [row for rows in DIRTY["forecast"].values() for row in rows]
    with pytest.raises(QualityError):
        quality.check_forecasts(engine, 2, b.SOURCE, pd.DataFrame(broken))
    return {name: outcomes(engine, "forecast", run_id=n) for n, name in ((1, "clean"), (2, "broken"))}


def read(engine, tables: dict[str, list[dict]], *, stops: bool = False) -> Found:
    """Take the rows the whole way that the ingest takes them; stops: it ends at the critical checks."""
    put_into_the_source(engine, tables)
    batch = landing.begin_batch(engine, b.SOURCE, AS_OF)
    landing.land(engine, batch, replace(ADAPTER, schemas={"schema": "hospital"}), engine, lambda _: None)
    landing.cast_and_map(engine, batch, ADAPTER)
    if stops:
        with pytest.raises(QualityError) as error:
            landing.check(engine, batch)
        landing.fail_batch(engine, batch, str(error.value))
    else:
        found = landing.check(engine, batch)
        with engine.begin() as connection:
            landing.take_over(connection, batch, found, {})
    found = b.rows(engine, "select * from quality.quarantine where batch_id = :id", id=batch.batch_id)
    return Found(
        {r: outcomes(engine, r, batch_id=batch.batch_id) for r in tables},
        found,
        b.rows(engine, "select * from icu.stay_version order by stay_id, available_at"),
        b.rows(engine, "select unit, beds, staffed_beds, available_at from icu.unit"),
        b.rows(engine, f"select {', '.join(CLEAN['planned'][0])} from icu.planned"),
        b.rows(engine, "select * from icu.observation order by stay_id, concept, observed_at, available_at"),
    )


def put_into_the_source(engine, tables: dict[str, list[dict]]) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("drop schema if exists hospital cascade")
        connection.exec_driver_sql("create schema hospital")
        for relation, rows in tables.items():
            names = list(rows[0])
            connection.exec_driver_sql(f"create table hospital.{relation} ({', '.join(f'{n} text' for n in names)})")
            connection.execute(
                text(f"insert into hospital.{relation} values ({', '.join(f':{n}' for n in names)})"), rows
            )


def outcomes(engine, suite: str, **of: int) -> dict[str, quality.CheckOutcome]:
    """The outcomes that were kept of a batch or a run."""
    ((column, number),) = of.items()
    kept = b.rows(
        engine,
        f"select * from quality.check_result where suite = :suite and {column} = :number",
        suite=suite,
        number=number,
    )
    checks = {check.name: check for check in quality.load_suite(suite)}
    return {
        row["check_name"]: quality.CheckOutcome(checks[row["check_name"]], row["passed"], row["rows_failed"])
        for row in kept
    }


def in_order(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: sorted((k, str(v)) for k, v in row.items()))


@pytest.mark.parametrize(("suite", "check"), EVERY_CHECK)
def test_each_check_fails_for_its_dirty_rows_and_acts_on_them_only(request, suite, check):
    dirty = DIRTY[suite].get(check.name)
    assert dirty, f"{check.name} of {suite}.yaml has no dirty rows in DIRTY; who has not seen it fail cannot trust it"
    if check.severity == "critical":
        if suite == "forecast":
            clean, broken = (request.getfixturevalue("forecasts")[name] for name in ("clean", "broken"))
        else:
            clean, broken = (request.getfixturevalue(name).outcomes[suite] for name in ("first", "stopped"))
        assert clean[check.name].passed and not broken[check.name].passed
        quality.require_no_critical([clean[check.name]])
        with pytest.raises(QualityError, match=re.escape(" ".join(check.advice.split()))):
            quality.require_no_critical([broken[check.name]])
        return
    found = request.getfixturevalue("again" if check.name == "changed_without_new_available_at" else "first")
    outcome = found.outcomes[suite][check.name]
    assert not outcome.passed and outcome.rows_failed >= len(dirty)
    kept = [row for row in found.quarantine if (row["relation"], row["check_name"]) == (suite, check.name)]
    assert in_order([row["row"] for row in kept]) == in_order(dirty)
    assert all(row["reason"].startswith(check.reason) and check.reason for row in kept)
    assert {row["disposition"] for row in kept} == {"corrected" if check.correct else "rejected"}


def test_no_dirty_rows_are_left_without_their_check():
    assert {s: set(DIRTY[s]) for s in SUITES} == {s: {check.name for check in quality.load_suite(s)} for s in SUITES}


def test_a_dirty_forecast_fails_its_own_check_and_no_other(forecasts):
    counts = {name: outcome.rows_failed for name, outcome in forecasts["broken"].items()}
    assert counts == {name: len(rows) for name, rows in DIRTY["forecast"].items()}


def test_what_is_clean_and_what_was_corrected_is_taken_over_and_nothing_else(first):
    corrected = [row | change(row) for name, change in CORRECTED.items() for row in DIRTY["stay"][name]]
    wanted = {row["stay_id"]: row for row in (*CLEAN["stay"], *BEFORE_A_CHANGE["stay"], *corrected)}
    assert {row["stay_id"]: as_text(row) for row in first.versions} == wanted
    for taken, relation in ((first.beds, "beds"), (first.plans, "planned")):
        assert in_order(map(as_text, taken)) == in_order([*CLEAN[relation], *BEFORE_A_CHANGE[relation]])
    concepts = {"HR": "heart_rate", "K": "potassium"}
    assert {(o["stay_id"], o["concept"], o["observed_at"].isoformat()): o["value"] for o in first.observations} == {
        (o["stay_id"], concepts[o["variable"]], o["observed_at"]): float(o["value"])
        for o in (*CLEAN["observation"], *BEFORE_A_CHANGE["observation"])
    }


def as_text(version: dict) -> dict:
    """A version of a stay as the source gave it."""
    shown = {datetime: datetime.isoformat, float: "{:g}".format, int: str}
    return {
        name: shown.get(type(value), lambda v: v)(value)
        for name, value in version.items()
        if name not in ("source", "batch_id")
    }


def test_a_stay_after_its_own_death_is_rejected_and_not_cut_to_nothing(first):
    """Cut at the death it would end before it begins, and no row of the batch could be taken over."""
    reasons = {q["row"]["stay_id"]: q["reason"] for q in first.quarantine if q["check_name"] == "ends_before_it_begins"}
    named = {stay_id: reason.rpartition(": ")[2] for stay_id, reason in reasons.items()}
    assert {stay_id for stay_id, fault in named.items() if fault == "died_at is not after intime"} == {
        "died as it began",
        "died shortly before",
        "died long before",
        "died before, still open",
    }
    assert set(named.values()) == {"died_at is not after intime", "outtime is not after intime"}


def test_the_rows_of_a_stay_that_was_rejected_are_of_an_unknown_stay(first):
    assert "negative" in {row["row"]["stay_id"] for row in first.quarantine if row["check_name"] == "unknown_stay"}


def test_rows_read_again_are_reported_as_changed_only_where_the_source_changed_them(first, again):
    """A version that was corrected, or a row that lost to another of its key, differs from what is stored all the same."""
    for relation in READ:
        outcome = again.outcomes[relation]["changed_without_new_available_at"]
        assert outcome.rows_failed == len(AFTER_A_CHANGE[relation])
    assert {row["check_name"] for row in again.quarantine} == {"changed_without_new_available_at"}
    assert (again.versions, again.observations) == (first.versions, first.observations)
    assert (again.beds, again.plans) == (first.beds, first.plans)


def test_a_change_of_any_column_of_a_version_is_noticed():
    key = {"source", "stay_id", "available_at", "batch_id"}
    assert set(CHANGED) == {column.name for column in schema.stay_version.c} - key
    assert set(CHANGED_PLAN) == {column.name for column in schema.planned.c} - key - {"planned_id"} | {"stay_id"}


def test_a_check_that_passed_is_run_again_once_a_correction_changed_rows(engine):
    """Its outcome is of the rows as they came; the corrected ones may break what it protects."""
    checks = (
        quality.Check("late_end", "warning", "", where="ends > 10", correct="ends = begins", reason="cut"),
        quality.Check("no_length", "warning", "", where="ends <= begins", reason="no length"),
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("create table landing.mended (begins int, ends int)")
        connection.exec_driver_sql("insert into landing.mended values (0, 5), (0, 50)")
        connection.exec_driver_sql(
            "create table landing.mended_checked as select ctid as row_id, * from landing.mended"
        )
        rejected = quality.quarantine(
            connection,
            [quality.CheckOutcome(checks[0], False, 1), quality.CheckOutcome(checks[1], True, 0)],
            relation="mended",
            checked="landing.mended_checked",
            landed="landing.mended",
            source=b.SOURCE,
            batch_id=1,
        )
        left = connection.execute(text("select ends from landing.mended_checked")).scalars().all()
        kept = connection.execute(
            text("select check_name, disposition, row from quality.quarantine where relation = 'mended' order by 1")
        ).all()
        connection.rollback()
    as_it_came = {"begins": 0, "ends": 50}
    assert (rejected, left) == (1, [5])
    assert [tuple(row) for row in kept] == [
        ("late_end", "corrected", as_it_came),
        ("no_length", "rejected", as_it_came),
    ]


def test_checks_without_a_free_connection_are_waited_for_and_say_so(make_database, monkeypatch):
    owner = open_engine(make_database("connections"))
    with owner.begin() as connection:
        connection.exec_driver_sql("drop role if exists only_one; create role only_one login connection limit 1")
        connection.exec_driver_sql("create table landed (row_id int); grant select on landed to only_one")
    check = quality.Check("any_row", "critical", "select row_id from {batch} where row_id = 1")
    monkeypatch.setattr(quality, "load_suite", lambda _: (check,))
    monkeypatch.setattr(refusals, "FREE_WITHIN", 0.0)
    engine = open_engine(owner.url.set(username="only_one"))
    with engine.connect(), pytest.raises(ForecastError, match=r"no free connection for 0 s; give its user more"):
        quality.validate(engine, "stay", "public.landed")
    with owner.begin() as connection:
        connection.exec_driver_sql("alter role only_one connection limit 3")
    monkeypatch.setattr(refusals, "FREE_WITHIN", 30.0)
    assert [outcome.passed for outcome in quality.validate(engine, "stay", "public.landed")] == [True]
