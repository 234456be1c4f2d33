"""One stored name per metric: what evaluations and models hold under earlier names is renamed."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_RENAMED = {
    "los_mean_absolute_error_days": "los_mae_days",
    "los_median_absolute_error_days": "los_medae_days",
    "prolonged_stay_auroc": "prolonged_auroc",
    "prolonged_stay_brier": "prolonged_brier",
}
_BASELINES = {f"baseline_{old}": f"baseline_{new}" for old, new in _RENAMED.items()}
# In groups of patients the risk of death had no prefix.
_IN_GROUPS = {name: f"mortality_{name}" for name in ("auroc", "brier", "calibration_slope", "observed_expected")}


def upgrade() -> None:
    _rename(_RENAMED | _BASELINES, _IN_GROUPS)


def downgrade() -> None:
    back, back_in_groups = ({new: old for old, new in names.items()} for names in (_RENAMED | _BASELINES, _IN_GROUPS))
    _rename(back, back_in_groups)


def _rename(names: dict[str, str], in_groups: dict[str, str]) -> None:
    pairs = ", ".join(f"('{old}', '{new}')" for old, new in names.items())
    op.execute(f"""
        update forecast.score s set metric = renamed.new
        from (values {pairs}) renamed (old, new) where s.metric = renamed.old
    """)
    op.execute(f"""
        update forecast.model set metrics = jsonb_set(metrics, '{{metrics}}', {_with_names("metrics -> 'metrics'", names)})
        where jsonb_typeof(metrics -> 'metrics') = 'object'
    """)
    op.execute(f"""
        update forecast.model set metrics = jsonb_set(metrics, '{{groups}}', (
            select coalesce(jsonb_object_agg(kind.key, (
                select coalesce(jsonb_object_agg(part.key, {_with_names("part.value", in_groups)}), '{{}}')
                from jsonb_each(kind.value) part
            )), '{{}}')
            from jsonb_each(metrics -> 'groups') kind
        ))
        where jsonb_typeof(metrics -> 'groups') = 'object'
    """)


def _with_names(estimates: str, names: dict[str, str]) -> str:
    """SQL of the object `estimates` with its keys renamed."""
    pairs = ", ".join(f"('{old}', '{new}')" for old, new in names.items())
    return f"""(
        select coalesce(jsonb_object_agg(coalesce(renamed.new, found.key), found.value), '{{}}')
        from jsonb_each({estimates}) found
        left join (values {pairs}) renamed (old, new) on renamed.old = found.key
    )"""
