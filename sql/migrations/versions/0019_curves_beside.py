"""Forecasts of units keep what they are compared with: the census by the curve of the unit alone."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "unit_forecast",
        sa.Column(
            "curves_probabilities",
            sa.ARRAY(sa.Double()),
            comment="the same, if patients were forecast by their unit's curve alone",
        ),
        schema="forecast",
    )


def downgrade() -> None:
    op.drop_column("unit_forecast", "curves_probabilities", schema="forecast")
