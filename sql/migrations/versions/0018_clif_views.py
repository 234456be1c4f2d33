"""The schema of the CLIF views, and the adapter of each batch: it says whether a stay's id holds a hospitalization's."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.schema.CreateSchema("clif", if_not_exists=True))
    op.add_column("batch", sa.Column("adapter", sa.Text(), comment="folder of sql/sources that read it"), schema="icu")


def downgrade() -> None:
    op.drop_column("batch", "adapter", schema="icu")
    op.execute(sa.schema.DropSchema("clif", if_exists=True))
