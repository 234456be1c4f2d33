"""The demo of MIMIC-III 1.4 (real rows): its stays, when its values were known, and the same from every engine."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow.compute as pc
import pytest
from builders_source import (
    BEGINNING,
    END,
    HOUR,
    adapter_at,
    check_named_columns,
    check_slices_are_one_pass,
    concept_map,
    judge_units,
    newest,
    read,
    sorted_rows,
    untimed,
)
from sqlalchemy import text

from rnn_core.contracts.frames import ADMISSION_TYPES, OUTCOMES, SEXES, STAY_COLUMNS, UNIT_TYPES
from sql.intake.catalogue import sequential_scans
from sql.intake.reading import BEGINNING as FROM_THE_BEGINNING
from sql.loaders import mimic_iii as loader
from sql.store.engine import open_engine


@pytest.fixture(scope="module")
def demo(mimic_iii_source):
    engine = open_engine(mimic_iii_source)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def versions(demo):
    return read(demo, "mimic_iii", "stays")


@pytest.fixture(scope="module")
def stays(versions):
    return newest(versions)


@pytest.fixture(scope="module")
def observations(demo):
    return read(demo, "mimic_iii", "observations")


# -------------------------------------------------------------------------------------------------------------- stays


def test_the_demo_has_136_stays_of_100_patients_from_both_systems(demo, stays):
    assert (len(stays), stays["patient_id"].nunique()) == (136, 100)
    with demo.connect() as connection:
        query = "select dbsource, count(*) from mimiciii.icustays group by 1 order by 1"
        assert connection.execute(text(query)).all() == [("carevue", 59), ("metavision", 77)]


def test_a_version_has_the_columns_and_words_of_the_contract(versions, stays):
    assert set(versions.columns) == {*STAY_COLUMNS, "available_at"} - {"source"}
    assert not versions.duplicated(["stay_id", "available_at"]).any()
    for column, allowed in (("unit_type", UNIT_TYPES), ("sex", SEXES), ("outcome", OUTCOMES)):
        assert set(stays[column]) <= set(allowed) and stays[column].notna().all()
    assert set(stays["admission_type"]) == set(ADMISSION_TYPES)
    assert set(stays["ends_at"]) == {"unit"}


def test_no_version_tells_a_time_that_had_not_come(versions):
    for column in ("intime", "outtime", "hospital_intime", "hospital_outtime", "died_at"):
        reported = versions[column].notna()
        assert (versions.loc[reported, column] <= versions.loc[reported, "available_at"]).all(), column
    admission = versions["available_at"] == versions["intime"]
    assert admission.sum() == 136
    assert versions.loc[admission, ["outtime", "outcome", "died_at"]].isna().all(axis=None)


def test_29_of_46_stays_of_those_who_died_in_hospital_end_with_the_death(demo, stays):
    with demo.connect() as connection:
        query = (
            "select i.icustay_id, i.outtime, a.deathtime from mimiciii.icustays i"
            " join mimiciii.admissions a using (hadm_id) where a.deathtime is not null"
        )
        charted = pd.read_sql_query(text(query), connection)
    assert len(charted) == 46
    after = (charted["deathtime"] - charted["outtime"]) / HOUR
    died = stays.index[stays["outcome"] == "died"]
    assert set(died) == set(charted.loc[after <= 1, "icustay_id"].astype(str)) and len(died) == 29
    assert (stays.loc[died, "outtime"] - stays.loc[died, "died_at"]).max() < pd.Timedelta(hours=19)


def test_a_move_to_another_care_unit_is_a_version_from_then_on(demo, versions):
    with demo.connect() as connection:
        moved = connection.execute(
            text(
                "select icustay_id::text, intime, curr_careunit from mimiciii.transfers"
                " where icustay_id is not null and prev_careunit <> '' and prev_careunit <> curr_careunit"
                " and curr_careunit <> '' order by intime limit 1"
            )
        ).one()
    own = versions[versions["stay_id"] == moved[0]].sort_values("available_at")
    at = pd.Timestamp(moved[1], tz="UTC")
    assert (own.loc[own["available_at"] >= at, "unit"].iloc[0]) == moved[2]
    assert moved[2] not in set(own.loc[own["available_at"] < at, "unit"])


def test_those_over_89_are_given_the_published_age(stays):
    ages = stays["age_years"].astype(float)
    assert (ages == 91.4).sum() == 9 and ages.drop(stays.index[ages == 91.4]).between(17, 89).all()


# ------------------------------------------------------------------------------------------------------- observations


def test_a_value_is_known_when_it_was_stored_and_never_before_it_was_observed(demo, observations):
    assert (observations["available_at"] >= observations["observed_at"]).all()
    with demo.connect() as connection:
        query = (
            "select c.icustay_id::text as stay_id, charttime as observed_at, greatest(storetime, charttime) as stored"
            " from mimiciii.chartevents c join mimiciii.icustays i using (icustay_id)"
            " where itemid in (211, 220045) and valuenum is not null and charttime >= i.intime and charttime < i.outtime"
        )
        charted = pd.read_sql_query(text(query), connection)
    rates = observations[observations["variable"].isin(["211", "220045"])]
    inside = rates[rates["available_at"] > rates["observed_at"]]
    for column in ("observed_at", "stored"):
        charted[column] = charted[column].dt.tz_localize("UTC")
    both = rates.merge(charted, on=["stay_id", "observed_at"])
    assert len(both) > 5_000 and len(inside) > 1_500
    assert (both["available_at"] == both["stored"]).mean() > 0.999


def test_a_laboratory_value_is_known_three_hours_and_a_blood_gas_one_hour_after_it_was_drawn(observations, stays):
    inside = observations["observed_at"] > observations["stay_id"].map(stays["intime"])
    delay = (observations["available_at"] - observations["observed_at"])[inside] / HOUR
    assert set(delay[observations["variable"] == "50912"]) == {3.0}
    assert set(delay[observations["variable"] == "50820 arterial"]) == {1.0}


def test_every_observation_lies_in_its_own_stay_or_up_to_24_hours_before(observations, stays):
    intime = observations["stay_id"].map(stays["intime"])
    assert (intime - observations["observed_at"]).max() <= pd.Timedelta(hours=24)
    assert (observations["observed_at"] < observations["stay_id"].map(stays["outtime"]) + 19 * HOUR).all()
    assert (observations["available_at"] >= intime).all()
    assert ((intime > observations["observed_at"]).sum()) > 1000


def test_values_are_those_of_the_demo(observations):
    assert len(observations) == 81_687
    counts = observations["variable"].value_counts()
    assert counts["220045"] > 2500 and counts["211"] > 2300 and counts["gcs total of parts"] > 600


def test_fahrenheit_percent_and_pounds_become_the_units_of_the_concepts(observations):
    plausible, median = judge_units(observations, "mimic_iii")
    # One patient's vasopressin seems charted per hour under a unit per minute.
    assert plausible.drop("vasopressin").min() > 0.99, plausible[plausible <= 0.99].to_dict()
    assert 36 < median["temperature"] < 38 and 0.35 < median["fio2"] < 0.6 and 70 < median["weight"] < 90


def test_both_monitoring_systems_give_the_same_concepts(observations):
    mapped = {line["variable"]: line["concept"] for line in concept_map("mimic_iii") if line["concept"]}
    concepts = observations.assign(concept=observations["variable"].map(mapped)).groupby("stay_id")["concept"].agg(set)
    vital = {"heart_rate", "respiratory_rate", "spo2", "temperature", "gcs_total", "creatinine"}
    assert concepts.map(vital.issubset).mean() > 0.9


def test_the_map_names_every_unit_of_the_demo(observations):
    known = {(line["variable"], line["unit"]) for line in concept_map("mimic_iii")}
    found = set(observations[["variable", "unit"]].fillna("").itertuples(index=False, name=None))
    assert {(v, u) for v, u in found if (v, "*") not in known and (v, u) not in known} == set()


def test_a_result_below_its_limit_counts_as_the_limit_and_other_text_is_passed_on(observations):
    troponin = observations.loc[observations["variable"] == "51003", "value"]
    assert (troponin.astype(str) == "0.01").sum() >= 50
    text_values = observations.loc[pd.to_numeric(observations["value"], errors="coerce").isna(), "value"]
    assert set(text_values) == {
        "GREATER THAN 2000",
        "GREATER THAN 500",
        "GREATER THAN 50",
        "LESS THAN 0.4",
        "LESS THAN 0.01",
        "UNABLE TO REPORT",
    }


def test_an_infusion_whose_rate_changes_is_not_stopped_in_between(observations):
    drug = observations[observations["variable"] == "221906"]
    stops = drug[drug["value"].astype(str) == "0"]
    rates = drug[drug["value"].astype(str) != "0"]
    assert len(stops) > 30 and len(rates) > 200
    assert not set(stops.set_index(["stay_id", "observed_at", "available_at"]).index) & set(
        rates.set_index(["stay_id", "observed_at", "available_at"]).index
    )


def test_a_stop_without_a_unit_is_a_rate_of_none(demo, observations):
    with demo.connect() as connection:
        query = (
            "select i.icustay_id::text as stay_id, itemid::text as variable, charttime as observed_at, rateuom"
            " from mimiciii.inputevents_cv c join mimiciii.icustays i using (icustay_id)"
            " where stopped in ('Stopped', 'D/C''d') and itemid in (30042, 30043, 30051, 30120, 30125, 30128)"
            " and charttime >= i.intime and charttime < i.outtime"
        )
        stops = pd.read_sql_query(text(query), connection)
    stops["observed_at"] = stops["observed_at"].dt.tz_localize("UTC")
    found = stops.merge(observations, on=["stay_id", "variable", "observed_at"])
    assert found["rateuom"].isna().sum() > 30 and len(found) >= len(stops)
    assert set(found["unit"]) <= {"mcgkgmin", "Umin"}
    assert set(found.groupby(["stay_id", "variable", "observed_at"])["value"].agg(lambda v: min(map(float, v)))) == {0}


def test_urine_of_several_ways_out_is_added_up_as_far_as_it_was_stored(demo, observations):
    ways = [line["variable"] for line in concept_map("mimic_iii") if line["concept"] == "urine"]
    with demo.connect() as connection:
        query = (
            "select subject_id, charttime, sum(cast(value as numeric)) as urine, count(*) as ways"
            " from mimiciii.outputevents"
            f" where itemid in ({', '.join(filter(str.isdigit, ways))}) group by 1, 2"
        )
        charted = pd.read_sql_query(text(query), connection).query("ways > 1")
    assert len(charted) == 7
    urine = observations[observations["variable"] == "urine of all ways out"].astype({"value": float})
    last = urine.sort_values("available_at").groupby(["stay_id", "observed_at"])["value"].last().reset_index()
    charted["observed_at"] = charted["charttime"].dt.tz_localize("UTC")
    both = charted.merge(last, on="observed_at")
    assert len(both) >= 5 and (both["value"] == both["urine"]).all()
    assert not urine.duplicated(["stay_id", "observed_at", "available_at"]).any()


# --------------------------------------------------------------------------------------------------------- known then


# Without the rows of later, and of the rows that stay without what was written into them later.
CUT_OFF = {
    "icustays": "intime <= :t",
    "transfers": "intime <= :t",
    "chartevents": "greatest(storetime, charttime) <= :t",
    "labevents": "charttime <= :t",
    "outputevents": "greatest(storetime, charttime) <= :t",
    "inputevents_cv": "greatest(storetime, charttime) <= :t",
    "inputevents_mv": "greatest(storetime, starttime) <= :t",
}


def truncate_to(engine, schema, moment):
    """What the hospital's tables held at `moment`."""
    moment = {"t": moment.replace(tzinfo=None)}
    with engine.begin() as connection:
        connection.execute(text(f"drop schema if exists {schema} cascade; create schema {schema}"))
        for table in loader.TABLES:
            query = (
                f"create table {schema}.{table} as select * from mimiciii.{table} where {CUT_OFF.get(table, 'true')}"
            )
            connection.execute(text(query), moment)
        connection.execute(text(f"update {schema}.icustays set outtime = null, los = null where outtime > :t"), moment)
        for column in ("dischtime", "deathtime"):
            connection.execute(text(f"update {schema}.admissions set {column} = null where {column} > :t"), moment)


def moments(stays):
    """A time in a stay whose patient will die, one between death and charted end, and one in the middle of a long stay."""
    died = stays[stays["outcome"] == "died"].sort_values("intime")
    late = died[died["outtime"] - died["died_at"] > 2 * HOUR].iloc[0]
    long = stays[stays["outtime"] - stays["intime"] > pd.Timedelta(days=10)].iloc[0]
    found = (died["died_at"].iloc[0] - 3 * HOUR, late["died_at"] + HOUR, long["intime"] + pd.Timedelta(days=5))
    return [moment.to_pydatetime() for moment in found]


def test_a_slice_depends_only_on_rows_known_by_its_end(demo, stays):
    """The tables cut off at a moment, later ends blanked, give the rows that the whole tables give up to it."""
    for moment in moments(stays):
        truncate_to(demo, "cut_off", moment)
        for which in ("stays", "observations"):
            since = moment - timedelta(days=40)
            whole = sorted_rows(read(demo, "mimic_iii", which, since=since, until=moment))
            then = read(demo, adapter_at("mimic_iii", "cut_off"), which, since=since, until=moment)
            pd.testing.assert_frame_equal(sorted_rows(then), whole)
            assert len(whole) > (0 if which == "stays" else 100)


@pytest.mark.soak
@pytest.mark.parametrize("which", ["stays", "observations"])
def test_slices_together_are_one_pass(demo, stays, which):
    begin = stays["intime"].sort_values().iloc[60].to_pydatetime()
    edges = [begin + timedelta(hours=hour) for hour in range(6)] + [
        begin + timedelta(days=900 * n) for n in range(1, 6)
    ]
    check_slices_are_one_pass(demo, adapter_at("mimic_iii"), which, edges)


# ------------------------------------------------------------------------------------------------------ other engines


@pytest.fixture(scope="module")
def few_patients(mimic_iii_folder):
    """Every seventh patient's rows of each table, and all items."""
    tables = {}
    for name in loader.TABLES:
        table = loader.read_table(loader.find(mimic_iii_folder, name))
        if "subject_id" in table.column_names:
            sevens = pc.multiply(pc.divide(table["subject_id"], 7), 7)
            table = table.filter(pc.equal(table["subject_id"], sevens))
        tables[name] = table
    return tables


@pytest.mark.soak
@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_other_engines_give_the_rows_that_postgresql_gives(few_patients, versions, observations, tmp_path, dialect):
    engine = open_engine(f"{dialect}:///{tmp_path / 'mimic3.db'}")
    loader.fill(engine, few_patients.items(), "main")
    for which, whole in (("stays", versions), ("observations", observations)):
        found = comparable(read(engine, "mimic_iii", which, "main"))
        subjects = set(few_patients["icustays"]["icustay_id"].to_pylist())
        wanted = comparable(whole[whole["stay_id"].astype(int).isin(subjects)])
        pd.testing.assert_frame_equal(found, wanted[found.columns])
        assert len(found) > 40
    check_what_has_no_time(engine)


def check_what_has_no_time(engine):
    """A stay without a begin is returned to be quarantined, whether it has an end or not; a value without a time is counted."""
    assert untimed(engine, adapter_at("mimic_iii", "main")) == {}
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into icustays (icustay_id, subject_id, hadm_id, first_careunit, intime, outtime) values"
            " (1, 2, 3, 'MICU', null, null), (2, 2, 3, 'MICU', null, '2130-01-01 00:00:00'),"
            " (3, 2, 3, 'MICU', '2130-01-01 00:00:00', null)"
        )
        connection.exec_driver_sql("insert into chartevents (subject_id, itemid, valuenum) values (2, 211, 80)")
    known = set(read(engine, "mimic_iii", "stays", "main")["stay_id"])
    assert known & set("123") == {"3"}, "a stay without a row of its admission is one"
    found = read(engine, "mimic_iii", "stays", "main", since=FROM_THE_BEGINNING).set_index("stay_id")
    assert found.loc[["1", "2"], ["intime", "outtime"]].notna().to_numpy().tolist() == [[False, False], [False, True]]
    assert untimed(engine, adapter_at("mimic_iii", "main")) == {"chartevents": (1, 1)}


def comparable(frame):
    """All as text, numbers to 12 digits, since engines write them in different lengths; sorted."""
    shown = {}
    for name, column in frame.items():
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            shown[name] = column.dt.strftime("%Y-%m-%d %H:%M:%S").astype(object)
        else:
            number = pd.to_numeric(column, errors="coerce")
            shown[name] = column.astype(object).where(number.isna(), number.map(lambda n: f"{n:.12g}"))
    return sorted_rows(pd.DataFrame(shown).fillna("").astype(str))


# ------------------------------------------------------------------------------------------------- what the card says


def test_the_demo_has_nothing_without_a_time(demo):
    assert untimed(demo, adapter_at("mimic_iii")) == {}
    from_the_beginning = read(demo, "mimic_iii", "stays", since=FROM_THE_BEGINNING, until=BEGINNING)
    assert from_the_beginning.empty


def test_the_selects_need_only_what_the_card_names(demo):
    check_named_columns(demo, adapter_at("mimic_iii"))


def test_a_slice_reads_no_large_table_whole(demo):
    """With the loader's indices the planner enters each large table by time; a sequential scan would fail this."""
    hour = datetime(2150, 1, 1, tzinfo=UTC)
    whole = sequential_scans(adapter_at("mimic_iii"), demo, hour, hour + timedelta(hours=1))
    assert whole.keys() <= {"icustays", "admissions", "patients", "transfers"}


def test_a_source_on_another_clock_is_read_by_that_clock(demo, versions):
    boston = read(demo, adapter_at("mimic_iii", timezone="America/New_York"), "stays", since=BEGINNING, until=END)
    behind = (newest(boston)["intime"] - newest(versions)["intime"]) / HOUR
    # The rules of summer time are not known for the centuries into which the dates were moved.
    assert set(behind) == {5.0}
