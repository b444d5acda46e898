"""MPE2's scenarios, compiled: one file each, with what its agents know, do and are rewarded for."""
