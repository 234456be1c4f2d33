"""An index of the quarantine by stay: every ingest looks there for the rows that waited for its stays."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_quarantine_stay_id", "quarantine", [sa.text("(row ->> 'stay_id')")], schema="quality")


def downgrade() -> None:
    op.drop_index("ix_quarantine_stay_id", table_name="quarantine", schema="quality")
