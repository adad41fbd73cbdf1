"""What every package stands on and what knows nobody: time, randomness, units, errors, statistics."""
