"""Fitted forecasters: fit, forecast, explain, save and load."""
