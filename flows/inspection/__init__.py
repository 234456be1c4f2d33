"""Commands that look and change nothing: doctor, source checks, models, queries."""
