"""Self-contained HTML pages for people."""
