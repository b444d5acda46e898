"""The update of `maddpg.py` in compiled tiles: no intermediate leaves the cache, and no lock is taken."""
