"""Measurements of each stage and of whole runs, as numbers to compare."""
