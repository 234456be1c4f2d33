"""Hand-made files in the published form of eICU, and those of the open demo."""

import gzip
from pathlib import Path

import pytest
from sqlalchemy import text

from rnn_core.contracts.errors import ForecastError
from sql.intake.adapter import load_adapter
from sql.loaders import eicu
from sql.store.engine import open_engine

PATIENT = load_adapter("eicu").tables["patient"]
APERIODIC = load_adapter("eicu").tables["vitalaperiodic"]


@pytest.fixture(scope="module")
def database(make_database):
    engine = open_engine(make_database("eicu_loader"))
    yield engine
    engine.dispose()


def write(file: Path, columns, *rows) -> None:
    file.parent.mkdir(exist_ok=True)
    lines = [",".join(columns), *(",".join(row.get(column, "") for column in columns) for row in rows)]
    content = ("\n".join(lines) + "\n").encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def patients(folder: Path, *ids: str, name: str = "patient.csv.gz", columns=PATIENT) -> Path:
    write(folder / name, columns, *({"patientunitstayid": i, "age": "> 89", "hospitalid": "7"} for i in ids))
    return folder


def content(engine, table: str) -> list:
    with engine.connect() as connection:
        return connection.execute(text(f"select * from eicu_crd.{table} order by patientunitstayid")).mappings().all()


def test_files_are_found_in_any_case_gzipped_or_not(database, tmp_path):
    patients(tmp_path, "1", name="PATIENT.CSV")
    write(tmp_path / "vitalAperiodic.csv.gz", APERIODIC, {"patientunitstayid": "1", "noninvasivemean": "70.5"})
    report = eicu.load(database, tmp_path)
    assert (report.rows["patient"], report.rows["vitalaperiodic"]) == (1, 1)
    (row,) = content(database, "patient")
    assert (row["patientunitstayid"], row["age"], row["hospitalid"], row["wardid"]) == (1, "> 89", 7, None)
    assert content(database, "vitalaperiodic")[0]["noninvasivemean"] == 70.5


def test_a_table_without_a_file_is_empty_with_its_published_columns_and_is_named(database, tmp_path):
    said = []
    report = eicu.load(database, patients(tmp_path, "1"), progress=said.append)
    (note,) = report.notes
    for table in set(eicu.TABLES) - {"patient"}:
        assert report.rows[table] == 0 and table in note and f"{table}: no file, created empty" in said
        with database.connect() as connection:
            columns = connection.execute(text(f"select * from eicu_crd.{table}")).keys()
        assert list(columns) == list(eicu.TABLES[table])
    assert said[0] == "patient: 1 rows" and "patient" not in note.split()


def test_the_source_reads_only_columns_that_the_loader_knows(database, tmp_path):
    for table, columns in load_adapter("eicu").tables.items():
        assert set(columns) <= set(eicu.TABLES[table])


def test_loading_again_gives_the_same_tables(database, tmp_path):
    patients(tmp_path, "1", "2")
    first, rows = eicu.load(database, tmp_path), content(database, "patient")
    assert eicu.load(database, tmp_path) == first and content(database, "patient") == rows and len(rows) == 2


def test_the_rows_of_several_folders_are_put_together(database, tmp_path):
    one, two = patients(tmp_path / "one", "1"), patients(tmp_path / "two", "2", columns=[*PATIENT, "ethnicity"])
    assert eicu.load(database, [one, two]).rows["patient"] == 2
    assert [row["patientunitstayid"] for row in content(database, "patient")] == [1, 2]


def test_line_breaks_in_quotes_belong_to_the_value(database, tmp_path):
    write(tmp_path / "patient.csv", PATIENT, {"patientunitstayid": "1", "gender": '"Fe\nmale"'})
    eicu.load(database, tmp_path)
    assert content(database, "patient")[0]["gender"] == "Fe\nmale"


def no_folder(folder):
    return folder / "elsewhere"


def no_patients(folder):
    write(folder / "lab.csv", ["labid"])
    return folder


def no_column(folder):
    return patients(folder, columns=[c for c in PATIENT if c not in ("uniquepid", "wardid")])


def no_table(folder):
    (folder / "patient.csv.gz").write_bytes(b"\x50\x4b\x03\x04\xff\x00")
    return folder


def nothing_in_it(folder):
    (folder / "patient.csv").write_bytes(b"")
    return folder


def no_number(folder):
    return patients(folder, "1", "Meier")


def too_few_fields(folder):
    (folder / "patient.csv").write_text(f"{','.join(PATIENT)}\nMeier,2\n")
    return folder


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (no_folder, r"The folder \S+elsewhere does not exist"),
        (no_patients, r"needs patient\.csv\.gz in .*--path"),
        (no_column, r"patient\.csv\.gz .*no column wardid, uniquepid"),
        (no_table, r"patient\.csv\.gz .*not a readable CSV file"),
        (nothing_in_it, r"patient\.csv .*not a readable CSV file"),
        (no_number, r"patient\.csv\.gz .*patientunitstayid has the wrong type"),
        (too_few_fields, r"patient\.csv .*not a readable CSV file"),
    ],
)
def test_files_that_are_not_as_published_are_refused_in_one_sentence_and_change_nothing(
    database, tmp_path, make, sentence
):
    eicu.load(database, patients(tmp_path / "good", "1"))
    (tmp_path / "bad").mkdir()
    with pytest.raises(ForecastError, match=sentence) as refusal:
        eicu.load(database, make(tmp_path / "bad"))
    assert "Meier" not in str(refusal.value) and len(str(refusal.value).splitlines()) == 1
    assert len(content(database, "patient")) == 1


def test_the_demo_is_loaded_whole(eicu_source):
    engine = open_engine(eicu_source)
    with engine.connect() as connection:
        rows = {t: connection.exec_driver_sql(f"select count(*) from eicu_crd.{t}").scalar() for t in eicu.TABLES}
    engine.dispose()
    assert rows == {
        "patient": 1_430,
        "hospital": 102,
        "nursecharting": 0,
        "respiratorycharting": 95_426,
        "respiratorycare": 3_305,
        "lab": 73_530,
        "infusiondrug": 24_781,
        "intakeoutput": 57_849,
        "vitalperiodic": 63_870,
        "vitalaperiodic": 142_720,
        "apacheapsvar": 1_237,
        "apachepatientresult": 2_048,
    }


def test_withheld_outcomes_are_loaded_as_of_stays_that_have_not_ended(database, tmp_path):
    ends = {"unitdischargeoffset": "900", "unitdischargestatus": "Expired", "hospitaldischargeoffset": "950"}
    for name, stay in (("open", "1"), ("ended", "2")):
        write(
            tmp_path / name / "patient.csv.gz",
            PATIENT,
            {"patientunitstayid": stay, "age": "60", "hospitalid": "7"} | ends,
        )
    eicu.load(database, [tmp_path / "open", tmp_path / "ended"], withhold_outcomes=[tmp_path / "open"])
    withheld, known = content(database, "patient")
    assert {withheld[name] for name in ends} == {None} and withheld["hospitalid"] == known["hospitalid"] == 7
    assert known["unitdischargeoffset"] == 900 and known["unitdischargestatus"] == "Expired"
    assert eicu.read_stay_ids([tmp_path / "open"]) == ["1"]
