"""The replay buffer: a ring of transitions that one process writes and others read."""
