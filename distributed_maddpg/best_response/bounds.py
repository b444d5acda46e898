"""What adversaries of `simple_adversary` reach that know nothing of the goal, or everything."""

from __future__ import annotations

from distributed_maddpg.best_response.opponents import ADVERSARY, REACH, Opponent, play, scripted_opponent
from distributed_maddpg.best_response.uninformed import (
    DoubleArray,
    distances_to,
    geometric_medians,
    points_near_most,
)
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.mpe.simple_adversary import AdversaryOptions
from distributed_maddpg.evaluation.scores import SUCCESS_EPS
from distributed_maddpg.evaluation.scripted import assigned_targets, centroid_targets, goal_targets
from distributed_maddpg.types import FloatArray

_BOUND_EPISODES, _MIN_BOUND_EPISODES, _PLAYED_EPISODES = 20_000, 200, 1_000
_BOUND_WORK = _BOUND_EPISODES * 4**3
"""Limit of start states times landmarks cubed. The time of the bounds is proportional to it; at the limit
they take some seconds."""


def adversary_bounds(config: MADDPGConfig, parameters: FloatArray, seed: int) -> dict[str, dict[str, float]]:
    """Return bounds on the final distance from the goal (mean) and on the success of an adversary.

    Args:
        config: of a run of the compiled `simple_adversary`.
        parameters: [N, P] its policies, whose good agents the informed adversary plays against.
        seed: of the start states.

    Returns:
        "uninformed": the best without knowledge of the goal, of distance and of success separately;
        "uninformed_squared": at the point of least squared distance, which OpenAI's MPE rewards;
        "informed": measured, of an adversary that knows the goal and moves straight to it;
        "blind_team": measured, of an adversary at the landmarks' centroid against a scripted team that covers
        the landmarks without looking at the goal, with that team's own success. It shows that good agents
        can reach the goal and give nothing away.
    """
    options = AdversaryOptions.from_kwargs(config.env.kwargs)
    episodes = max(_MIN_BOUND_EPISODES, min(_BOUND_EPISODES, _BOUND_WORK // options.N**3))
    kernel = make_vector_env(config.env.id, episodes, seed, backend="vectorized", **config.env.kwargs)
    kernel.reset()
    landmarks = kernel.get_state()["landmark_positions"]

    def bound(distance: float, success: float) -> dict[str, float]:
        return {"final_distance": float(distance), "success": float(success)}

    def waiting(points: DoubleArray) -> dict[str, float]:
        distances = distances_to(landmarks, points)
        return bound(distances.mean(), 100 * (distances < SUCCESS_EPS).mean())

    def played(players: dict[str, Opponent]) -> dict[str, float]:
        card = play(config, parameters, players, min(_PLAYED_EPISODES, episodes), seed).to_dict()
        own = bound(card["final_distance_mean"][ADVERSARY], card["success"][ADVERSARY])
        return {**own, **{name: card["success"][name] for name in ("agents", "coverage")}}

    nearest, near_most = waiting(geometric_medians(landmarks)), waiting(points_near_most(landmarks, REACH))
    adversary = scripted_opponent("centroid", centroid_targets, options)
    return {
        "uninformed": bound(nearest["final_distance"], near_most["success"]),
        "uninformed_squared": waiting(landmarks.mean(axis=1)),
        "informed": played({ADVERSARY: scripted_opponent("straight", goal_targets, options)}),
        "blind_team": played(
            {ADVERSARY: adversary, "agent": scripted_opponent("blind", assigned_targets, options)}
        ),
    }
