"""A training run as a folder: settings, tables, checkpoints, summary and report."""
