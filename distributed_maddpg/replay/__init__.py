"""The replay buffer: a ring of transitions with one writer process and several reader processes."""
