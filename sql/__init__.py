"""Everything that speaks to databases: sources, canonical tables, data quality, results and views."""
