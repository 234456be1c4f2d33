"""One folder per source: SELECTs in its database's own dialect, a concept map, and a card (source.yaml)."""
