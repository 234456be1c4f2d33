"""Commands on the database of icu-forecast: start, stop, migrate, connect."""

import typer

from flows.commands.arguments import Json
from flows.runtime.settings import load_settings
from flows.runtime.terminal import print_done

app = typer.Typer(no_args_is_help=True, help="The database of icu-forecast, embedded unless ICU_DATABASE_URL is set.")


@app.command()
def start(as_json: Json = False) -> None:
    """Start the embedded PostgreSQL and migrate it.

    Example: icu-forecast db start
    """
    from flows.runtime.databases import open_store

    url = open_store().url.render_as_string(hide_password=True)
    print_done(f"running at {url}", {"url": url}, as_json)


@app.command()
def stop(as_json: Json = False) -> None:
    """Stop the embedded PostgreSQL.

    Example: icu-forecast db stop
    """
    from sql.store import embedded

    stopped = embedded.stop(load_settings().cluster_folder)
    print_done("stopped" if stopped else "was not running", {"stopped": stopped}, as_json)


@app.command()
def url(as_json: Json = False) -> None:
    """Print the connection URL for other programs, including its password.

    Example: psql "$(icu-forecast db url)"
    """
    from flows.runtime.databases import open_store
    from sql.engines.postgresql import libpq_uri

    address = libpq_uri(open_store())
    print_done(address, {"url": address}, as_json)


@app.command()
def migrate(as_json: Json = False) -> None:
    """Migrate tables and views to this version.

    Example: icu-forecast db migrate
    """
    from flows.runtime.databases import open_store
    from sql.store.migrate import newest_revision

    open_store()
    print_done(f"at revision {newest_revision()}", {"revision": newest_revision()}, as_json)


@app.command()
def psql() -> None:
    """Open psql on the database of icu-forecast.

    Example: icu-forecast db psql
    """
    from flows.runtime.databases import open_store
    from sql.engines.postgresql import libpq_uri
    from sql.store import embedded

    store = open_store()
    raise typer.Exit(embedded.psql(libpq_uri(store, password=False), store.url.password))
