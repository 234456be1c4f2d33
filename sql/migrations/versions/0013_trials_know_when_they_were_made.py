"""A trial knows when it was made: hours before that are a rehearsal, and their forecasts cannot be late."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    made = sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False)
    op.add_column("trial", made, schema="forecast")
    # Of earlier trials only the start is known.
    op.execute("update forecast.trial set made_at = started_at")


def downgrade() -> None:
    op.drop_column("trial", "made_at", schema="forecast")
