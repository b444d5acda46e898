"""A training job whose processes are killed and frozen at random, beside an undisturbed baseline."""
