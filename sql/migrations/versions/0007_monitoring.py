"""Scores by age, sex and hour of the stay; drift of concepts."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NEW = (("age_group", "ages"), ("sex", "sexes"), ("stay_hours", "hours of the stay"))
_OLD_KEY = ["run_id", "model_id", "unit", "month", "metric"]


def upgrade() -> None:
    for name, what in _NEW:
        column = sa.Column(
            name, sa.Text(), server_default=sa.text("'all'"), nullable=False, comment=f"'all' over all {what}"
        )
        op.add_column("score", column, schema="forecast")
    op.drop_constraint(op.f("pk_score"), "score", schema="forecast", type_="primary")
    op.create_primary_key(op.f("pk_score"), "score", [*_OLD_KEY, *(name for name, _ in _NEW)], schema="forecast")
    op.create_table(
        "concept_drift",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("concept", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("n_observations", sa.BigInteger(), nullable=False, comment="of the last days"),
        sa.Column("median", sa.Double(), nullable=True),
        sa.Column("reference_median", sa.Double(), nullable=True),
        sa.Column(
            "psi", sa.Double(), nullable=True, comment="population stability index over the tenths of the reference"
        ),
        sa.Column(
            "missing", sa.Double(), nullable=True, comment="share of the stays of the last days without an observation"
        ),
        sa.Column("reference_missing", sa.Double(), nullable=False),
        sa.Column(
            "wrong_unit", sa.Boolean(), nullable=False, comment="the median left the range of the reference by a factor"
        ),
        sa.Column("drifted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["forecast.model.model_id"], name=op.f("fk_concept_drift_model_id")),
        sa.ForeignKeyConstraint(["run_id"], ["forecast.run.run_id"], name=op.f("fk_concept_drift_run_id")),
        sa.PrimaryKeyConstraint("run_id", "model_id", "concept", name=op.f("pk_concept_drift")),
        schema="forecast",
    )


def downgrade() -> None:
    op.drop_table("concept_drift", schema="forecast")
    op.execute("delete from forecast.score where (age_group, sex, stay_hours) <> ('all', 'all', 'all')")
    op.drop_constraint(op.f("pk_score"), "score", schema="forecast", type_="primary")
    op.create_primary_key(op.f("pk_score"), "score", _OLD_KEY, schema="forecast")
    for name, _ in reversed(_NEW):
        op.drop_column("score", name, schema="forecast")
