"""Functions of shards, which workers compute: scoring and explaining open stays, reading stays, fitting members."""
