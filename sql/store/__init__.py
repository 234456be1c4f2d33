"""Our PostgreSQL: schema, migrations, views, connections, bulk copy."""
