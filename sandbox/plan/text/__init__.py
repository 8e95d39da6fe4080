"""What text a filter, and a function inside a plan, may hold, and how it is answered when it may not."""
