"""A recurrent model of arrivals is registered like the others."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _allow("'stay', 'unit', 'arrivals'")


def downgrade() -> None:
    op.execute("delete from forecast.model where name = 'arrivals'")
    _allow("'stay', 'unit'")


def _allow(names: str) -> None:
    op.drop_constraint(op.f("ck_model_name"), "model", schema="forecast", type_="check")
    op.create_check_constraint(op.f("ck_model_name"), "model", f"name in ({names})", schema="forecast")
