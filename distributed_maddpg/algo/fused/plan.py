"""What an update works on, as records: sizes and settings, networks, agents, and what each thread does.

Compiled code takes a pointer to a record, whatever it holds; hundreds of arrays as arguments would take a
minute to compile. Records hold addresses of tables and memory, which `FusedUpdate` keeps alive.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Plan: TypeAlias = Any
"""A record of `PLAN`; compiled code reads its fields as attributes."""
Agent: TypeAlias = Any
"""A record of `AGENT`, or an array of them."""
Networks: TypeAlias = Any
"""A record of `NETWORKS`, or an array of them."""
Pass: TypeAlias = Any
"""A record of `PASS`."""
Task: TypeAlias = Any
"""A record of `TASK`."""
IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]
WordArray = npt.NDArray[np.uint32]

TILE = np.int64(64)
"""Rows of a tile. Constants are typed: for a Python integer as an argument numba would compile the function
once more."""
PANEL = np.int64(64)
"""Columns of a panel, see `perceptrons.py`."""
SAME, ADJACENT, ONE = np.int64(0), np.int64(1), np.int64(1)
"""Strides, and a count."""
NO, YES = np.int64(0), np.int64(1)
PARTS = ("rows and target actions", "critics", "policies", "optimisers and targets", "waiting for threads")
"""Parts of the work, whose time is measured."""
ROWS_PART, CRITICS_PART, POLICIES_PART, STEPS_PART, WAITING_PART = (np.int64(part) for part in range(5))
MAX_LAYERS = 8
"""Layers of a network, the output layer included."""
_COUNT, _ADDRESS, _FLAG, _FLOAT = np.int64, np.int64, np.int64, np.float32
_TABLE = (_COUNT, (MAX_LAYERS + 1,))

NETWORKS = np.dtype(
    [
        ("count", _COUNT),  # networks of this kind: N policies, or V critics
        ("groups", _COUNT),  # groups of tiles; each has its own sum of gradients
        ("layers", _COUNT),  # L
        ("sizes", *_TABLE),  # widths from the inputs to the outputs
        # Offsets in floats, per layer. The last layer's weight is transposed, except in flat parameters.
        ("flat_weights", *_TABLE),  # in flat parameters; the bias follows the weight
        ("weights", *_TABLE),  # in a network's panels, and in those of its gradient
        ("biases", *_TABLE),
        ("transposed", *_TABLE),  # in a network's panels; only layers between first and last
        ("hidden", *_TABLE),  # of the outputs in a tile's memory
        ("num_parameters", _COUNT),  # P
        ("panels_size", _COUNT),
        ("sums_size", _COUNT),
        # The following for each network.
        ("flat", _ADDRESS),  # [P] parameters
        ("grad", _ADDRESS),  # [P]
        ("exp_avg", _ADDRESS),  # [P] moments of Adam
        ("exp_avg_sq", _ADDRESS),
        ("target", _ADDRESS),  # [P] parameters of the target network
        ("mask", _ADDRESS),  # [inputs] 0 for inputs that the network does not use
        ("panels", _ADDRESS),  # [panels_size]
        ("target_panels", _ADDRESS),
        ("sums", _ADDRESS),  # [groups, sums_size] gradients in panels, summed over each group of tiles
        ("private_weights", _ADDRESS),  # the first layer's weights of private columns, in panels
    ],
    align=True,
)
"""All networks of one kind: policies, critics, or second critics."""

AGENT = np.dtype(
    [
        ("obs", _COUNT),  # first column in a transition
        ("num_obs", _COUNT),
        ("next_obs", _COUNT),
        ("actions", _COUNT),  # also the first column in a joint observation and action
        ("num_actions", _COUNT),
        ("reward", _COUNT),
        ("discount", _COUNT),
        ("present", _COUNT),  # column of whether the agent is in the episode, and the following; if `varying`
        ("acting", _COUNT),
        ("next_acting", _COUNT),
        ("masked", _FLAG),  # has action masks
        ("allowed", _COUNT),  # first column of its mask, and the following
        ("next_allowed", _COUNT),
        ("gumbel", _FLAG),  # head; otherwise sigmoid
        ("discrete", _FLAG),
        ("smoothed", _FLAG),  # target actions get noise
        ("twin", _FLAG),  # two critics, of which the lower value counts
        ("frozen", _FLAG),
        ("mean_value", _FLAG),  # values are means over candidates
        ("critic", _COUNT),  # number of its critic
        ("head", _COUNT),  # which of the critic's outputs is its value
        ("critic_size", _COUNT),  # agents that share the critic
        ("team", _COUNT),  # the first of the agents that share a policy; itself if it shares none
        ("team_size", _COUNT),
        ("private", _COUNT),  # first column of the private part in the observation
        ("private_size", _COUNT),
        ("num_candidates", _COUNT),  # 0 without information regularisation
        ("candidates", _ADDRESS),  # [candidates, private_size] columns of each, with the constants behind all
        ("constants", _ADDRESS),  # of all candidates
    ],
    align=True,
)
"""One agent."""

PASS = np.dtype(
    [
        ("panels", _ADDRESS),  # of the network
        ("height", _COUNT),  # rows of the tile
        ("inputs", _ADDRESS),
        ("inputs_row", _COUNT),  # floats between rows of the inputs
        ("num_inputs", _COUNT),  # may be less than the first layer's; its other inputs are zero then
        ("num_outputs", _COUNT),
        ("head", _COUNT),  # the first of these outputs among those of the network
        ("hidden", _ADDRESS),  # outputs of the hidden layers, in panels
        ("hidden_grad", _ADDRESS),  # gradients of their pre-activations
        ("outputs", _ADDRESS),  # [outputs, TILE]
        ("outputs_grad", _ADDRESS),  # [outputs, TILE], zero from row `height` on
        ("sums", _ADDRESS),  # to which the parameters' gradients are added
    ],
    align=True,
)
"""One network's pass over a tile."""

TASK = np.dtype(
    [
        ("update", _COUNT),
        ("agent", _COUNT),
        ("number", _COUNT),  # of the critic
        ("group", _COUNT),
        ("first", _COUNT),  # first row of the tile in the minibatch
        ("height", _COUNT),  # rows of the tile
        ("target", _FLAG),  # target policies act, not the policies
        ("since", _COUNT),  # when the present part of the work began, in nanoseconds
        ("spent", _COUNT, (len(PARTS),)),  # nanoseconds in each of `PARTS`
        ("policy", PASS),
        ("changed_policy", PASS),  # on observations with another candidate in the private part
        ("critic", PASS),
        ("relaxed", _ADDRESS),  # [A, TILE] as the following
        ("actions", _ADDRESS),
        ("told", _ADDRESS),
        ("told_grad", _ADDRESS),
        ("noise", _ADDRESS),  # [2 A + 2, TILE]
        ("scratch", _ADDRESS),  # [2, TILE]
        ("flags", _ADDRESS),  # [TILE] 1 for rows in which the agent is present or acts, see `set_flags`
        ("targets", _ADDRESS),  # [outputs of a critic, TILE]
        ("other_values", _ADDRESS),  # the same
        ("first_layer", _ADDRESS),  # [TILE, H] a critic's first pre-activation, in panels
        ("first_layer_grad", _ADDRESS),  # its gradient, summed over candidates
        ("joint", _ADDRESS),  # [TILE, J]
        ("own_change", _ADDRESS),  # [TILE, A] new own action minus the one in the joint input
        ("changes", _ADDRESS),  # [TILE, W]
        ("changed_obs", _ADDRESS),  # [TILE, O]
    ],
    align=True,
)
"""What a thread works on at present, and its memory."""

PLAN = np.dtype(
    [
        ("agents", _COUNT),  # N
        ("batch", _COUNT),  # B
        ("width", _COUNT),  # columns of a transition
        ("joint", _COUNT),  # J, columns of a joint observation and action
        ("obs", _COUNT),  # columns of the observations of all agents; the actions follow
        ("next_obs", _COUNT),  # first column of the next observations
        ("row_groups", _COUNT),  # groups of tiles whose rows are prepared together
        ("partial_groups", _COUNT),  # G, the most groups of tiles with own sums
        ("critics", _COUNT),  # kinds of critics, 1 or 2
        ("max_actions", _COUNT),  # A
        ("varying", _FLAG),  # agents may be absent
        ("candidates", _COUNT),  # C, inputs per row over which values are averaged
        ("private", _COUNT),  # W, private columns of all agents; 0 if no value is averaged
        ("common_private", _ADDRESS),  # [W] these columns in a joint observation
        ("common_candidates", _ADDRESS),  # [C, W] those of what else could stand there, or from J constants
        ("common_constants", _ADDRESS),
        ("information_rows", _COUNT),  # R; 0: no information regularisation
        ("temperature", _FLOAT),
        ("straight_through", _FLAG),
        ("target_noise", _FLOAT),
        ("random_rows", _FLOAT),
        ("current_actions", _FLAG),  # other agents act by their current policies in the actor loss
        ("regularise_actions", _FLAG),
        ("regulariser", _FLOAT),
        ("information_weight", _FLOAT),
        ("max_norm", _FLOAT),
        ("norm_per_parameter", _FLAG),
        ("tau", _FLOAT),
        ("zeros", _ADDRESS),  # as many as the widest layer has columns, padded
        ("ones", _ADDRESS),  # [TILE]
        # The rows of an update.
        ("source", _ADDRESS),  # [capacity, width] transitions, which their writer may overwrite
        ("capacity", _COUNT),
        ("index", _ADDRESS),  # [K, B] which of them to learn from
        ("epoch", _COUNT),  # of the ring, when they were drawn
        ("ring_epoch", _ADDRESS),  # the ring's counters, see replay/ring.py
        ("ring_first", _ADDRESS),
        ("ring_inserted", _ADDRESS),
        ("ring_reserved", _ADDRESS),
        ("unreadable", _ADDRESS),  # how many rows were never whole
        ("rows", _ADDRESS),  # [B, width] those of the present update
        ("next_joint_rows", _ADDRESS),  # [B, J] next observations and the target policies' actions
        ("first_layers", _ADDRESS),  # [V, tiles, TILE, H] of the critics, in panels; 0 if none is shared
        ("joint_rows", _ADDRESS),  # [B, J] observations and the policies' actions, if `current_actions`
        # What differs between the K updates of a call, and how far the threads are.
        ("updates", _COUNT),  # K
        ("policies_due", _ADDRESS),  # [K] whether the update includes policies and targets
        ("keys", _ADDRESS),  # [K, 2] of the random numbers
        ("steps", _ADDRESS),  # [K, 2, 2] for policies and critics: Adam's step, root of the second correction
        ("metrics", _ADDRESS),  # [metrics, N] sums over updates
        ("policy_metrics", _ADDRESS),  # [metrics of policies, N] of the latest policy update
        ("partial", _ADDRESS),  # [N, G, 5] sums over the rows of each group
        ("next_task", _ADDRESS),  # the number of the next task that no thread has taken
        ("prepared", _ADDRESS),  # [K, row groups] 1 once the rows of a group are ready
        ("critics_left", _ADDRESS),  # [K, N] groups that a critic still needs
        ("critics_done", _ADDRESS),  # [K, N] 1 once it made its step
        ("values_begun", _ADDRESS),  # [K, V, G] 1 once a critic's `first_layers` of a group are ready
        ("policies_left", _ADDRESS),  # [K, N] groups that a team's policies still need, at its first agent
        ("agents_done", _ADDRESS),  # [K] agents whose update is complete
    ],
    align=True,
)
"""One call of the update."""
