from datetime import timedelta
from itertools import pairwise

import pandas as pd
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
)
from sqlalchemy import text

from rnn_core.contracts.frames import STAY_COLUMNS
from sql.intake.adapter import load_adapter
from sql.loaders import physionet_2012 as loader
from sql.store.engine import open_engine


@pytest.fixture(scope="module")
def physionet(make_database, physionet_set_a):
    """A database with set a as published."""
    engine = open_engine(make_database("physionet_source", physionet_set_a[0]))
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def physionet_versions(physionet):
    return read(physionet, "physionet_2012", "stays", "public")


def test_stays_are_admitted_once_and_end_once(physionet_versions):
    assert set(physionet_versions.columns) == {*STAY_COLUMNS, "available_at"} - {"source"}
    admission = physionet_versions["available_at"] == physionet_versions["intime"]
    assert admission.sum() == 4000 and len(physionet_versions) == 8000
    of_the_end = ["outtime", "outcome", "died_at", "hospital_outtime"]
    assert physionet_versions.loc[admission, of_the_end].isna().all(axis=None)
    assert physionet_versions.loc[~admission, "outcome"].value_counts().to_dict() == {"alive": 3446, "died": 554}
    assert set(physionet_versions["end_precision_hours"]) == {48} and set(physionet_versions["ends_at"]) == {"hospital"}


def test_ends_are_the_published_whole_days(physionet, physionet_versions):
    with physionet.connect() as connection:
        outcome = pd.read_sql_query(text("select * from outcome"), connection)
    outcome = outcome.set_index("a-" + outcome["record_id"].astype(str))
    final = newest(physionet_versions)
    days = ((final["outtime"] - final["intime"]) / pd.Timedelta(days=1)).sort_index()
    died = outcome["in_hospital_death"] == 1
    published = outcome["length_of_stay"].where(~died, outcome["survival"] + 1).sort_index()
    pd.testing.assert_series_equal(
        days, published.where(published >= 0).clip(lower=2).astype("float64"), check_names=False, check_index_type=False
    )
    assert (days == 2).sum() == 57 and days.isna().sum() == 60


def test_a_cause_without_a_time_is_known_after_30_days(physionet_versions):
    timeless = physionet_versions[physionet_versions["outtime"].isna() & physionet_versions["outcome"].notna()]
    assert len(timeless) == 60 and set(timeless["outcome"]) == {"alive"}
    assert ((timeless["available_at"] - timeless["intime"]) == pd.Timedelta(days=30)).all()
    timed = physionet_versions[physionet_versions["outtime"].notna()]
    assert (timed["available_at"] == timed["outtime"]).all()


def test_descriptors_are_read_and_minus_one_is_missing(physionet_versions):
    stay = newest(physionet_versions)
    assert set(stay["unit_type"]) == {"medical", "surgical", "cardiac", "cardiac_surgery"}
    assert stay["height_cm"].isna().sum() == 1894 and stay["weight_kg"].isna().sum() == 326
    assert stay["sex"].isna().sum() == 3 and stay["sex"].value_counts()["male"] > 2000
    first = stay.loc["a-132539"]
    assert tuple(first[["age_years", "sex", "unit", "patient_id"]]) == (54, "female", "Surgical ICU", "a-132539")


def observation_hash(engine, since, until):
    """Number of observations of a slice and an order-free hash of them, both summed by the database."""
    select = load_adapter("physionet_2012").observations_sql.replace("{schema}", "public")
    query = f"select count(*), coalesce(sum(hash_record_extended(o, 0)), 0) from ({select}) as o"
    with engine.connect() as connection:
        return tuple(connection.execute(text(query), {"since": since, "until": until}).one())


@pytest.mark.soak
def test_slices_together_are_one_pass(physionet):
    start = loader.START
    edges = [BEGINNING, *(start + timedelta(days=31.3 * k) for k in range(14)), END]
    slices = list(pairwise(edges))
    parts = [observation_hash(physionet, *edge) for edge in slices]
    whole = observation_hash(physionet, BEGINNING, END)
    assert tuple(map(sum, zip(*parts, strict=True))) == whole and whole[0] == 1_736_420
    check_slices_are_one_pass(physionet, adapter_at("physionet_2012"), "stays", edges[1:-1])


def test_hours_of_a_day_together_are_the_day(physionet):
    day = loader.START + timedelta(days=100)
    edges = [day + timedelta(hours=hour) for hour in range(25)]
    hours = [
        read(physionet, "physionet_2012", "observations", "public", since=edge[0], until=edge[1])
        for edge in pairwise(edges)
    ]
    whole = read(physionet, "physionet_2012", "observations", since=edges[0], until=edges[-1])
    pd.testing.assert_frame_equal(sorted_rows(pd.concat([h for h in hours if len(h)])), sorted_rows(whole))
    assert len(whole) > 1000 and (whole["observed_at"] == whole["available_at"]).all()


def test_maps_its_37_variables_and_nothing_else(physionet):
    with physionet.connect() as connection:
        found = set(connection.execute(text("select distinct parameter from measurement")).scalars())
    variables = {line["variable"] for line in concept_map("physionet_2012") if line["concept"]}
    assert len(variables) == 37
    assert found - {"RecordID", "Age", "Gender", "Height", "ICUType"} == variables


def test_units_are_those_of_the_concepts(physionet):
    start = loader.START
    sample = read(physionet, "physionet_2012", "observations", until=start + timedelta(days=60))
    plausible, median = judge_units(sample, "physionet_2012")
    assert plausible.min() > 0.97, plausible[plausible <= 0.97].to_dict()
    assert 1.6 < median["magnesium"] < 2.4 and 0.3 < median["fio2"] < 0.7 and 36 < median["temperature"] < 38


def test_broken_lines_are_passed_on_to_be_quarantined(make_database, make_challenge_set):
    body = (
        "00:00,Age,x\n00:00,Gender,-1\n00:00,Weight,-1\n01:00,,12\n"
        "2h,HR,80\n49:00,HR,81\n48:59,HR,82\n00:61,HR,83\n05:00,HR\n"
        "06:00,Urine,0\n06:00,Urine,350.5\n06:00,Urine,-1\n06:01,Urine,20"
    )
    engine = open_engine(make_database("physionet_broken"))
    loader.load(engine, make_challenge_set("a", {7: body}, ["7,6,1,-1,-1,1"]), layout="together")
    start = pd.Timestamp(loader.START)
    rows = read(engine, "physionet_2012", "observations", "public")
    for column in ("observed_at", "available_at"):
        rows[column] = ((rows[column] - start) / HOUR).round(2)
    rows = rows[["variable", "value", "observed_at", "available_at"]].astype(object)
    assert set(rows.where(rows.notna(), None).itertuples(index=False, name=None)) == {
        ("", "12", 1, 1),
        ("HR", "80", None, 48),
        ("HR", "81", None, 48),
        ("HR", "82", 48.98, 48.98),
        ("HR", "83", None, 48),
        ("HR", None, 5, 5),
        ("Urine", "350.5", 6, 6),
        ("Urine", "-1", 6, 6),
        ("Urine", "20", 6.02, 6.02),
        ("Weight", "-1", 0, 0),
    }
    stay = newest(read(engine, "physionet_2012", "stays", "public")).loc["a-7"]
    assert pd.isna(stay["age_years"]) and pd.isna(stay["sex"]) and pd.isna(stay["weight_kg"]) and pd.isna(stay["unit"])
    assert stay["outcome"] == "died" and pd.isna(stay["outtime"]) and pd.isna(stay["died_at"])


def test_stays_without_outcomes_stay_open(make_database, make_challenge_set):
    engine = open_engine(make_database("physionet_open"))
    loader.load(engine, make_challenge_set("a", {7: "00:07,HR,73"}, None), withhold_outcomes=True)
    (version,) = read(engine, "physionet_2012", "stays", "public").itertuples()
    assert pd.isna(version.outtime) and pd.isna(version.outcome)


def test_the_selects_need_only_what_the_card_names(make_database, make_challenge_set):
    engine = open_engine(make_database("physionet_named"))
    loader.load(engine, make_challenge_set("a", {7: "00:07,HR,73"}, ["7,6,1,5,-1,0"]))
    check_named_columns(engine, adapter_at("physionet_2012", "public"))
