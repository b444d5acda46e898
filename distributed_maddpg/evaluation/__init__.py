"""Greedy evaluation episodes and the scores computed from them."""
