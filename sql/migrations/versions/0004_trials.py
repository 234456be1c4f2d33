"""Silent trials: runs that are judged and not shown."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint(op.f("ck_run_role"), "run", schema="forecast", type_="check")
    op.create_check_constraint(op.f("ck_run_role"), "run", "role in ('champion', 'shadow', 'trial')", schema="forecast")
    op.create_table(
        "trial",
        sa.Column("trial_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("ends_at > started_at", name=op.f("ck_trial_ends_after_it_starts")),
        sa.PrimaryKeyConstraint("trial_id", name=op.f("pk_trial")),
        schema="forecast",
    )
    op.create_index(
        "ix_trial_one_open",
        "trial",
        ["source"],
        unique=True,
        schema="forecast",
        postgresql_where=sa.text("ended_at is null"),
    )


def downgrade() -> None:
    op.drop_table("trial", schema="forecast")
    of_trials = "run_id in (select run_id from forecast.run where role = 'trial')"
    for table in ("stay_forecast_driver", "stay_forecast", "unit_los_forecast"):
        op.execute(f"delete from forecast.{table} where {of_trials}")
    op.execute("delete from forecast.run where role = 'trial'")
    op.drop_constraint(op.f("ck_run_role"), "run", schema="forecast", type_="check")
    op.create_check_constraint(op.f("ck_run_role"), "run", "role in ('champion', 'shadow')", schema="forecast")
