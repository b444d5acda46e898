"""Training over Ray processes; the only folder that imports ray.

Ray's own list of anti-patterns applies here: no `ray.get` in a loop over workers, no large argument passed
by value twice, no reference that nobody awaits, and no wait without a deadline.
"""
