"""The bulk path into PostgreSQL: Arrow data by COPY, inside the transaction of a SQLAlchemy connection."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from pyarrow import csv
from sqlalchemy import Connection

# Small enough for the cache, large enough to make the overhead of calls negligible.
BATCH_ROWS = 65_536

# "needed" quotes every string and leaves nulls bare, which is how COPY distinguishes an empty string from a null.
_OPTIONS = csv.WriteOptions(include_header=False, quoting_style="needed")


def copy_arrow(connection: Connection, relation: str, data: pa.Table | Iterable[pa.RecordBatch]) -> int:
    """Append `data` to `relation` ("schema.table" or "table") and return the number of rows.

    The columns of `data` name the columns to fill; all batches have those of the first. Null and the empty string stay
    distinct, times without a zone are UTC. The rows belong to the connection's transaction (one is begun if there is none)
    and become visible with its commit. Database errors pass through unchanged.
    """
    batches = iter(data.to_batches(max_chunksize=BATCH_ROWS) if isinstance(data, pa.Table) else data)
    first = next(batches, None)
    if first is None:
        return 0
    if not connection.in_transaction():
        connection.begin()
    names = first.schema.names
    statement = sql.SQL("copy {} ({}) from stdin (format csv)").format(
        sql.Identifier(*relation.split(".", 1)), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    with connection.connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            copy.write(_csv_bytes(first))
            for batch in batches:
                copy.write(_csv_bytes(batch.select(names)))
        return cursor.rowcount


def _csv_bytes(batch: pa.RecordBatch) -> memoryview:
    columns = [_csv_column(column) for column in batch.columns]
    sink = pa.BufferOutputStream()
    csv.write_csv(pa.RecordBatch.from_arrays(columns, names=batch.schema.names), sink, _OPTIONS)
    return memoryview(sink.getvalue())


def _csv_column(column: pa.Array) -> pa.Array:
    """The column as the CSV writer takes it.

    Times become text ending in Z: the writer takes ten times as long for a zoned time, and PostgreSQL would read one
    without a zone in the zone of the session. Lists of numbers become PostgreSQL's arrays, which the writer has not.
    """
    if pa.types.is_timestamp(column.type):
        text = column.cast(pa.timestamp(column.type.unit)).cast(pa.string())
        return pc.binary_join_element_wise(text, "Z", "")
    if pa.types.is_list(column.type):
        values = pc.binary_join(column.cast(pa.list_(pa.string())), ",")
        return pc.binary_join_element_wise("{", values, "}", "")
    return column.cast(pa.string()) if column.type == pa.string_view() else column
