"""The source that benchmarks make up: as large as was asked for, and the adapter reads of it what it should."""

from collections import Counter
from datetime import timedelta

import pytest
import turning
from sqlalchemy import text

from benchmarks import large_source, reading
from benchmarks.turns import take_turns
from sql.intake.adapter import load_adapter
from sql.intake.catalogue import check_source
from sql.intake.reading import BEGINNING, read_observations, read_stays
from sql.store.engine import open_engine, read_only

ROWS = 20_000
STAYS = ROWS // large_source.CHARTED_PER_STAY


@pytest.fixture(scope="module")
def source(make_database):
    engine = open_engine(make_database("large_source"))
    large_source.generate(engine, ROWS)
    return read_only(engine)


def read(reader, engine) -> list[dict]:
    until = large_source.LAST + timedelta(days=31)
    return [row for rows in reader(load_adapter("mimic_iv"), engine, BEGINNING, until) for row in rows.to_pylist()]


def test_it_has_the_tables_of_the_adapter_and_the_rows_that_were_asked_for(source):
    check_source(load_adapter("mimic_iv"), source)
    with source.connect() as connection:
        counts = {
            table: connection.execute(text(f"select count(*) from {schema}.{table}")).scalar_one()
            for schema, table, _ in load_adapter("mimic_iv").relations()
        }
    assert counts == {
        "icustays": STAYS,
        "admissions": STAYS,
        "patients": STAYS,
        "transfers": 2 * STAYS,
        "chartevents": ROWS,
        "labevents": ROWS // 8,
        "inputevents": 20 * STAYS,
        "outputevents": 50 * STAYS,
    }


def test_the_adapter_reads_every_mapped_value_once_and_places_it_in_its_stay(source):
    found = Counter(row["variable"] for row in read(read_observations, source))
    rounds, draws, items = 50 * STAYS, 10 * STAYS, set(load_adapter("mimic_iv").items())
    charted = Counter(str(i.itemid) for i in large_source.CHARTED if i.itemid in items)
    drawn = [str(i.itemid) for i in large_source.DRAWN if i.itemid in items]
    expected = {variable: n * rounds for variable, n in charted.items()} | dict.fromkeys(drawn, draws)
    expected |= {f"{i.itemid} arterial": draws for i in large_source.GASES}
    expected |= {"gcs total of parts": rounds, "ventilation": rounds, "urine of all ways out": 25 * STAYS}
    # The rates of the bags, and one stop for the last of each drug.
    expected |= {"221906": 11 * STAYS, "222315": 6 * STAYS}
    assert found == expected


def test_about_half_of_what_is_charted_is_not_in_the_map(source):
    items = set(load_adapter("mimic_iv").items())
    assert 0.4 < sum(i.itemid in items for i in large_source.CHARTED) / len(large_source.CHARTED) < 0.6


def test_what_is_charted_lies_in_the_past_and_is_known_some_minutes_later(source):
    rows = read(read_observations, source)
    assert max(row["available_at"] for row in rows) < large_source.LAST + timedelta(days=7)
    late = [row["available_at"] - row["observed_at"] for row in rows if row["variable"] == "220045"]
    assert timedelta(minutes=1) <= min(late) < max(late) <= timedelta(minutes=45)


def test_every_stay_has_its_admission_and_its_end(source):
    stays = read(read_stays, source)
    assert len({row["stay_id"] for row in stays}) == STAYS
    assert len({row["stay_id"] for row in stays if row["outtime"]}) == STAYS
    assert {row["stay_id"] for row in stays if row["outcome"] == "died"} == {"30000000"}


def test_pandas_reads_the_newest_part_of_a_source_that_would_not_fit_in_memory():
    begin, known = reading.AS_OF - timedelta(days=100), reading.Measured(1, 1, start_kib=0, peak_kib=2**40)
    since, share = reading._what_fits(begin, 10, known, 1)
    assert 0 < share < 1
    assert since == reading.AS_OF - share * timedelta(days=100)
    assert reading._what_fits(begin, 10, reading.Measured(1, 1, start_kib=0, peak_kib=1), 1) == ("begin", 1)
    assert reading._what_fits(begin, 1, None, 1) == ("begin", 1)


@pytest.mark.soak
def test_contenders_take_turns_and_a_fault_of_one_ends_the_comparison():
    turns = take_turns({"a": turning.rests, "b": turning.rests}, rounds=2)
    assert [(one.found, len(one.seconds)) for one in turns.values()] == [("found", 2)] * 2
    assert all((one.seconds >= 0.02).all() and one.peak_gb > 0 for one in turns.values())
    for fault, sentence in ((turning.fails, "no such network"), (turning.dies, "its process ended without an answer")):
        with pytest.raises(RuntimeError, match=rf"(?s)b: .*{sentence}"):
            take_turns({"a": turning.rests, "b": fault}, rounds=1)
