"""What watch has found and told of."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KINDS = "kind in ('late_run', 'failed_run', 'critical_check', 'stale_feed', 'drift', 'calibration', 'gave_up')"


def upgrade() -> None:
    op.create_table(
        "incident",
        sa.Column("incident_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "subject",
            sa.Text(),
            nullable=False,
            comment="the kind of run, the check, the concept or the model it is about",
        ),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column(
            "notified_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="null while nobody was told: no ICU_NOTIFY, or it did not answer",
        ),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(_KINDS, name=op.f("ck_incident_kind")),
        sa.PrimaryKeyConstraint("incident_id", name=op.f("pk_incident")),
        schema="forecast",
    )
    op.create_index(
        "ix_incident_one_open",
        "incident",
        ["source", "kind", "subject"],
        unique=True,
        schema="forecast",
        postgresql_where=sa.text("closed_at is null"),
    )


def downgrade() -> None:
    op.drop_table("incident", schema="forecast")
