"""What the published risks rest on."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stay_forecast_driver",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("prediction_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stay_id", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False, comment="1 is the strongest"),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False, comment="a concept or a descriptor of the stay"),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column(
            "contribution", sa.Double(), nullable=False, comment="log-odds of the mortality risk, with less without it"
        ),
        sa.Column("last_value", sa.Double(), nullable=True),
        sa.Column("value_unit", sa.Text(), nullable=True),
        sa.Column("last_observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("direction in ('raises', 'lowers')", name=op.f("ck_stay_forecast_driver_direction")),
        sa.CheckConstraint("(direction = 'raises') = (contribution > 0)", name=op.f("ck_stay_forecast_driver_sign")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["forecast.model.model_id"], name=op.f("fk_stay_forecast_driver_model_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["forecast.run.run_id"], name=op.f("fk_stay_forecast_driver_run_id")),
        sa.PrimaryKeyConstraint(
            "model_id", "source", "prediction_time", "stay_id", "rank", name=op.f("pk_stay_forecast_driver")
        ),
        schema="forecast",
    )
    op.create_index(op.f("ix_stay_forecast_driver_run_id"), "stay_forecast_driver", ["run_id"], schema="forecast")
    op.create_index(
        op.f("ix_stay_forecast_driver_source_stay_id_prediction_time"),
        "stay_forecast_driver",
        ["source", "stay_id", "prediction_time"],
        schema="forecast",
    )


def downgrade() -> None:
    op.drop_table("stay_forecast_driver", schema="forecast")
