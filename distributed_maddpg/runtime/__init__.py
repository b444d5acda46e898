"""Training over Ray processes; the only folder that imports ray.

The code avoids Ray's documented anti-patterns: no `ray.get` in a loop over workers (except in lock-step,
which orders the pushes), no large argument passed by value twice, no reference that is never awaited, and no
wait without a timeout. Only calls of rollout workers that may stay unscheduled have no deadline.
"""
