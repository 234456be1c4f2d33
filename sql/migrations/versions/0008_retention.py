"""Up to when ended stays were purged."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "retention",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("purged_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_retention")),
        schema="icu",
    )


def downgrade() -> None:
    op.drop_table("retention", schema="icu")
