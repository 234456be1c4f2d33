"""The `sql` command: any SELECT over our database."""

from typing import Any

from flows.runtime.databases import store_url
from flows.runtime.settings import load_settings
from sql.store import query as queries
from sql.store.engine import open_engine
from sql.store.refusals import check_reachable


def run_query(query: str) -> list[dict[str, Any]]:
    """Rows of one SELECT in a session that may only read. Raises ForecastError with the database's own message."""
    # Not migrated first: a user with select on the views only may not even read the version.
    store = open_engine(store_url(load_settings()))
    check_reachable(store, "database of icu-forecast (ICU_DATABASE_URL)")
    return queries.run_query(store, query)
