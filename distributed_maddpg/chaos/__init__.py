"""A training job whose processes are killed and frozen at random, compared with a job without faults."""
