"""Greedy episodes, and what they say about deception."""
