"""Training over Ray processes; the only folder that imports ray.

Ray's list of anti-patterns applies here: no `ray.get` in a loop over workers, no large argument passed by
value twice, no reference that is never awaited, and no wait without a timeout. Only calls of rollout workers
that may stay unscheduled have no deadline.
"""
