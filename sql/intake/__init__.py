"""From a source database to canonical tables: adapter, reading, landing, casting, checks."""
