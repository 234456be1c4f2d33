"""Who trained a model and who gave it its stage."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, comment in (
        ("staged_by", "user of the system whose process gave the stage"),
        ("trained_by", "user of the system whose process registered it"),
    ):
        op.add_column("model", sa.Column(name, sa.Text(), nullable=True, comment=comment), schema="forecast")


def downgrade() -> None:
    op.drop_column("model", "trained_by", schema="forecast")
    op.drop_column("model", "staged_by", schema="forecast")
