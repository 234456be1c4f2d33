"""A source of any size in the shape of MIMIC-IV, for benchmarks: made up by the server that holds it, from series and chance."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, text

from sql.intake.adapter import load_adapter

SOURCE = "mimic_iv"
# The hospital is the same at every size: it admits ten patients a day to about thirty beds. A larger source goes back
# further, to before LAST by our clock, and its tables are on the moved dates.
LAST = datetime(2025, 1, 1, tzinfo=UTC)
ADMISSIONS_A_DAY = 10
CHARTED_PER_STAY, LABS_PER_STAY, INPUTS_PER_STAY, OUTPUTS_PER_STAY = 2_000, 250, 20, 50

_README = Path(__file__).resolve().parents[1] / "sql" / "sources" / SOURCE / "README.md"


@dataclass(frozen=True)
class Item:
    """One place in a round of charting or in a draw of blood: values are a whole number of steps from low to high.

    half: vital signs are charted again half-way to the next round.
    says: what stands in place of a number.
    """

    itemid: int
    low: float
    high: float
    unit: str | None = None
    step: float = 1
    half: int = 0
    says: str | None = None


_VITAL = tuple(
    Item(*item, half=half)
    for half in (0, 1)
    for item in ((220045, 50, 130, "bpm"), (220210, 8, 35, "insp/min"), (220277, 88, 100, "%"))
)
_PRESSURES = (
    Item(220050, 80, 170, "mmHg"),
    Item(220051, 40, 90, "mmHg"),
    Item(220052, 55, 110, "mmHg"),
    Item(220179, 80, 170, "mmHg"),
    Item(220180, 40, 90, "mmHg"),
    Item(220181, 55, 110, "mmHg"),
)
_OTHER = (
    Item(223761, 96, 102, "°F", 0.1),
    Item(220739, 1, 4),
    Item(223900, 1, 5),
    Item(223901, 1, 6),
    Item(223835, 30, 100),
    Item(220339, 5, 15, "cmH2O"),
    Item(224685, 300, 700, "mL"),
)
_MODE = (Item(223849, 0, 0, says="CMV/ASSIST/AutoFlow"),)
# Rhythm, ectopy, turns, care, and the limits of alarms: half of what is charted, and no item of the map.
_NOT_MAPPED = (
    Item(220048, 0, 0, says="SR (Sinus Rhythm)"),
    Item(224650, 0, 0, says="None"),
    Item(224080, 0, 0, says="Yes"),
    Item(224082, 0, 0, says="Right Side"),
    Item(227969, 0, 0, says="Bed locked in low position"),
    Item(224168, 0, 0, says="Applied"),
    Item(228236, 0, 1),
    Item(223791, 0, 10),
    Item(220046, 110, 140, "bpm"),
    Item(220047, 40, 60, "bpm"),
    Item(223769, 100, 100, "%"),
    Item(223770, 85, 92, "%"),
    Item(223751, 150, 180, "mmHg"),
    Item(223752, 80, 100, "mmHg"),
    Item(224161, 28, 40, "insp/min"),
    Item(224162, 6, 10, "insp/min"),
    Item(220056, 60, 100, "mmHg"),
    Item(220058, 80, 100, "mmHg"),
    Item(224697, 6, 16, "cmH2O"),
    Item(224688, 12, 24),
)
CHARTED = _VITAL + _PRESSURES + _OTHER + _MODE + _NOT_MAPPED
DRAWN = (
    Item(50912, 0.4, 4, "mg/dL", 0.1),
    Item(50983, 130, 148, "mEq/L"),
    Item(50971, 3.2, 5.5, "mEq/L", 0.1),
    Item(50902, 95, 112, "mEq/L"),
    Item(50882, 16, 30, "mEq/L"),
    Item(51006, 8, 60, "mg/dL"),
    Item(50931, 80, 220, "mg/dL"),
    Item(50893, 7, 10, "mg/dL", 0.1),
    Item(50960, 1.5, 2.6, "mg/dL", 0.1),
    Item(50970, 2, 6, "mg/dL", 0.1),
    Item(51221, 22, 42, "%", 0.1),
    Item(51222, 7, 14, "g/dL", 0.1),
    Item(51301, 3, 20, "K/uL", 0.1),
    Item(51265, 60, 400, "K/uL"),
    Item(51237, 1, 3, None, 0.1),
    Item(50813, 0.6, 5, "mmol/L", 0.1),
    Item(50868, 8, 20, "mEq/L"),
    Item(51248, 26, 34, "pg", 0.1),
    Item(51249, 30, 36, "%", 0.1),
    Item(51250, 80, 100, "fL"),
    Item(51277, 12, 18, "%", 0.1),
)
GASES = (Item(50820, 7.2, 7.5, "units", 0.01), Item(50818, 30, 60, "mm Hg"), Item(50821, 60, 200, "mm Hg"))
_SPECIMEN = (Item(52033, 0, 0, says="ART."),)


def generate(engine: Engine, rows: int) -> datetime:
    """Make the tables that the adapter reads, with `rows` of icu.chartevents and of the others what belongs to them.

    All values are sound, and all of the source is known within a month after LAST. Returns when the first patient may
    have come, by our clock.
    """
    stays = -(-rows // CHARTED_PER_STAY)
    span = timedelta(days=stays / ADMISSIONS_A_DAY)
    first = LAST - span
    moved = first.replace(tzinfo=None) - timedelta(days=load_adapter(SOURCE).shift_days)
    # Tables that are made in the transaction that fills them are not logged (wal_level minimal).
    with engine.begin() as connection:
        connection.exec_driver_sql(_SETTINGS)
        connection.exec_driver_sql(_TABLES)
        connection.execute(text(_STAYS), {"first": moved, "span": span, "stays": stays})
        connection.exec_driver_sql("analyze stay")
        for statement in filter(str.strip, _STAY_TABLES.split(";")):
            connection.execute(text(statement))
        connection.execute(text(_CHARTEVENTS), {"rows": rows, "per_stay": CHARTED_PER_STAY, **_places(CHARTED)})
        lab = DRAWN + GASES + _SPECIMEN
        per_stay = {"per_stay": LABS_PER_STAY, "drawn": len(DRAWN)}
        connection.execute(text(_LABEVENTS), {"rows": stays * LABS_PER_STAY, **per_stay, **_places(lab)})
        connection.execute(text(_INPUTEVENTS), {"rows": stays * INPUTS_PER_STAY, "per_stay": INPUTS_PER_STAY})
        connection.execute(text(_OUTPUTEVENTS), {"rows": stays * OUTPUTS_PER_STAY, "per_stay": OUTPUTS_PER_STAY})
        connection.exec_driver_sql(_STANDARD_INDICES)
        connection.exec_driver_sql(_README.read_text(encoding="utf-8").split("```sql")[1].split("```")[0])
    # Tables at rest, as a hospital's are: otherwise whoever reads them first pays for the load.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("vacuum analyze")
        connection.exec_driver_sql("checkpoint")
    return first


def _places(items: tuple[Item, ...]) -> dict:
    """The items by their place in a round; values in whole steps, which divide to short decimals."""
    places = [
        {
            "place": place,
            "itemid": i.itemid,
            "low": round(i.low / i.step),
            "steps": round((i.high - i.low) / i.step),
            "parts": round(1 / i.step),
            "unit": i.unit,
            "half": i.half,
            "says": i.says,
        }
        for place, i in enumerate(items)
    ]
    return {"items": json.dumps(places), "places": len(items)}


_SETTINGS = """
set local maintenance_work_mem = '1GB'; set local work_mem = '64MB'; select setseed(0.5)
"""

# Columns and types of the build scripts of MIT-LCP/mimic-code, as of MIMIC-IV 2.2.
_TABLES = """
create schema mimiciv_hosp;
create schema mimiciv_icu;
create table mimiciv_hosp.patients (
    subject_id integer not null, gender char(1) not null, anchor_age smallint, anchor_year smallint not null,
    anchor_year_group varchar(20) not null, dod date
);
create table mimiciv_hosp.admissions (
    subject_id integer not null, hadm_id integer not null, admittime timestamp not null, dischtime timestamp,
    deathtime timestamp, admission_type varchar(40) not null, admit_provider_id varchar(10),
    admission_location varchar(60), discharge_location varchar(60), insurance varchar(255), language varchar(10),
    marital_status varchar(30), race varchar(80), edregtime timestamp, edouttime timestamp,
    hospital_expire_flag smallint
);
create table mimiciv_hosp.transfers (
    subject_id integer not null, hadm_id integer, transfer_id integer not null, eventtype varchar(10),
    careunit varchar(255), intime timestamp, outtime timestamp
);
create table mimiciv_hosp.labevents (
    labevent_id integer not null, subject_id integer not null, hadm_id integer, specimen_id integer not null,
    itemid integer not null, order_provider_id varchar(10), charttime timestamp(0), storetime timestamp(0),
    value varchar(200), valuenum double precision, valueuom varchar(20), ref_range_lower double precision,
    ref_range_upper double precision, flag varchar(10), priority varchar(7), comments text
);
create table mimiciv_icu.icustays (
    subject_id integer not null, hadm_id integer not null, stay_id integer not null, first_careunit varchar(255),
    last_careunit varchar(255), intime timestamp, outtime timestamp, los float
);
create table mimiciv_icu.chartevents (
    subject_id integer not null, hadm_id integer not null, stay_id integer not null, caregiver_id integer,
    charttime timestamp not null, storetime timestamp, itemid integer not null, value varchar(200), valuenum float,
    valueuom varchar(20), warning smallint
);
create table mimiciv_icu.inputevents (
    subject_id integer not null, hadm_id integer not null, stay_id integer, caregiver_id integer,
    starttime timestamp not null, endtime timestamp not null, storetime timestamp, itemid integer not null,
    amount float, amountuom varchar(20), rate float, rateuom varchar(20), orderid integer not null,
    linkorderid integer, ordercategoryname varchar(50), secondaryordercategoryname varchar(50),
    ordercomponenttypedescription varchar(100), ordercategorydescription varchar(30), patientweight float,
    totalamount float, totalamountuom varchar(50), isopenbag smallint, continueinnextdept smallint,
    statusdescription varchar(20), originalamount float, originalrate float
);
create table mimiciv_icu.outputevents (
    subject_id integer not null, hadm_id integer not null, stay_id integer not null, caregiver_id integer,
    charttime timestamp(3) not null, storetime timestamp(3) not null, itemid integer not null, value float not null,
    valueuom varchar(20)
)
"""

# pace: minutes from one half round to the next; a stay has fifty rounds and so lasts between 13 hours and 5.6 days.
_STAYS = """
create temporary table stay on commit drop as
select number, 10000000 + number as subject_id, 20000000 + number as hadm_id, 30000000 + number as stay_id, pace, intime,
    intime + 100 * pace * interval '1 minute' as outtime, number % 10 = 0 as died,
    case number % 3
        when 0 then 'Medical Intensive Care Unit (MICU)'
        when 1 then 'Surgical Intensive Care Unit (SICU)'
        else 'Coronary Care Unit (CCU)'
    end as careunit
from (
    select number, 8 + floor(random() * 73)::int as pace,
        date_trunc('minute', cast(:first as timestamp) + random() * cast(:span as interval)) as intime
    from generate_series(0, cast(:stays as int) - 1) number
) s
"""

_STAY_TABLES = """
insert into mimiciv_hosp.patients
select subject_id, case number % 2 when 0 then 'F' else 'M' end, 20 + number % 70, extract(year from intime),
    '2017 - 2019', case when died then outtime::date end
from stay;
insert into mimiciv_hosp.admissions (
    subject_id, hadm_id, admittime, dischtime, deathtime, admission_type, hospital_expire_flag
)
select subject_id, hadm_id, intime - number % 12 * interval '1 hour',
    case when died then outtime else outtime + number % 72 * interval '1 hour' end, case when died then outtime end,
    case number % 4 when 0 then 'ELECTIVE' when 1 then 'URGENT' else 'EW EMER.' end, died::int
from stay;
insert into mimiciv_hosp.transfers
select subject_id, hadm_id, 40000000 + 2 * number, 'ED', 'Emergency Department', intime - interval '12 hours', intime
from stay
union all
select subject_id, hadm_id, 40000001 + 2 * number, 'admit', careunit, intime, outtime from stay;
insert into mimiciv_icu.icustays
select subject_id, hadm_id, stay_id, careunit, careunit, intime, outtime, 100 * pace / 1440.0 from stay
"""

# The rows of a stay lie together, as in the published files: those of one hour are all over the table. A subquery with
# chance in it is not merged with the query around it, so that what is drawn once stays the same wherever it is named.
_CHARTEVENTS = """
insert into mimiciv_icu.chartevents
select subject_id, hadm_id, stay_id, 90000 + n % 500, charttime, charttime + (1 + floor(random() * 45)) * interval '1 minute',
    itemid, coalesce(says, number::text), case when says is null then number end, unit, 0
from (
    select n, s.subject_id, s.hadm_id, s.stay_id, i.itemid, i.says, i.unit,
        s.intime + s.pace * (2 * (n % :per_stay / :places) + i.half) * interval '1 minute' as charttime,
        (i.low + floor(random() * (i.steps + 1))) / i.parts as number
    from generate_series(0, cast(:rows as int) - 1) n
    join stay s on s.number = n / :per_stay
    join json_to_recordset(:items) i (place int, itemid int, low float, steps int, parts float, unit text, half int, says text)
        on i.place = n % :per_stay % :places
) charted
"""

# Ten draws a stay. What is asked of the blood gas machine has a specimen of its own.
_LABEVENTS = """
insert into mimiciv_hosp.labevents (
    labevent_id, subject_id, hadm_id, specimen_id, itemid, charttime, storetime, value, valuenum, valueuom, priority
)
select n, subject_id, hadm_id, specimen_id, itemid, charttime, charttime + (15 + floor(random() * 105)) * interval '1 minute',
    coalesce(says, number::text), case when says is null then number end, unit, 'STAT'
from (
    select n, s.subject_id, s.hadm_id, i.itemid, i.says, i.unit,
        n / cast(:places as int) * 2 + (i.place >= :drawn)::int as specimen_id,
        s.intime + s.pace * (10 * (n % :per_stay / :places) + 3) * interval '1 minute' as charttime,
        (i.low + floor(random() * (i.steps + 1))) / i.parts as number
    from generate_series(0, cast(:rows as int) - 1) n
    join stay s on s.number = n / :per_stay
    join json_to_recordset(:items) i (place int, itemid int, low float, steps int, parts float, unit text, half int, says text)
        on i.place = n % :per_stay % :places
) drawn
"""

# One bag after the other: ten of norepinephrine, five of vasopressin, five of saline, which is not mapped.
_INPUTEVENTS = """
insert into mimiciv_icu.inputevents (
    subject_id, hadm_id, stay_id, starttime, endtime, storetime, itemid, amount, amountuom, rate, rateuom, orderid,
    linkorderid, patientweight, statusdescription
)
select s.subject_id, s.hadm_id, s.stay_id, s.intime + s.pace * 5 * bag * interval '1 minute',
    s.intime + s.pace * 5 * (bag + 1) * interval '1 minute',
    s.intime + (s.pace * 5 * bag + 1 + floor(random() * 30)) * interval '1 minute',
    case when bag < 10 then 221906 when bag < 15 then 222315 else 225158 end, 10,
    case when bag < 10 then 'mg' when bag < 15 then 'units' else 'mL' end,
    case when bag < 10 then 1 + floor(random() * 30) when bag < 15 then 120 else 7500 end / 100,
    case when bag < 10 then 'mcg/kg/min' when bag < 15 then 'units/hour' else 'mL/hour' end, n, n, 80,
    case when bag in (9, 14, 19) then 'FinishedRunning' else 'ChangeDose/Rate' end
from (select n, n / :per_stay as number, n % :per_stay as bag from generate_series(0, cast(:rows as int) - 1) n) b
join stay s on s.number = b.number
"""

# Every other one is of a chest tube, which is not mapped.
_OUTPUTEVENTS = """
insert into mimiciv_icu.outputevents
select s.subject_id, s.hadm_id, s.stay_id, 90000, s.intime + s.pace * 2 * round * interval '1 minute',
    s.intime + (s.pace * 2 * round + 1 + floor(random() * 45)) * interval '1 minute',
    case round % 2 when 0 then 226559 else 226588 end, 10 + floor(random() * 190), 'mL'
from (select n / :per_stay as number, n % :per_stay as round from generate_series(0, cast(:rows as int) - 1) n) o
join stay s on s.number = o.number
"""

# Of the build scripts, those of the columns that the adapter reads.
_STANDARD_INDICES = """
alter table mimiciv_hosp.patients add primary key (subject_id);
alter table mimiciv_hosp.admissions add primary key (hadm_id);
alter table mimiciv_hosp.transfers add primary key (transfer_id);
alter table mimiciv_hosp.labevents add primary key (labevent_id);
alter table mimiciv_icu.icustays add primary key (stay_id);
alter table mimiciv_icu.inputevents add primary key (orderid, itemid);
alter table mimiciv_icu.outputevents add primary key (stay_id, charttime, itemid);
create index on mimiciv_hosp.admissions (admittime, dischtime, deathtime);
create index on mimiciv_hosp.transfers (hadm_id);
create index on mimiciv_hosp.transfers (intime);
create index on mimiciv_hosp.labevents (charttime, storetime);
create index on mimiciv_hosp.labevents (specimen_id);
create index on mimiciv_icu.icustays (intime, outtime);
create index on mimiciv_icu.chartevents (charttime, storetime);
create index on mimiciv_icu.inputevents (starttime, endtime);
create index on mimiciv_icu.outputevents (charttime, storetime);
"""
