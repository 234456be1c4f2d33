"""The published CSV files of eICU 2.0, such as its open demo, loaded into PostgreSQL; tables without a file stay empty."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd
import pyarrow as pa
from sqlalchemy import Engine, text

from rnn_core.contracts.errors import ForecastError
from sql.intake.adapter import load_adapter
from sql.loaders import LoadReport, Progress, make_schema, published_csv, quoted, replace_table, silent

_TYPES = {"whole": pa.int64(), "number": pa.float64(), "text": pa.string()}


def _columns(**names: str) -> dict[str, pa.DataType]:
    return {name: _TYPES[kind] for kind, listed in names.items() for name in listed.split()}


# The published columns of each table that the adapter or the benchmark reads. The table of the official build has the
# same names and types.
TABLES: dict[str, dict[str, pa.DataType]] = {
    "patient": _columns(
        whole="patientunitstayid patienthealthsystemstayid hospitalid wardid hospitaladmitoffset hospitaldischargeyear"
        " hospitaldischargeoffset unitvisitnumber unitdischargeoffset",
        number="admissionheight admissionweight dischargeweight",
        text="gender age ethnicity apacheadmissiondx hospitaladmittime24 hospitaladmitsource hospitaldischargetime24"
        " hospitaldischargelocation hospitaldischargestatus unittype unitadmittime24 unitadmitsource unitstaytype"
        " unitdischargetime24 unitdischargelocation unitdischargestatus uniquepid",
    ),
    "hospital": _columns(whole="hospitalid", text="numbedscategory teachingstatus region"),
    "nursecharting": _columns(
        whole="nursingchartid patientunitstayid nursingchartoffset nursingchartentryoffset",
        text="nursingchartcelltypecat nursingchartcelltypevallabel nursingchartcelltypevalname nursingchartvalue",
    ),
    "respiratorycharting": _columns(
        whole="respchartid patientunitstayid respchartoffset respchartentryoffset",
        text="respcharttypecat respchartvaluelabel respchartvalue",
    ),
    "respiratorycare": _columns(
        whole="respcareid patientunitstayid respcarestatusoffset currenthistoryseqnum ventstartoffset ventendoffset"
        " priorventstartoffset priorventendoffset",
        text="airwaytype airwaysize airwayposition cuffpressure apneaparams lowexhmvlimit hiexhmvlimit lowexhtvlimit"
        " hipeakpreslimit lowpeakpreslimit hirespratelimit lowrespratelimit sighpreslimit lowironoxlimit highironoxlimit"
        " meanairwaypreslimit peeplimit cpaplimit setapneainterval setapneatv setapneaippeephigh setapnearr"
        " setapneapeakflow setapneainsptime setapneaie setapneafio2",
    ),
    "lab": _columns(
        whole="labid patientunitstayid labresultoffset labresultrevisedoffset",
        number="labtypeid labresult",
        text="labname labresulttext labmeasurenamesystem labmeasurenameinterface",
    ),
    "infusiondrug": _columns(
        whole="infusiondrugid patientunitstayid infusionoffset",
        text="drugname drugrate infusionrate drugamount volumeoffluid patientweight",
    ),
    "intakeoutput": _columns(
        whole="intakeoutputid patientunitstayid intakeoutputoffset intakeoutputentryoffset",
        number="intaketotal outputtotal dialysistotal nettotal cellvaluenumeric",
        text="cellpath celllabel cellvaluetext",
    ),
    "vitalperiodic": _columns(
        whole="vitalperiodicid patientunitstayid observationoffset",
        number="temperature sao2 heartrate respiration cvp etco2 systemicsystolic systemicdiastolic systemicmean"
        " pasystolic padiastolic pamean st1 st2 st3 icp",
    ),
    "vitalaperiodic": _columns(
        whole="vitalaperiodicid patientunitstayid observationoffset",
        number="noninvasivesystolic noninvasivediastolic noninvasivemean paop cardiacoutput cardiacinput svr svri pvr"
        " pvri",
    ),
    "apacheapsvar": _columns(
        whole="apacheapsvarid patientunitstayid intubated vent dialysis eyes motor verbal meds",
        number="urine wbc temperature respiratoryrate sodium heartrate meanbp ph hematocrit creatinine albumin pao2 pco2"
        " bun glucose bilirubin fio2",
    ),
    "apachepatientresult": _columns(
        whole="apachepatientresultsid patientunitstayid acutephysiologyscore apachescore preopmi preopcardiaccath"
        " ptcawithin24h",
        number="predictedicumortality predictediculos actualiculos predictedhospitalmortality predictedhospitallos"
        " actualhospitallos unabridgedunitlos unabridgedhosplos actualventdays predventdays unabridgedactualventdays",
        text="physicianspeciality physicianinterventioncategory apacheversion actualicumortality"
        " actualhospitalmortality",
    ),
}
_INDICES = {
    "patient": ("(patientunitstayid)", "(patienthealthsystemstayid)"),
    "hospital": ("(hospitalid)",),
    "vitalperiodic": ("(patientunitstayid, observationoffset)",),
    "vitalaperiodic": ("(patientunitstayid, observationoffset)",),
}


# What is known of a stay only when it has ended; a benchmark withholds it until all forecasts are made.
_OUTCOMES = {
    "patient": "hospitaldischargetime24 hospitaldischargeoffset hospitaldischargelocation hospitaldischargestatus"
    " unitdischargetime24 unitdischargeoffset unitdischargelocation unitdischargestatus dischargeweight",
    "apachepatientresult": "actualicumortality actualhospitalmortality actualiculos actualhospitallos unabridgedunitlos"
    " unabridgedhosplos actualventdays unabridgedactualventdays",
}


def load(
    engine: Engine,
    folders: Path | Collection[Path],
    schema: str = "eicu_crd",
    progress: Progress = silent,
    withhold_outcomes: Collection[Path] = (),
) -> LoadReport:
    """Load the files found in `folders` into `schema`; tables of an earlier load are replaced.

    folders: each holds patient.csv.gz and other tables, in any case, gzipped or not; the rows of several are put together.
    A published table without a file is created empty, and the report names it. One table at a time is held in memory.
    withhold_outcomes: folders whose stays are loaded as if they had not ended.
    Raises ForecastError if a folder or its patient table is missing, a file is not CSV, or a column that the adapter reads
    is missing.
    """
    folders = [folders] if isinstance(folders, Path) else list(folders)
    needed = load_adapter("eicu").tables
    files = {table: _files(folders, table) for table in TABLES}
    rows = {}
    with engine.begin() as connection:
        make_schema(connection, schema)
        for table in TABLES:
            data = [_read(file, table, needed.get(table, ())) for file in files[table]]
            data = [
                _withhold(part, table) if file.parent in withhold_outcomes else part
                for file, part in zip(files[table], data, strict=True)
            ]
            data = pa.concat_tables(data or [pa.schema(TABLES[table]).empty_table()], promote_options="default")
            indices = _INDICES.get(table, ("(patientunitstayid)",))
            rows[table] = replace_table(connection, schema, table, data, indices)
            progress(f"{table}: {rows[table]:,} rows" if files[table] else f"{table}: no file, created empty")
    absent = [table for table in TABLES if not files[table]]
    notes = (f"Without a file, and so created empty: {', '.join(absent)}.",) if absent else ()
    return LoadReport(rows, notes)


def _withhold(data: pa.Table, table: str) -> pa.Table:
    for name in _OUTCOMES.get(table, "").split():
        if name in data.column_names:
            number = data.schema.get_field_index(name)
            data = data.set_column(number, name, pa.nulls(len(data), data.schema.field(name).type))
    return data


def read_stay_ids(folders: Collection[Path]) -> list[str]:
    """The stays of the folders."""
    files = _files(list(folders), "patient")
    return [str(stay) for file in files for stay in _read(file, "patient", ())["patientunitstayid"].to_pylist()]


def read_apache(engine: Engine, schema: str = "eicu_crd") -> pd.DataFrame:
    """APACHE IVa forecasts of each stay as published, made at hour 24: stay_id, mortality_risk and los_days of the unit
    stay, NaN where there is none (-1 in the file)."""
    with engine.connect() as connection:
        table = quoted(connection, schema, "apachepatientresult")
        statement = (
            "select cast(patientunitstayid as text) as stay_id, predictedicumortality as mortality_risk,"
            f" predictediculos as los_days from {table} where apacheversion = 'IVa'"
        )
        rows = pd.read_sql(text(statement), connection)
    return rows.where(rows != -1)


def _files(folders: list[Path], table: str) -> list[Path]:
    """The files of a table. Only that of `patient` must be in every folder."""
    files = []
    for folder in folders:
        if not folder.is_dir():
            raise ForecastError(f"The folder {folder} does not exist.")
        if file := published_csv.find(folder, table):
            files.append(file)
        elif table == "patient":
            raise ForecastError(
                f"eicu needs patient.csv.gz in {folder}, as published at physionet.org/content/eicu-crd-demo; "
                "set its folder with --path."
            )
    return files


def _read(file: Path, table: str, needed: Collection[str]) -> pa.Table:
    data = published_csv.read(file, lambda name: TABLES[table].get(name, pa.string()))
    if missing := [name for name in needed if name not in data.column_names]:
        raise ForecastError(f"{file} is not as published: it has no column {', '.join(missing)}.")
    return data
