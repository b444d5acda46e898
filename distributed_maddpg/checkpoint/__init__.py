"""Checkpoints: folders written atomically, on a disk or behind a URL, without pickle."""
