"""From a filter's text to a plan."""
