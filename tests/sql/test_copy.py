from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from sqlalchemy import text

from sql.store.copy import BATCH_ROWS, copy_arrow
from sql.store.engine import open_engine


@pytest.fixture(scope="module")
def engine(make_database):
    engine = open_engine(make_database("copy"))
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine):
    """A transaction that is rolled back, in a session whose time zone is not UTC."""
    with engine.connect() as connection:
        connection.execute(text("set local timezone = 'America/New_York'"))
        yield connection


def column_back(connection, column_type, values):
    """`values` after a round trip through a column of `column_type`."""
    connection.execute(text("drop table if exists round_trip"))
    connection.execute(text(f"create table round_trip (number int, v {column_type})"))
    data = pa.table({"number": range(len(values)), "v": values})
    assert copy_arrow(connection, "public.round_trip", data) == len(values)
    return list(connection.execute(text("select v from round_trip order by number")).scalars())


def test_null_and_the_empty_string_stay_apart(connection):
    values = [None, "", " ", "NULL", "\\N", "null"]
    assert column_back(connection, "text", pa.array(values)) == values


def test_text_with_quotes_commas_newlines_and_backslashes_arrives_as_it_is(connection):
    values = ['say "ah"', '""', "a,b", "two\nlines", "two\r\nlines", "\\.", "a\n\\.\nb", "tab\t", "10^3/µL", "a\\b"]
    assert column_back(connection, "text", pa.array(values)) == values


ARROW_TEXT = [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("arrow", ARROW_TEXT, ids=str)
def test_every_kind_of_arrow_text_is_taken(connection, arrow):
    assert column_back(connection, "text", pa.array(["x", None, ""], pa.string()).cast(arrow)) == ["x", None, ""]


def test_numbers_and_truth_values_arrive_exactly(connection):
    numbers = [0.1 + 0.2, -1e-300, 1.7976931348623157e308, 3.0, None]
    assert column_back(connection, "double precision", pa.array(numbers)) == numbers
    whole = [2**62, -1, None]
    assert column_back(connection, "bigint", pa.array(whole)) == whole
    assert column_back(connection, "boolean", pa.array([True, False, None])) == [True, False, None]


def test_not_a_number_does_not_become_null(connection):
    (back,) = column_back(connection, "double precision", pa.array([float("nan")]))
    assert back != back


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_time_without_a_zone_is_utc_whatever_the_session_thinks(connection, unit):
    moment = datetime(2031, 7, 1, 13, 5, 7, tzinfo=UTC)
    naive = pa.array([moment.replace(tzinfo=None), None], pa.timestamp(unit))
    assert column_back(connection, "timestamptz", naive) == [moment, None]


def test_a_time_with_a_zone_keeps_its_moment_to_the_microsecond(connection):
    moment = datetime(2031, 7, 1, 13, 5, 7, 123456, tzinfo=UTC)
    for zone in ("UTC", "Europe/Berlin", "+05:30"):
        assert column_back(connection, "timestamptz", pa.array([moment], pa.timestamp("us", zone))) == [moment]


def test_names_that_need_quotes_are_quoted(connection):
    connection.execute(text('create schema "Odd schema"; create table "Odd schema"."a""b" ("Select" int, "x,y" text)'))
    assert copy_arrow(connection, 'Odd schema.a"b', pa.table({"x,y": ["t"], "Select": [1]})) == 1
    assert connection.execute(text('select "Select", "x,y" from "Odd schema"."a""b"')).all() == [(1, "t")]


def test_columns_are_filled_by_name_in_every_batch(connection):
    connection.execute(text("create table named (a int, b int, c int default 7)"))
    batches = [pa.record_batch({"b": [2], "a": [1]}), pa.record_batch({"a": [3], "b": [4]})]
    assert copy_arrow(connection, "named", iter(batches)) == 2
    assert connection.execute(text("select * from named order by a")).all() == [(1, 2, 7), (3, 4, 7)]


def test_no_batches_and_empty_batches_add_no_rows(connection):
    connection.execute(text("create table nothing (a int)"))
    assert copy_arrow(connection, "nothing", []) == 0
    assert copy_arrow(connection, "nothing", pa.table({"a": pa.array([], pa.int64())})) == 0
    assert copy_arrow(connection, "nothing", [pa.record_batch({"a": pa.array([], pa.int64())})]) == 0


def test_more_rows_than_one_batch_all_arrive(connection):
    connection.execute(text("create table many (n bigint)"))
    rows = 2 * BATCH_ROWS + 3
    assert copy_arrow(connection, "many", pa.table({"n": range(rows)})) == rows
    assert connection.execute(text("select count(distinct n), max(n) from many")).one() == (rows, rows - 1)


def test_rows_appear_with_the_commit_of_the_connection_and_not_before(engine):
    with engine.begin() as connection:
        connection.execute(text("create table mine (a int)"))
    data = pa.table({"a": [1, 2]})
    with engine.connect() as writer, engine.connect() as reader:
        copy_arrow(writer, "mine", data)
        assert reader.execute(text("select count(*) from mine")).scalar() == 0
        writer.rollback()
        copy_arrow(writer, "mine", data)
        writer.commit()
        assert reader.execute(text("select count(*) from mine")).scalar() == 2


def test_a_value_the_column_cannot_hold_leaves_no_row(engine):
    with engine.begin() as connection:
        connection.execute(text("create table strict (at timestamptz not null)"))
    moments = pa.array([datetime(2031, 1, 1, tzinfo=UTC) + timedelta(hours=1), None])
    with pytest.raises(Exception, match="not-null"), engine.begin() as connection:
        copy_arrow(connection, "strict", pa.table({"at": moments}))
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from strict")).scalar() == 0
