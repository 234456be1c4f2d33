"""A scored stay may lack its risk of death, with a reason: its model never saw one of the two outcomes."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_NAMES = ("ck_stay_forecast_abstains_without_numbers", "ck_stay_forecast_abstains_with_a_reason")


def upgrade() -> None:
    _check(
        "status = 'scored' or mortality_risk is null",
        "(status_reason is null) = (mortality_risk is not null)",
    )


def downgrade() -> None:
    # What the earlier version cannot hold: such a stay counts as not forecast.
    op.execute("""
        update forecast.stay_forecast set
            status = 'abstained', prolonged_stay_risk = null, remaining_los_p10_hours = null,
            remaining_los_p50_hours = null, remaining_los_p90_hours = null, discharge_24h_prob = null,
            discharge_48h_prob = null, discharge_72h_prob = null
        where status = 'scored' and mortality_risk is null
    """)
    _check("(status = 'scored') = (mortality_risk is not null)", "(status = 'abstained') = (status_reason is not null)")


def _check(*conditions: str) -> None:
    for name, condition in zip(_NAMES, conditions, strict=True):
        op.drop_constraint(op.f(name), "stay_forecast", schema="forecast")
        op.create_check_constraint(op.f(name), "stay_forecast", condition, schema="forecast")
