"""One folder per source: two SELECTs in its database's own dialect, a concept map, and a card (source.yaml)."""
