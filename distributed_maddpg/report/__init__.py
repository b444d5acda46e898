"""The page that shows a run (floor F5)."""
