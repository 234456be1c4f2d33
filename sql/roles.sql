-- Roles in the database of icu-forecast. Run in that database as a superuser, or as its owner with the right to create roles:
-- once before the first `icu-forecast db migrate`, and again after every one. Safe to repeat.
-- The roles cannot log in; grant them to your users: create user nightly in role icu_forecast_job password '...'.
--   icu_forecast_migrator   owns the tables and views; only for `icu-forecast db migrate`
--   icu_forecast_job        what the flows need: rows of all four schemas, and batch tables in `landing`
--   icu_forecast_analyst    the views of `forecast` and `clif`; no tables, no canonical rows, no functions
do $$
declare
    wanted text;
begin
    foreach wanted in array array['icu_forecast_migrator', 'icu_forecast_job', 'icu_forecast_analyst'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            execute format('create role %I nologin', wanted);
        end if;
    end loop;
    execute format('grant create, connect, temporary on database %I to icu_forecast_migrator', current_database());
    execute format('grant connect, temporary on database %I to icu_forecast_job', current_database());
    execute format('grant connect on database %I to icu_forecast_analyst', current_database());
    -- The version table of the migrations is in public.
    grant usage, create on schema public to icu_forecast_migrator;
    if to_regclass('forecast.run') is null then
        return;
    end if;

    grant usage on schema icu, landing, quality, forecast to icu_forecast_job;
    grant create on schema landing to icu_forecast_job;
    grant select, insert, update, delete on all tables in schema icu, landing, quality, forecast to icu_forecast_job;
    grant select on public.icu_forecast_version to icu_forecast_job;
    grant execute on function forecast.add_month to icu_forecast_job;

    grant usage on schema forecast, clif to icu_forecast_analyst;
    for wanted in select format('%I.%I', schemaname, viewname) from pg_views where schemaname in ('forecast', 'clif') loop
        execute format('grant select on %s to icu_forecast_analyst', wanted);
    end loop;
end
$$;
