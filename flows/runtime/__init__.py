"""What every job runs in: settings, clock, log, databases, steps, reports."""
