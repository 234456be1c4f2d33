"""Contenders on published data, measured against each other."""
