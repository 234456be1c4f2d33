"""Lengths of stay per unit, gathered in the database, against reading all stays and grouping them in pandas."""

from collections.abc import Iterator
from datetime import UTC, datetime
from time import perf_counter

import numpy as np
import pandas as pd
from sqlalchemy import Engine, text

from benchmarks.stage import Row, Stage
from sql.published import canonical

STAYS = 100_000
SOURCE = "made_up"
AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
# Five years of 12 to 211 hours in 8 units, each admission and each end a version; every 37th has died long before its end.
_STAYS = """
with made as (
    select n, timestamptz '2021-01-01' + n * interval '26 minutes' as intime,
        interval '1 hour' * (12 + n * 7919 % 200) as stay
    from generate_series(1, cast(:n as bigint)) n
)
insert into icu.stay_version (
    source, stay_id, available_at, patient_id, unit, intime, outtime, outcome, died_at, ends_at, batch_id
)
select :source, 's' || n, case when ended then intime + stay else intime end, 'p' || n % 80000, 'unit ' || n % 8, intime,
    case when ended then intime + stay end, case when ended then 'alive' end,
    case when ended and n % 37 = 0 then intime + interval '1 hour' end, 'unit', :batch
from made cross join (values (false), (true)) version (ended)
where not ended or intime + stay < :as_of
"""
_BATCH = """
insert into icu.batch (source, as_of, read_since, ingested_at, status) values (:source, :as_of, :as_of, :as_of, 'done')
returning batch_id
"""


def run(stage: Stage) -> Iterator[Row]:
    with stage.store.begin() as connection:
        batch = connection.execute(text(_BATCH), {"source": SOURCE, "as_of": AS_OF}).scalar_one()
        connection.execute(text(_STAYS), {"source": SOURCE, "as_of": AS_OF, "n": STAYS, "batch": batch})
        connection.exec_driver_sql("analyze icu.stay_version")
    begun = perf_counter()
    ours = canonical.read_unit_lengths(stage.store, SOURCE, AS_OF)
    gathered = perf_counter() - begun
    begun = perf_counter()
    theirs = _grouped(stage.store)
    read = perf_counter() - begun
    assert all(np.array_equal(ours[unit], theirs[unit]) for unit in ours.keys() | theirs.keys())
    yield Row(
        f"lengths of stay per unit of {STAYS:,} stays",
        f"{gathered:.2f} s",
        f"all stays read, grouped by pandas: {read:.2f} s",
        f"{read / gathered:.2f}",
        "1.5",
    )


def _grouped(store: Engine) -> dict[str, np.ndarray]:
    stays = canonical.read_stays(store, SOURCE, AS_OF, only_sound=True)
    ended = stays[stays["outtime"].notna() & stays["unit"].notna()].sort_values(["outtime", "stay_id"])
    days = (ended["outtime"] - ended["intime"]) / pd.Timedelta(days=1)
    return {str(unit): values.to_numpy(np.float64) for unit, values in days.groupby(ended["unit"], observed=True)}
