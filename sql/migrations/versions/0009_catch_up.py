"""Catching up is a kind of run, so that one that fails is seen."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_KINDS = "kind in ('ingest', 'forecast', 'backfill', 'train', 'evaluate'"


def upgrade() -> None:
    op.drop_constraint(op.f("ck_run_kind"), "run", schema="forecast", type_="check")
    op.create_check_constraint(op.f("ck_run_kind"), "run", _KINDS + ", 'catch_up')", schema="forecast")


def downgrade() -> None:
    op.execute("delete from forecast.run where kind = 'catch_up'")
    op.drop_constraint(op.f("ck_run_kind"), "run", schema="forecast", type_="check")
    op.create_check_constraint(op.f("ck_run_kind"), "run", _KINDS + ")", schema="forecast")
