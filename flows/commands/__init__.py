"""The commands of `icu-forecast`, by topic; each imports what it runs when it is called, so that help is instant."""
