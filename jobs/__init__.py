"""Background jobs: thin tasks that call app."""
