"""Published forecasts of units, with the stays from which the census that came is counted, as known at a time."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from psycopg.sql import Literal
from sqlalchemy import Engine, text

from rnn_core.contracts.census import CENSUS_HISTORY_DAYS, CENSUS_HORIZONS, PublishedCensus
from sql.intake.retention import purged_until
from sql.published.canonical import read_units
from sql.store.refusals import connect_arrow_when_free

# Three whole months at least: more would take memory, and older forecasts say less of the next.
JUDGED_DAYS = 93

_KNOWN_UNTIL = """
select least(:as_of, max(watermark)) from icu.batch
where source = :source and ingested_at is not null and as_of <= :as_of
"""
_FORECASTS = """
select f.model_id, f.unit, f.prediction_time, f.horizon_hours,
    coalesce(f.staffed_beds, f.beds)::double precision as usable_beds, f.census_probabilities,
    f.curves_probabilities
from forecast.unit_forecast f
join forecast.run r on r.run_id = f.run_id and r.status = 'published'
join forecast.model m on m.model_id = f.model_id
where f.source = {source} and f.status = 'scored' and f.prediction_time > m.data_cutoff and f.prediction_time >= {since}
    and f.horizon_hours = any({horizons})
    and f.prediction_time + make_interval(hours => f.horizon_hours) <= {until}
order by f.model_id, f.unit, f.horizon_hours, f.prediction_time
"""


def read_published_census(engine: Engine, source: str, as_of: datetime) -> PublishedCensus:
    """The scored forecasts of units at `CENSUS_HORIZONS`, of the last `JUDGED_DAYS`, whose time the source's watermark had
    passed at `as_of`, whatever the role of their run, and the stays of `source` known then.

    Left out: predictions not after their model's data cut-off, and those before the retention, of which not everybody who
    was in is known any more. What came is counted as in `forecast.unit_forecast_outcome`, but by what was known at `as_of`.
    """
    with engine.connect() as connection:
        until = connection.execute(text(_KNOWN_UNTIL), {"source": source, "as_of": as_of}).scalar_one()
        purged = purged_until(connection, source)
    complete = as_of - timedelta(days=CENSUS_HISTORY_DAYS)
    complete = complete if purged is None else max(complete, purged)
    since = max(as_of - timedelta(days=JUDGED_DAYS), complete)
    literals = {"source": source, "since": since, "until": until, "horizons": list(CENSUS_HORIZONS)}
    query = _FORECASTS.format(**{name: Literal(value).as_string() for name, value in literals.items()})
    # Half a million arrays would take a minute as lists of Python numbers.
    with connect_arrow_when_free(engine) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        forecasts = cursor.fetch_arrow_table().to_pandas()
    times = pd.to_datetime(forecasts["prediction_time"], utc=True).dt.tz_localize(None).astype("datetime64[us]")
    stays = read_units(engine, source, as_of).stays[["unit", "intime", "outtime", "outcome"]]
    return PublishedCensus(forecasts.assign(prediction_time=times), stays, np.datetime64(_naive(complete), "us"))


def _naive(time: datetime) -> pd.Timestamp:
    return pd.Timestamp(time).tz_convert("UTC").tz_localize(None)
