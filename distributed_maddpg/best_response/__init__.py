"""Opponents written by hand or trained against the teams of a run, and what they find out."""
