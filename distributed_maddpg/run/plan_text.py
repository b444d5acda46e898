"""The plan of a run for a terminal."""

from __future__ import annotations

from distributed_maddpg.run.plan import Networks, Plan


def plan_rows(plan: Plan) -> list[tuple[str, str]]:
    """Return names and texts of everything in a plan."""
    counts, several = plan.counts, len(plan.run_dirs) > 1
    each = f" (each of {len(plan.run_dirs)} runs)" if several else ""
    total = sum(plan.memory_bytes.values())
    memory = ", ".join(f"{name} {size(number)}" for name, number in plan.memory_bytes.items() if number)
    return [
        ("run folder", f"{plan.run_dirs[0]} to {plan.run_dirs[-1]}" if several else plan.run_dirs[0]),
        ("environment", f"{plan.environment}, {plan.copies:,} copies stepped by {plan.stepped_by}"),
        ("agents", ", ".join(_agents(plan))),
        ("processes", f"{_processes(plan)}; {plan.cores} cores here"),
        ("learner", plan.learner),
        *((each.name, _networks(each)) for each in plan.networks),
        ("parameters", f"{plan.parameters:,}, and as many in target networks{each}"),
        ("replay buffer", f"{plan.replay_rows:,} rows of {plan.transition_bytes} bytes{each}"),
        ("memory", f"about {size(total)} of {size(plan.machine_bytes)}: {memory}"),
        ("env steps", f"{counts.env_steps:,}{each}; reports: {counts.reports:,}"),
        ("updates", f"{counts.updates:,}{each}"),
        ("evaluations", f"{counts.evaluations:,} with {counts.evaluation_episodes:,} episodes{each}"),
        ("checkpoints", f"{counts.checkpoints:,} written, {plan.kept_checkpoints:,} kept, "
         f"up to {size(plan.checkpoint_bytes)} each, in {plan.checkpoints_dir}{each}"),
        ("disk", f"{size(plan.disk_free_bytes)} free"),
    ]  # fmt: skip


def size(number: int) -> str:
    """Return a number of bytes in the largest unit of which there is one or more."""
    units = [(2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")]
    for unit, name in units:
        if number >= unit:
            return f"{number / unit:.3g} {name}" if number < 1000 * unit else f"{number / unit:.0f} {name}"
    return f"{number} B"


def _networks(networks: Networks) -> str:
    layers = "-".join(map(str, networks.layers))
    return f"{networks.count} of {layers}, {networks.parameters_each:,} parameters each"


def _agents(plan: Plan) -> list[str]:
    sizes = zip(plan.agents, plan.observation_sizes, plan.action_sizes, strict=True)
    return [f"{agent} ({observed} observed, {action} of actions)" for agent, observed, action in sizes]


def _processes(plan: Plan) -> str:
    texts = []
    for kind in plan.processes:
        cpus = f", {kind.cpus} CPU{'s' if kind.cpus > 1 else ''} each" if kind.cpus else ""
        texts.append(
            f"{kind.count} {kind.name}{'s' if kind.count > 1 else ''} ({size(kind.bytes_each)}{cpus})"
        )
    return "; ".join(texts)
