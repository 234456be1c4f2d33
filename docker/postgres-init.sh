#!/usr/bin/env bash
# Runs once, on an empty volume: creates a role and a database each for icu-forecast and Prefect.
set -euo pipefail

make_database() {
  psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --set name="$1" --set password="$2" <<'SQL'
create role :"name" login password :'password';
create database :"name" owner :"name" encoding 'UTF8' template template0;
SQL
}

make_database icu_forecast "$FORECAST_DB_PASSWORD"
make_database prefect "$PREFECT_DB_PASSWORD"
# Needed by Prefect's migrations.
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname prefect --command 'create extension pg_trgm'
