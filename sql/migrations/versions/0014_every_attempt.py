"""Every attempt leaves a row: a refresh is a kind of run, and one that met another of its kind is `refused`. A run that takes
far longer than usual is an incident."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_KINDS = "kind in ('ingest', 'forecast', 'backfill', 'train', 'evaluate', 'catch_up'"
_STATUSES = "status in ('running', 'published', 'failed'"
_INCIDENTS = "kind in ('late_run', 'failed_run', 'critical_check', 'stale_feed', 'drift', 'calibration', 'gave_up'"


def _allow(table: str, column: str, condition: str) -> None:
    name = op.f(f"ck_{table}_{column}")
    op.drop_constraint(name, table, schema="forecast", type_="check")
    op.create_check_constraint(name, table, condition, schema="forecast")


def upgrade() -> None:
    _allow("run", "kind", _KINDS + ", 'refresh')")
    _allow("run", "status", _STATUSES + ", 'refused')")
    _allow("incident", "kind", _INCIDENTS + ", 'long_run')")


def downgrade() -> None:
    op.execute("delete from forecast.run where kind = 'refresh' or status = 'refused'")
    op.execute("delete from forecast.incident where kind = 'long_run'")
    _allow("run", "kind", _KINDS + ")")
    _allow("run", "status", _STATUSES + ")")
    _allow("incident", "kind", _INCIDENTS + ")")
