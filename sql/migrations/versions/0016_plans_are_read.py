"""Plans and versions of beds are read from a source like stays: landing tables and a watermark each."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_LANDING = {
    "beds": ("unit", "beds", "staffed_beds", "available_at"),
    "planned": ("planned_id", "unit", "kind", "expected_at", "available_at", "probability", "status", "stay_id"),
}
_WATERMARKS = {
    "beds_watermark": "the same of versions of beds, for a source that has beds.sql",
    "plans_watermark": "the same of plans, for a source that has arrivals.sql",
}


def upgrade() -> None:
    for name, comment in _WATERMARKS.items():
        op.add_column("batch", sa.Column(name, sa.DateTime(timezone=True), comment=comment), schema="icu")
    for name, columns in _LANDING.items():
        op.create_table(name, *(sa.Column(c, sa.Text()) for c in columns), schema="landing", prefixes=["UNLOGGED"])


def downgrade() -> None:
    for name in _LANDING:
        op.drop_table(name, schema="landing")
    for name in _WATERMARKS:
        op.drop_column("batch", name, schema="icu")
