import numpy as np
import torch

from distributed_maddpg.algo.handwritten import HandwrittenUpdate
from distributed_maddpg.algo.information import CommonCandidates, Counterfactuals
from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.envs.mpe.simple_adversary import AdversaryOptions, SimpleAdversary
from distributed_maddpg.types import EnvSpec, PrivatePart

CPU = torch.device("cpu")


def test_every_other_landmark_stands_in_for_the_goal_equally_often():
    env = make_vector_env("simple_adversary", 600, 0, N=4)
    obs = torch.stack([torch.from_numpy(own.copy()) for own in env.reset()[1:3]])
    changed = Counterfactuals(env.spec.private_parts[1:3], 1, CPU)(obs)
    assert torch.equal(changed[:, :, 2:], obs[:, :, 2:]), "only the private part changes"
    landmarks = obs[:, :, 2:10].view(2, 600, 4, 2)
    stands = (landmarks == changed[:, :, None, :2]).all(dim=3)
    goal = (landmarks == obs[:, :, None, :2]).all(dim=3)
    assert stands.sum(dim=2).eq(1).all() and not (stands & goal).any()
    per_goal = [stands[0][goal[0, :, k]].float().mean(dim=0) for k in range(4)]
    for k, shares in enumerate(per_goal):
        others = np.delete(shares.numpy(), k)
        np.testing.assert_allclose(others, 1 / 3, atol=0.12)  # of some 150 rows each: 3 standard errors


def test_observations_without_a_private_part_stay():
    parts = (None, PrivatePart((0, 1), ((1, 2), (2, 3))))
    obs = torch.tensor([[[1.0, 1, 2]], [[1.0, 1, 2]], [[5.0, 6, 5]], [[5.0, 6, 5]]])  # two runs of two agents
    changed = Counterfactuals(parts, 2, CPU)(obs)
    assert changed[:, 0].tolist() == [[1, 1, 2], [2, 1, 2], [5, 6, 5], [6, 6, 5]]
    assert not Counterfactuals((None, None), 2, CPU)


def test_constants_stand_in_behind_the_columns_of_their_candidate():
    part = PrivatePart((0, 2), ((2, 3), (3, 4)), constants=((0.25,), (0.75,)))
    obs = torch.tensor([[[7.0, 0.25, 7, 8], [8.0, 0.75, 7, 8]]])
    changed = Counterfactuals((part,), 1, CPU)(obs)
    assert changed.tolist() == [[[8, 0.75, 7, 8], [7, 0.25, 7, 8]]]


def test_values_are_means_over_constants_too():
    part = PrivatePart((0, 2), ((2, 3), (3, 4)), constants=((0.25,), (0.75,)))
    spec = EnvSpec(("red_0", "blue_0", "blue_1"), (1, 4, 4), (1, 1, 1), ("continuous",) * 3)
    joint = torch.tensor([[[9, 7, 0.25, 7, 8, 5, 0.75, 4, 5, 0.1, 0.2, 0.3]]])
    common = CommonCandidates(spec, (None, part, part), CPU)
    first, second = (each[0, 0].tolist() for each in common.joints(joint))
    own = joint[0, 0, 9:].tolist()
    assert first == [9, 7, 0.25, 7, 8, 4, 0.25, 4, 5, *own]
    assert second == [9, 8, 0.75, 7, 8, 5, 0.75, 4, 5, *own]
    assert common.changes(joint).tolist() == [[[0, 0, -1, -0.5], [1, 0.5, 0, 0]]]


def test_where_the_true_candidate_is_not_in_sight_all_but_the_nearest_stand_in():
    part = PrivatePart((0, 1), ((1, 2), (2, 3), (3, 4)))
    obs = torch.tensor([[2.1, 1, 2, 3]]).repeat(1, 6, 1)
    changed = Counterfactuals((part,), 1, CPU)(obs)
    assert changed[0, :, 0].tolist() == [3, 1, 3, 1, 3, 1]


def test_an_agent_with_nothing_private_gets_exactly_zero():
    spec = SimpleAdversary(AdversaryOptions(N=2, continuous_actions=True)).spec
    update = HandwrittenUpdate(AlgorithmConfig(information_weight=1.0), spec, CPU, (1,))
    batch = torch.rand(1, 37, spec.transitions.width, generator=torch.Generator().manual_seed(0))
    information = update(batch)[update.metrics.index("information")]
    assert information[0] == 0 and (information[1:] > 0).all()


def test_a_weight_changes_nothing_where_nothing_is_private():
    spec = EnvSpec(("red_0", "blue_0"), (3, 2), (2, 3), ("continuous", "discrete"))
    batch = torch.rand(1, 8, spec.transitions.width, generator=torch.Generator().manual_seed(0))
    ends = []
    for weight in (0.0, 3.0):
        config = AlgorithmConfig(policy_hidden_sizes=(6,), information_weight=weight)
        update = HandwrittenUpdate(config, spec, CPU, (1,))
        metrics = [update(batch) for _ in range(3)]
        ends.append((torch.stack(metrics), update.state()))
    (first, state), (second, other) = ends
    assert torch.equal(first, second)
    assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def test_with_a_large_weight_policies_stop_looking_at_the_private_part():
    spec = SimpleAdversary(AdversaryOptions(N=2, continuous_actions=True)).spec
    told = {}
    for weight in (0.0, 100.0):
        config = AlgorithmConfig(policy_hidden_sizes=(32,), policy_head="gumbel", information_weight=weight)
        update = HandwrittenUpdate(config, spec, CPU, (1,))
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            batch = torch.rand(1, 64, spec.transitions.width, generator=generator)
            for columns in spec.transitions.obs[1:]:
                own = batch[0, :, columns]
                own[:32, :2], own[32:, :2] = own[:32, 2:4], own[32:, 4:6]
            update(batch)
        obs = torch.rand(3, 100, 10, generator=generator)
        other = torch.cat((torch.rand(3, 100, 2, generator=generator), obs[:, :, 2:]), dim=2)
        with torch.no_grad():
            logits = [update.policy(each)[1:] for each in (obs, other)]
        told[weight] = float((torch.softmax(logits[0], 2) - torch.softmax(logits[1], 2)).square().mean())
    assert told[100.0] < told[0.0] / 10
