"""Experiments over several trained runs: cross-play, and the paper's table reproduced."""
