"""One slot on one machine: due traders → evaluate → signals, in one transaction."""
