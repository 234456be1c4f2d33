"""Prefect's server side: deployments, workers, runs that died."""
