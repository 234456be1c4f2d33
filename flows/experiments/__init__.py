"""What a data scientist does beside the jobs: compare models, search for options, export windows, a page per model."""
