"""Each bottleneck is named from times that only it would give."""

from __future__ import annotations

import pytest

from distributed_maddpg.bottleneck import SHARES, name_bottleneck, time_shares

# workers: busy, push, weights, pacing; learner: busy, minibatches, pacing (shares of the time)
CASES = {
    "learner": (0.05, 0.05, 0.02, 0.83, 0.97, 0.01, 0.02),
    "sample transfer": (0.10, 0.05, 0.02, 0.83, 0.30, 0.60, 0.10),
    "replay": (0.10, 0.70, 0.02, 0.18, 0.30, 0.60, 0.10),
    "worker CPU": (0.90, 0.05, 0.02, 0.03, 0.20, 0.05, 0.75),
    "push": (0.30, 0.65, 0.02, 0.03, 0.20, 0.05, 0.75),
    "weights": (0.20, 0.10, 0.65, 0.05, 0.20, 0.05, 0.75),
    "pacing": (0.20, 0.10, 0.05, 0.65, 0.20, 0.05, 0.75),
}


@pytest.mark.parametrize("name", CASES)
def test_every_bottleneck_is_named_by_its_shares(name: str) -> None:
    assert name_bottleneck(dict(zip(SHARES, CASES[name], strict=True))) == name


def test_pushes_and_minibatches_that_both_wait_mean_the_replay_buffer() -> None:
    shares = dict(zip(SHARES, CASES["push"], strict=True))
    assert name_bottleneck({**shares, "learner_blocked_replay": 0.3}) == "replay"


def timers(*seconds: float) -> dict[str, float]:
    return {f"{name}_s": value for name, value in zip(SHARES, seconds, strict=True)}


def test_shares_are_seconds_over_the_length() -> None:
    shares = time_shares(timers(1.0, 0.5, 0.25, 2.25, 3.0, 0.5, 0.5), 4.0, in_turn=False)
    assert shares == dict(zip(SHARES, (0.25, 0.125, 0.0625, 0.5625, 0.75, 0.125, 0.125), strict=True))


def test_a_wait_that_began_before_counts_only_what_fits() -> None:
    shares = time_shares(timers(1.0, 0.0, 0.0, 3.0, 3.5, 0.25, 9.0), 4.0, in_turn=False)
    assert shares["learner_blocked_pacing"] == 0.0625
    assert name_bottleneck(shares) == "learner"


def test_stages_in_one_process_wait_for_their_turn() -> None:
    shares = time_shares(timers(3.0, 0.0, 0.0, 0.0, 0.5, 0.25, 0.0), 4.0, in_turn=True)
    assert (shares["rollout_blocked_pacing"], shares["learner_blocked_pacing"]) == (0.25, 0.8125)
    assert name_bottleneck(shares) == "worker CPU"


def test_a_learner_that_was_never_asked_is_no_bottleneck() -> None:
    shares = time_shares(timers(1.0, 2.5, 0.0, 0.5, 0.0, 0.0, 0.0), 4.0, in_turn=False)
    assert shares["learner_blocked_pacing"] == 1.0
    assert name_bottleneck(shares) == "push"
