from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from builders_source import (
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
from sql.loaders import clif as loader
from sql.store.engine import open_engine

TABLES = list(loader.TABLES)


@pytest.fixture(scope="module")
def clif(make_database, clif_schemas):
    """A database with the demo as published and re-anchored, in the schemas `published` and `moved`."""
    engine = open_engine(make_database("clif_source", clif_schemas[0]))
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def clif_versions(clif):
    return read(clif, "clif", "stays", "published")


@pytest.fixture(scope="module")
def clif_stays(clif_versions):
    return newest(clif_versions)


@pytest.fixture(scope="module")
def clif_observations(clif):
    return read(clif, "clif", "observations", "published")


def test_selects_the_columns_of_a_stay_version(clif_versions):
    assert set(clif_versions.columns) == {*STAY_COLUMNS, "available_at"} - {"source"}
    assert not clif_versions.duplicated(["stay_id", "available_at"]).any()


def test_words_are_those_of_the_contract(clif_stays):
    for column, allowed in (("unit_type", UNIT_TYPES), ("sex", SEXES), ("outcome", OUTCOMES)):
        assert set(clif_stays[column]) <= set(allowed) and clif_stays[column].notna().all()
    assert set(clif_stays["admission_type"]) == {"emergency", "elective"} <= set(ADMISSION_TYPES)
    assert set(clif_stays["ends_at"]) == {"unit"}
    trauma = clif_stays["unit"].str.contains("Trauma")
    assert (clif_stays.loc[trauma, "unit_type"] == "trauma").all() and trauma.sum() == 18


def test_demo_has_155_stays_of_100_patients_over_535_days(clif_stays):
    assert (len(clif_stays), clif_stays["patient_id"].nunique()) == (155, 100)
    days = (clif_stays["outtime"] - clif_stays["intime"]) / pd.Timedelta(days=1)
    assert days.sum() == pytest.approx(534.69, abs=0.01) and days.min() > 0


def test_13_of_17_deaths_end_a_stay_and_4_come_after_it(clif, clif_stays):
    with clif.connect() as connection:
        query = "select count(*) from published.hospitalization where discharge_category = 'Expired'"
        assert connection.execute(text(query)).scalar() == 17
    assert clif_stays["outcome"].value_counts().to_dict() == {"alive": 142, "died": 13}
    died = clif_stays[clif_stays["outcome"] == "died"]
    early = (died["outtime"] - died["died_at"]) / HOUR
    assert early.between(1, 27.1).all()
    later = clif_stays[(clif_stays["outcome"] == "alive") & clif_stays["died_at"].notna()]
    last = later.sort_values("intime").groupby(later["patient_id"]).tail(1)
    last = last[~last["patient_id"].isin(died["patient_id"])]
    assert len(last) == 4 and (last["died_at"] - last["outtime"] > HOUR).all()


def test_a_death_before_the_charted_end_is_known_when_it_happened(clif_versions, clif_stays):
    died = clif_stays.index[clif_stays["outcome"] == "died"]
    versions = clif_versions[clif_versions["stay_id"].isin(died)].sort_values("available_at")
    first = versions[versions["outcome"] == "died"].groupby("stay_id").head(1)
    assert len(first) == 13
    assert (first["available_at"] == first["died_at"]).all() and (first["outtime"] == first["died_at"]).all()
    charted = newest(versions)
    assert (charted["available_at"] == charted["outtime"]).all()


def test_no_version_tells_a_time_that_had_not_come(clif_versions):
    for column in ("intime", "outtime", "hospital_outtime", "died_at"):
        reported = clif_versions[column].notna()
        assert (clif_versions.loc[reported, column] <= clif_versions.loc[reported, "available_at"]).all(), column
    admission = clif_versions["available_at"] == clif_versions["intime"]
    assert admission.sum() == 155
    assert clif_versions.loc[admission, ["outtime", "outcome", "died_at"]].isna().all(axis=None)


def truncate_to(engine, schema, moment):
    """Rebuild `schema` as what a hospital's tables, here those of `moved`, held at `moment`."""
    known = {
        "adt": "in_dttm <= :t",
        "labs": "greatest(lab_result_dttm, lab_collect_dttm) <= :t",
        "medication_admin_continuous": "admin_dttm <= :t",
        "hospitalization": "true",
        "patient": "true",
    }
    with engine.begin() as connection:
        connection.execute(text(f"drop schema if exists {schema} cascade"))
        connection.execute(text(f"create schema {schema}"))
        for table in TABLES:
            condition = known.get(table, "recorded_dttm <= :t")
            connection.execute(text(f"create table {schema}.{table} (like moved.{table} including indexes)"))
            query = f"insert into {schema}.{table} select * from moved.{table} where {condition}"
            connection.execute(text(query), {"t": moment})
        connection.execute(text(f"update {schema}.adt set out_dttm = null where out_dttm > :t"), {"t": moment})
        query = "set discharge_dttm = null, discharge_category = null where discharge_dttm > :t"
        connection.execute(text(f"update {schema}.hospitalization {query}"), {"t": moment})


def interesting_moments(versions):
    """A death whose ICU row is still open, a patient out for some minutes who comes back, and any busy hour."""
    final = newest(versions)
    died = final[(final["outcome"] == "died") & (final["outtime"] - final["died_at"] > 2 * HOUR)]
    reopened = versions[versions["outtime"].isna() & (versions["available_at"] > versions["intime"])]
    reopened = reopened[reopened["hospital_outtime"].isna()]
    return [
        (died["died_at"].iloc[0] + HOUR).to_pydatetime(),
        (reopened["available_at"].iloc[0] - pd.Timedelta(minutes=1)).to_pydatetime(),
        loader.ANCHOR + timedelta(days=13, hours=7),
    ]


def test_a_slice_depends_only_on_rows_known_by_its_end(clif):
    """The tables cut off at a moment, later ends blanked, give the rows that the whole tables give up to it."""
    for moment in interesting_moments(read(clif, "clif", "stays", "moved")):
        truncate_to(clif, "cut_off", moment)
        for which in ("stays", "observations"):
            whole = sorted_rows(read(clif, "clif", which, "moved", until=moment))
            pd.testing.assert_frame_equal(sorted_rows(read(clif, "clif", which, "cut_off")), whole)
            assert len(whole) > 50


@pytest.mark.parametrize("which", ["stays", "observations"])
def test_slices_together_are_one_pass(clif, which):
    """Hours through half a day, then days and odd parts of days, then the rest."""
    edges = [loader.ANCHOR + timedelta(days=8, hours=hour) for hour in range(13)]
    edges += [edges[-1] + timedelta(days=1.37 * step) for step in range(1, 20)]
    check_slices_are_one_pass(clif, adapter_at("clif", "moved"), which, edges)


def test_every_observation_lies_in_its_own_stay_or_up_to_24_hours_before(clif_observations, clif_stays):
    intime = clif_observations["stay_id"].map(clif_stays["intime"])
    before = intime - clif_observations["observed_at"]
    assert before.max() <= pd.Timedelta(hours=24)
    assert (clif_observations["observed_at"] < clif_observations["stay_id"].map(clif_stays["outtime"])).all()
    assert (clif_observations["available_at"] >= intime).all()
    assert (clif_observations["available_at"] >= clif_observations["observed_at"]).all()
    assert (before > pd.Timedelta(0)).sum() > 1000


def test_every_charted_value_belongs_to_the_one_stay_it_should(clif, clif_stays, clif_observations):
    """Heart rates assigned a second time, in pandas: the stay they lie in, else the next within 24 hours."""
    with clif.connect() as connection:
        query = "select hospitalization_id, recorded_dttm, vital_value from published.vitals"
        rates = pd.read_sql_query(text(query + " where vital_category = 'heart_rate'"), connection)
    stays = clif_stays.reset_index().assign(hospitalization_id=lambda d: d["stay_id"].str.split("-").str[0])
    pairs = rates.reset_index().merge(stays, on="hospitalization_id")
    pairs = pairs[pairs["recorded_dttm"] < pairs["outtime"]]
    pairs["before"] = (pairs["intime"] - pairs["recorded_dttm"]).clip(lower=pd.Timedelta(0))
    pairs = pairs[pairs["before"] <= pd.Timedelta(hours=24)].sort_values("before").drop_duplicates("index")
    selected = clif_observations[clif_observations["variable"] == "heart_rate"]
    columns = ["stay_id", "observed_at", "value"]
    expected = pairs.rename(columns={"recorded_dttm": "observed_at", "vital_value": "value"})[columns]
    found = selected[columns].astype({"value": "float64"})
    assert sorted(found.itertuples(index=False, name=None)) == sorted(expected.itertuples(index=False, name=None))


def test_values_per_variable_are_those_of_the_demo(clif_observations):
    assert len(clif_observations) == 161_789
    counts = clif_observations["variable"].value_counts()
    assert counts["sbp invasive"] == 6007 and counts["sbp"] == 8857
    assert counts["mechanical_ventilation"] == 2505 and counts["norepinephrine"] == 1033


def test_a_laboratory_value_is_known_with_its_result(clif_observations, clif_stays):
    labs = clif_observations[clif_observations["variable"] == "sodium"]
    inside = labs[labs["observed_at"] > labs["stay_id"].map(clif_stays["intime"])]
    delay = (inside["available_at"] - inside["observed_at"]) / HOUR
    assert 0.5 < delay.median() < 2 and (delay > 0).mean() > 0.99


def test_numbers_survive_masked_text_and_text_without_a_number_is_passed_on(clif_observations):
    some = clif_observations["variable"].isin(["glucose_serum", "platelet_count", "ptt", "inr"])
    value = clif_observations.loc[some, "value"]
    number = pd.to_numeric(value, errors="coerce").notna()
    assert (~number).sum() == 23 and number.sum() > 3000
    assert value[~number].str.match("___|UNABLE TO REPORT").all()


def test_changing_a_bag_does_not_stop_the_drug(clif, clif_observations):
    """Two orders of this patient overlap by ten minutes; the first one's stop is charted while the second runs."""
    drug = clif_observations[
        clif_observations["stay_id"].str.startswith("22987108-") & (clif_observations["variable"] == "norepinephrine")
    ].set_index("observed_at")["value"]
    assert pd.Timestamp("2146-06-23 12:20", tz="UTC") not in drug.index
    assert float(drug[pd.Timestamp("2146-06-23 12:10", tz="UTC")]) > 0
    assert not drug.index.duplicated().any()
    assert float(drug.sort_index().iloc[-1]) == 0


def test_maps_or_sets_aside_every_variable_and_unit_of_the_demo(clif_observations):
    known = {(line["variable"], line["unit"]) for line in concept_map("clif")}
    found = set(clif_observations[["variable", "unit"]].fillna("").itertuples(index=False, name=None))
    assert {(v, u) for v, u in found if (v, "*") not in known and (v, u) not in known} == set()
    assert {v for v, _ in found} <= {v for v, _ in known}


def test_units_after_conversion_are_those_of_the_concepts(clif_observations):
    plausible, median = judge_units(clif_observations, "clif")
    assert plausible.drop("height").min() > 0.97, plausible[plausible <= 0.97].to_dict()
    assert 1.0 < median["calcium_ionized"] < 1.3
    assert 0.005 < median["troponin_t"] < 0.5
    assert 0.3 < median["fio2"] < 0.6


def hand_made_clif(engine, adt, discharge_category, discharge):
    """One hospitalization whose `adt` rows are (unit, in hour, out hour); the versions and the engine's schema."""
    start = datetime(2031, 1, 1, tzinfo=UTC)
    with engine.begin() as connection:
        connection.execute(text("drop schema if exists made cascade; create schema made"))
        for table in TABLES:
            connection.execute(text(f"create table made.{table} (like published.{table})"))
        connection.execute(text("insert into made.patient (patient_id, sex_category) values ('p', 'Female')"))
        connection.execute(
            text(
                "insert into made.hospitalization (patient_id, hospitalization_id, admission_dttm, discharge_dttm, "
                "discharge_category, age_at_admission, admission_type_category) "
                "values ('p', 'h', :start, :discharge, :category, 50, 'direct')"
            ),
            {
                "start": start,
                "discharge": None if discharge is None else start + timedelta(hours=discharge),
                "category": discharge_category,
            },
        )
        for unit, begin, end in adt:
            connection.execute(
                text(
                    "insert into made.adt (patient_id, hospitalization_id, in_dttm, out_dttm, location_name, "
                    "location_category, location_type) values ('p', 'h', :begin, :end, :unit, 'icu', 'medical_icu')"
                ),
                {
                    "unit": unit,
                    "begin": start + timedelta(hours=begin),
                    "end": None if end is None else start + timedelta(hours=end),
                },
            )
    versions = read(engine, "clif", "stays", "made").sort_values(["stay_id", "available_at"])

    def hour(column):
        return [None if pd.isna(t) else (t - pd.Timestamp(start)) / HOUR for t in versions[column]]

    outcomes = [None if pd.isna(o) else o for o in versions["outcome"]]
    return list(zip(versions["stay_id"], hour("available_at"), hour("intime"), hour("outtime"), outcomes, strict=True))


def test_a_stop_without_a_unit_is_a_rate_of_none(clif):
    hand_made_clif(clif, [("A", 1, None)], None, None)
    rows = [("norepinephrine", 2, "start", 0.1, "mcg/kg/min"), ("norepinephrine", 5, "stop", None, " ")]
    rows += [("vasopressin", 2, "start", 1.8, "units/hour"), ("vasopressin", 6, "stop", None, None)]
    rows += [("dopamine", 2, "start", 5.0, None)]
    with clif.begin() as connection:
        for drug, hour, action, dose, unit in rows:
            connection.execute(
                text(
                    "insert into made.medication_admin_continuous (hospitalization_id, med_group, med_order_id,"
                    " med_category, admin_dttm, mar_action_category, med_dose, med_dose_unit)"
                    " values ('h', 'vasoactives', :drug, :drug, :at, :action, :dose, :unit)"
                ),
                {
                    "drug": drug,
                    "at": datetime(2031, 1, 1, hour, tzinfo=UTC),
                    "action": action,
                    "dose": dose,
                    "unit": unit,
                },
            )
    found = read(clif, "clif", "observations", "made").sort_values(["variable", "observed_at"])
    assert list(zip(found["variable"], found["unit"].fillna(""), found["value"].astype(float), strict=True)) == [
        ("dopamine", "", 5.0),
        ("norepinephrine", "mcg/kg/min", 0.1),
        ("norepinephrine", "mcg/kg/min", 0.0),
        ("vasopressin", "units/hour", 1.8),
        ("vasopressin", "units/hour", 0.0),
    ]


# Rows of adt, category and hour of the discharge; then (stay, known at hour, intime, outtime, outcome) of each version.
HAND_MADE = {
    "an open stay has one open version": ([("A", 1, None)], None, None, [("h-1", 1, 1, None, None)]),
    "a row that joins the last one goes on with its stay": (
        [("A", 1, 5), ("A", 5, 9)],
        "Home",
        20,
        [("h-1", 1, 1, None, None), ("h-1", 9, 1, 9, "alive"), ("h-1", 20, 1, 9, "alive")],
    ),
    "a return within an hour opens the stay again": (
        [("A", 1, 5), ("A", 6, 9)],
        None,
        None,
        [("h-1", 1, 1, None, None), ("h-1", 5, 1, 5, "alive"), ("h-1", 6, 1, None, None), ("h-1", 9, 1, 9, "alive")],
    ),
    "a return after more than an hour is another stay": (
        [("A", 1, 5), ("A", 6.1, None)],
        None,
        None,
        [("h-1", 1, 1, None, None), ("h-1", 5, 1, 5, "alive"), ("h-2", 6.1, 6.1, None, None)],
    ),
    "another unit is another stay": (
        [("A", 1, 5), ("B", 5, 9)],
        None,
        None,
        [("h-1", 1, 1, None, None), ("h-1", 5, 1, 5, "alive"), ("h-2", 5, 5, None, None), ("h-2", 9, 5, 9, "alive")],
    ),
    "a death ends the last stay only": (
        [("A", 1, 5), ("B", 5, 9)],
        "Expired",
        5.5,
        [
            ("h-1", 1, 1, None, None),
            ("h-1", 5, 1, 5, "alive"),
            ("h-1", 5.5, 1, 5, "alive"),
            ("h-2", 5, 5, None, None),
            ("h-2", 5.5, 5, 5.5, "died"),
            ("h-2", 9, 5, 9, "died"),
        ],
    ),
    "a death at the charted end is one version": (
        [("A", 1, 5)],
        "Expired",
        5,
        [("h-1", 1, 1, None, None), ("h-1", 5, 1, 5, "died")],
    ),
    "a death in an open row ends the stay": (
        [("A", 1, None)],
        "Expired",
        5,
        [("h-1", 1, 1, None, None), ("h-1", 5, 1, 5, "died")],
    ),
    "a death within an hour after the end corrects the outcome": (
        [("A", 1, 5)],
        "Expired",
        5.9,
        [("h-1", 1, 1, None, None), ("h-1", 5, 1, 5, "alive"), ("h-1", 5.9, 1, 5, "died")],
    ),
    "a death later than an hour after the end leaves the unit's outcome": (
        [("A", 1, 5)],
        "Expired",
        6.1,
        [("h-1", 1, 1, None, None), ("h-1", 5, 1, 5, "alive"), ("h-1", 6.1, 1, 5, "alive")],
    ),
    "a discharge before the charted end does not end the stay": (
        [("A", 1, 5)],
        "Home",
        4,
        [("h-1", 1, 1, None, None), ("h-1", 4, 1, None, None), ("h-1", 5, 1, 5, "alive")],
    ),
    "a death as a joining row begins ends the stay": (
        [("A", 1, 5), ("A", 5, 9)],
        "Expired",
        5,
        [("h-1", 1, 1, None, None), ("h-1", 5, 1, 5, "died"), ("h-1", 9, 1, 9, "died")],
    ),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_versions_of_a_stay(clif, case):
    adt, category, discharge, expected = HAND_MADE[case]
    assert hand_made_clif(clif, adt, category, discharge) == expected


def test_a_row_without_a_begin_is_in_no_stay_and_a_read_from_the_beginning_returns_it(clif):
    hand_made_clif(clif, [("A", 1, 5)], "Home", None)
    before = read(clif, "clif", "stays", "made")
    with clif.begin() as connection:
        connection.exec_driver_sql(
            "insert into made.adt (patient_id, hospitalization_id, in_dttm, out_dttm, location_name, location_category)"
            " values ('p', 'h', null, '2031-01-01 09:00+00', 'A', 'icu')"
        )
    pd.testing.assert_frame_equal(read(clif, "clif", "stays", "made"), before)
    found = read(clif, "clif", "stays", "made", since=FROM_THE_BEGINNING)
    (lost,) = found[found["available_at"].isna()].to_dict("records")
    assert (lost["stay_id"], lost["patient_id"]) == ("h-without-begin", "p") and pd.isna(lost["intime"])


def test_a_stay_without_a_row_of_its_hospitalization_is_returned_to_be_quarantined(clif):
    hand_made_clif(clif, [("A", 1, 5)], "Home", None)
    with clif.begin() as connection:
        connection.exec_driver_sql("update made.adt set hospitalization_id = 'x'")
    found = read(clif, "clif", "stays", "made")
    assert found["stay_id"].tolist() == ["x-1", "x-1"] and found["patient_id"].isna().all()


def test_values_without_a_time_are_counted(clif):
    hand_made_clif(clif, [("A", 1, 5)], "Home", None)
    with clif.begin() as connection:
        connection.exec_driver_sql(
            "insert into made.vitals (hospitalization_id, vital_category, recorded_dttm, vital_value) values"
            " ('h', 'heart_rate', null, 80), ('h', 'heart_rate', 'infinity', 80), ('h', 'map', '2031-01-01 02:00+00', 80)"
        )
        connection.exec_driver_sql(
            "insert into made.labs (hospitalization_id, lab_category, lab_collect_dttm, lab_result_dttm) values"
            " ('h', 'sodium', null, null), ('h', 'sodium', null, '2031-01-01 02:00+00')"
        )
        connection.exec_driver_sql(
            "insert into made.medication_admin_continuous (hospitalization_id, med_group) values ('i', 'vasoactives')"
        )
    found = read(clif, "clif", "observations", "made")
    assert sorted(found["variable"]) == ["map", "sodium"], (
        "a result without the time of its draw is read, and quarantined"
    )
    assert untimed(clif, adapter_at("clif", "made")) == {
        "vitals": (2, 1),
        "labs": (1, 1),
        "medication_admin_continuous": (1, 1),
    }
    assert untimed(clif, adapter_at("clif", "published")) == {}


def test_the_selects_need_only_what_the_card_names(clif):
    check_named_columns(clif, adapter_at("clif", "published"))


def test_clif_3_0_gives_the_same_rows(clif, clif_versions, clif_observations):
    """A third of the demo with the words of its categories as version 3.0 writes them: lower case, underscores, some
    renamed."""
    renamed = {"High Flow NC": "hfnc", "Skilled Nursing Facility (SNF)": "snf", "glucose_fingerstick": "glucose"}
    with clif.begin() as connection:
        connection.execute(text("drop schema if exists three cascade; create schema three"))
        third = "mod(hashtext({key}), 3) = 0".format
        of_third = f"hospitalization_id in (select hospitalization_id from three.hospitalization where {third(key='patient_id')})"
        for table in ("hospitalization", *(name for name in TABLES if name != "hospitalization")):
            kept = third(key="patient_id") if table in ("hospitalization", "patient") else of_third
            connection.execute(text(f"create table three.{table} as select * from published.{table} where {kept}"))
            names = text(
                "select column_name from information_schema.columns where table_schema = 'three'"
                " and table_name = :t and column_name ~ '_(category|group|type)$' and data_type = 'text'"
            )
            for column in connection.execute(names, {"t": table}).scalars().all():
                for old, new in renamed.items():
                    connection.execute(
                        text(f"update three.{table} set {column} = :new where {column} = :old"),
                        {"old": old, "new": new},
                    )
                words = f"lower(regexp_replace(replace({column}, '&', '_and_'), '[ /-]+', '_', 'g'))"
                connection.execute(text(f"update three.{table} set {column} = {words}"))
        spelt = connection.execute(text("select distinct discharge_category from three.hospitalization")).scalars()
        assert "expired" in set(spelt)
    stays = read(clif, "clif", "stays", "three")
    for which, then in (("stays", clif_versions), ("observations", clif_observations)):
        now = read(clif, "clif", which, "three")
        same = then[then["stay_id"].isin(stays["stay_id"])]
        pd.testing.assert_frame_equal(sorted_rows(now), sorted_rows(same), check_dtype=False)
        assert len(now) > len(then) / 5


def test_a_slice_reads_no_large_table_whole(clif):
    """With the loader's indices the planner enters each large table by time; a sequential scan would fail this."""
    hour = loader.ANCHOR + timedelta(days=10)
    whole = sequential_scans(adapter_at("clif", "moved"), clif, hour, hour + timedelta(hours=1))
    assert whole.keys() <= {"adt", "hospitalization", "patient"}
