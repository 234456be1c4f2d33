"""Forecasts of stays lie in a partition per month. Those published so far become one partition as they are: no row is moved."""

from alembic import op
from sqlalchemy import text

from rnn_core.contracts.errors import ForecastError

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_INDEXES = ("pk_stay_forecast", "ix_stay_forecast_run_id", "ix_stay_forecast_source_stay_id_prediction_time")
_KEYS = """
alter table forecast.stay_forecast
    add constraint pk_stay_forecast primary key (model_id, source, prediction_time, stay_id),
    add constraint fk_stay_forecast_model_id foreign key (model_id) references forecast.model (model_id),
    add constraint fk_stay_forecast_run_id foreign key (run_id) references forecast.run (run_id);
create index ix_stay_forecast_run_id on forecast.stay_forecast (run_id);
create index ix_stay_forecast_source_stay_id_prediction_time on forecast.stay_forecast (source, stay_id, prediction_time);
"""
_LIKE_BEFORE = "like forecast.stay_forecast_before including defaults including constraints including comments"

# What reads the table would go on with the rows of before, unnoticed.
_DEPENDENTS = """
select distinct v.oid::regclass::text from pg_depend d
join pg_rewrite w on w.oid = d.objid join pg_class v on v.oid = w.ev_class
where d.classid = 'pg_rewrite'::regclass and d.refobjid = 'forecast.stay_forecast'::regclass and v.oid <> d.refobjid
"""

# For jobs, which may not create tables (sql/roles.sql). A month is attached, not created in place, so that nobody waits.
_ADD_MONTH = """
create function forecast.add_month(at timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' as $$
declare
    month timestamptz := date_trunc('month', at);
    name text := 'stay_forecast_' || to_char(month, 'YYYY_MM');
begin
    for attempt in 1 .. 2 loop
        perform from pg_inherits i join pg_class c on c.oid = i.inhrelid,
            lateral (select pg_get_expr(c.relpartbound, c.oid)) b (bound)
        where i.inhparent = 'forecast.stay_forecast'::regclass
            and at >= coalesce(substring(b.bound from 'FROM \\(''([^'']+)''\\)')::timestamptz, '-infinity')
            and at < substring(b.bound from 'TO \\(''([^'']+)''\\)')::timestamptz;
        if found then
            return;
        end if;
        -- Whoever comes second looks again.
        perform pg_advisory_xact_lock(hashtextextended('icu-forecast add_month', 0));
    end loop;
    execute format('create table forecast.%I (like forecast.stay_forecast including defaults including constraints)'
        ' with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)', name);
    execute format('alter table forecast.stay_forecast attach partition forecast.%I for values from (%L) to (%L)',
        name, month, month + interval '1 month');
end
$$;
revoke all on function forecast.add_month from public;
"""

_ATTACH = """
do $$
declare
    until timestamp;
    acl record;
begin
    for acl in
        select a.privilege_type, coalesce(quote_ident(r.rolname), 'public') as grantee
        from pg_class c cross join aclexplode(c.relacl) a left join pg_roles r on r.oid = a.grantee
        where c.oid = 'forecast.stay_forecast_before'::regclass and a.grantee <> c.relowner
    loop
        execute format('grant %s on forecast.stay_forecast to %s', acl.privilege_type, acl.grantee);
        if acl.privilege_type = 'INSERT' then
            execute format('grant execute on function forecast.add_month to %s', acl.grantee);
        end if;
    end loop;
    if not exists (select from forecast.stay_forecast_before) then
        drop table forecast.stay_forecast_before;
        return;
    end if;
    select date_trunc('month', max(as_of) at time zone 'UTC') + interval '1 month' into until from forecast.run;
    execute format('alter table forecast.stay_forecast attach partition forecast.stay_forecast_before'
        ' for values from (minvalue) to (%L)', until at time zone 'UTC');
end
$$
"""


def upgrade() -> None:
    if dependents := op.get_bind().execute(text(_DEPENDENTS)).scalars().all():
        raise ForecastError(
            f"The upgrade divides forecast.stay_forecast by month, but something of yours reads it: {', '.join(dependents)}. "
            "Drop it, run `icu-forecast db migrate`, and create it again."
        )
    _rename("stay_forecast", "stay_forecast_before")
    op.execute(f"create table forecast.stay_forecast ({_LIKE_BEFORE}) partition by range (prediction_time)")
    op.execute(_KEYS)
    op.execute(text(_ADD_MONTH.replace(":", "\\:")))
    op.execute(_ATTACH.replace(":", "\\:"))


def downgrade() -> None:
    op.execute("drop function forecast.add_month")
    _rename("stay_forecast", "stay_forecast_before")
    op.execute(f"create table forecast.stay_forecast ({_LIKE_BEFORE})")
    op.execute("insert into forecast.stay_forecast select * from forecast.stay_forecast_before")
    op.execute("drop table forecast.stay_forecast_before")
    op.execute(_KEYS)


def _rename(name: str, to: str) -> None:
    op.execute(f"alter table forecast.{name} rename to {to}")
    for index in _INDEXES:
        op.execute(f"alter index forecast.{index} rename to {index.replace(name, to)}")
