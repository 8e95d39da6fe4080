"""Work on what users wrote, in child processes that are bounded, hold no secret, and are killed and replaced on overrun."""
