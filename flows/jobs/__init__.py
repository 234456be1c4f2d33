"""The scheduled and manual jobs, each a list of steps."""
