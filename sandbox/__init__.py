"""From a filter's source text to hits: no database, no network."""
