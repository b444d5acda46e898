"""Looks at this machine and says what would stop or slow a run."""
