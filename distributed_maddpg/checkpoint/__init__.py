"""Checkpoints: folders that appear whole or not at all, on a disk or behind a URL, without pickle."""
