"""Contenders on public data, compared with each other."""
