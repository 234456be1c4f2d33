from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from rnn_core.contracts.errors import ContractError, ForecastError
from sql.loaders import physionet_2012
from sql.store.engine import open_engine

START = physionet_2012.START
ONE_STAY = {7: "00:00,Age,54\n00:07,HR,73\n"}
ONE_OUTCOME = ["7,6,1,5,-1,0"]


@pytest.fixture(scope="module")
def engine(make_database, physionet_set_a):
    """Set a as published, in the schema `public`; tests load others into schemas of their own."""
    engine = open_engine(make_database("physionet_loader", physionet_set_a[0]))
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def set_a(physionet_set_a):
    """The report of the load of set a."""
    return physionet_set_a[1]


def rows(engine, sql):
    with engine.connect() as connection:
        return connection.execute(text(sql)).all()


def test_set_a_arrives_whole(engine, set_a):
    assert set_a.rows == {"record": 4000, "measurement": 1_757_980, "outcome": 4000}
    query = "select sum(in_hospital_death), count(*) filter (where length_of_stay = -1) from outcome"
    assert rows(engine, query) == [(554, 60)]


def test_a_published_file_can_be_read_back_line_by_line(engine, set_a, physionet_folder):
    name, content = next(physionet_2012._read_files(physionet_folder / "set-a.tar.gz"))
    back = rows(engine, f"select time, parameter, value from measurement where record_id = {name} order by ctid")
    assert [",".join(line) for line in back] == content.decode().splitlines()[1:]


def test_the_calendar_gives_whole_hours_of_one_year_and_says_so(engine, set_a):
    (first, last, odd, hours) = rows(
        engine,
        "select min(intime), max(intime), count(*) filter (where date_trunc('hour', intime) <> intime), "
        "count(distinct intime) from record",
    )[0]
    assert START <= first < START + timedelta(days=1)
    assert START + timedelta(days=364) < last < START + timedelta(days=365)
    assert odd == 0 and hours > 3000
    assert "have no dates" in set_a.notes[0] and "seed 0" in set_a.notes[0]


def test_lines_that_break_the_form_are_kept_as_they_are(engine, make_challenge_set):
    body = '00:00,Age,54\n01:00,,12\n2h,HR,80\n03:00,HR,\n04:00,HR\n05:00,HR,90,x\n06:00,"HR",a "b\n\n07:00,HR,95'
    report = physionet_2012.load(engine, make_challenge_set("a", {7: body}, ONE_OUTCOME), schema="broken")
    kept = rows(engine, "select record_id, set_name, time, parameter, value from broken.measurement")
    assert {row[2:] for row in kept} == {
        ("00:00", "Age", "54"),
        ("01:00", "", "12"),
        ("2h", "HR", "80"),
        ("03:00", "HR", ""),
        ("04:00", "HR", None),
        ("05:00", "HR", "90,x"),
        ("06:00", '"HR"', 'a "b'),
        ("", None, None),
        ("07:00", "HR", "95"),
    }
    assert len(kept) == 9 and {row[:2] for row in kept} == {(7, "a")}
    assert "3 lines do not have exactly three fields" in report.notes[-1]


def test_files_with_windows_line_ends_are_read_alike(engine, make_challenge_set):
    folder = make_challenge_set("a", {7: "00:07,HR,73\r\n00:37,HR,77\r\n"}, ONE_OUTCOME)
    physionet_2012.load(engine, folder, schema="windows")
    assert sorted(rows(engine, "select time, value from windows.measurement")) == [("00:07", "73"), ("00:37", "77")]


def test_a_stay_without_any_line_is_a_stay(engine, make_challenge_set):
    folder = make_challenge_set("a", {7: "", 8: "00:07,HR,73"}, ONE_OUTCOME)
    assert physionet_2012.load(engine, folder, schema="empty").rows == {"record": 2, "measurement": 1, "outcome": 1}


def test_an_unpacked_folder_reads_like_the_archive(engine, make_challenge_set):
    make_challenge_set("a", ONE_STAY, ONE_OUTCOME)
    folder = make_challenge_set("b", ONE_STAY, ONE_OUTCOME, archive=False)
    physionet_2012.load(engine, folder, schema="forms")
    of_set = "select record_id, time, parameter, value from forms.measurement where set_name = '{}' order by time"
    assert rows(engine, of_set.format("a")) == rows(engine, of_set.format("b")) != []
    alone = physionet_2012.load(engine, folder / "set-b", schema="alone")
    assert alone.rows == {"record": 1, "measurement": 2, "outcome": 1}


def test_sets_may_lie_in_several_folders_and_equal_ids_stay_apart(engine, make_challenge_set, tmp_path):
    folder = make_challenge_set("a", ONE_STAY, ONE_OUTCOME)
    make_challenge_set("c", ONE_STAY, ["7,6,1,5,3,1"])
    (tmp_path / "other").mkdir()
    for file in ("set-c.tar.gz", "Outcomes-c.txt"):
        (folder / file).rename(tmp_path / "other" / file)
    report = physionet_2012.load(engine, [folder, tmp_path / "other"], schema="several")
    assert report.rows == {"record": 2, "measurement": 4, "outcome": 2}
    deaths = rows(engine, "select set_name, record_id, in_hospital_death from several.outcome order by 1")
    assert deaths == [("a", 7, 0), ("c", 7, 1)]


def test_a_set_keeps_its_times_whichever_others_are_loaded(engine, make_challenge_set):
    files = {record: "00:07,HR,73" for record in range(50)}
    folder = make_challenge_set("a", files, [])
    make_challenge_set("b", files, [])
    intimes = "select record_id, intime from times.record where set_name = '{}' order by 1"
    physionet_2012.load(engine, folder, schema="times", seed=3)
    together = rows(engine, intimes.format("b"))
    assert together != rows(engine, intimes.format("a"))
    physionet_2012.load(engine, folder, sets=["b"], schema="times", seed=3)
    assert rows(engine, intimes.format("b")) == together
    physionet_2012.load(engine, folder, sets=["b"], schema="times", seed=4)
    assert rows(engine, intimes.format("b")) != together


def test_a_load_test_begins_all_stays_at_one_hour(engine, make_challenge_set):
    folder = make_challenge_set("a", {record: "00:07,HR,73" for record in range(20)}, [])
    start = datetime(2030, 3, 1, 5, tzinfo=UTC)
    report = physionet_2012.load(engine, folder, schema="together", layout="together", start=start)
    assert rows(engine, "select distinct intime from together.record") == [(start,)]
    assert "begin together" in report.notes[0]


def test_withheld_outcomes_stay_out_for_the_named_sets_only(engine, make_challenge_set):
    folder = make_challenge_set("a", ONE_STAY, ONE_OUTCOME)
    make_challenge_set("b", ONE_STAY, ONE_OUTCOME)
    report = physionet_2012.load(engine, folder, schema="withheld", withhold_outcomes=["b"])
    assert rows(engine, "select set_name from withheld.outcome") == [("a",)]
    assert report.rows["record"] == 2 and "set b are withheld" in report.notes[-1]
    assert physionet_2012.load(engine, folder, schema="withheld", withhold_outcomes=True).rows["outcome"] == 0


def test_outcomes_that_are_withheld_need_not_be_there(engine, make_challenge_set):
    folder = make_challenge_set("c", ONE_STAY, None)
    with pytest.raises(ForecastError, match=r"Outcomes-c\.txt is not next to set c; put it there, or withhold"):
        physionet_2012.load(engine, folder, schema="no_outcomes")
    assert physionet_2012.load(engine, folder, schema="no_outcomes", withhold_outcomes=True).rows["record"] == 1


def test_loading_again_replaces_the_tables(engine, make_challenge_set):
    folder = make_challenge_set("a", ONE_STAY, ONE_OUTCOME)
    make_challenge_set("b", ONE_STAY, ONE_OUTCOME)
    first = physionet_2012.load(engine, folder, schema="again")
    assert (
        physionet_2012.load(engine, folder, schema="again").rows
        == first.rows
        == {"record": 2, "measurement": 4, "outcome": 2}
    )
    assert rows(engine, "select count(*) from again.measurement") == [(4,)]
    physionet_2012.load(engine, folder, sets=["a"], schema="again")
    assert rows(engine, "select distinct set_name from again.measurement") == [("a",)]


def test_a_failed_load_leaves_the_tables_as_they_were(engine, make_challenge_set):
    folder = make_challenge_set("a", ONE_STAY, ONE_OUTCOME)
    physionet_2012.load(engine, folder, schema="kept")
    make_challenge_set("b", ONE_STAY, None)
    with pytest.raises(ForecastError):
        physionet_2012.load(engine, folder, schema="kept")
    assert rows(engine, "select count(*) from kept.measurement") == [(2,)]


@pytest.mark.parametrize("sets", [["b"], None])
def test_missing_files_are_named(engine, tmp_path, sets):
    with pytest.raises(ForecastError, match=r"set-a\.tar\.gz as published"):
        physionet_2012.load(engine, tmp_path, sets=sets)


def test_other_files_than_the_challenges_are_refused(engine, make_challenge_set):
    folder = make_challenge_set("a", ONE_STAY, ["7,6,1,five,-1,0"])
    with pytest.raises(ForecastError, match="whole numbers in the columns RecordID"):
        physionet_2012.load(engine, folder, schema="refused")
    (folder / "set-b").mkdir()
    (folder / "set-b" / "9.txt").write_text("time;name;value\n")
    with pytest.raises(ForecastError, match="does not begin with Time,Parameter,Value"):
        physionet_2012.load(engine, folder, sets=["b"], schema="refused")
    (folder / "set-c").mkdir()
    with pytest.raises(ForecastError, match="contains no stay"):
        physionet_2012.load(engine, folder, sets=["c"], schema="refused")


def test_unknown_arguments_are_refused(engine, make_challenge_set):
    folder = make_challenge_set("a", ONE_STAY, ONE_OUTCOME)
    with pytest.raises(ContractError, match="'scattered'"):
        physionet_2012.load(engine, folder, layout="scattered")
    with pytest.raises(ContractError, match="withhold_outcomes"):
        physionet_2012.load(engine, folder, withhold_outcomes=["A"])
