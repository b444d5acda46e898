import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.errors import BadInput


class CountingGym(gymnasium.Env):
    """Observes the step and 1000 times the episode; the reward is the step."""

    observation_space = Box(0, 2.0**24, (2,), np.float32)
    action_space = Discrete(3, start=1)

    def __init__(self, max_cycles=3, terminate=False, results=(2, 5)):
        self.max_cycles, self.terminate, self.results = max_cycles, terminate, results
        self.t, self.episode, self.actions, self.closed = 0, -1, [], False

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        result = self._observe(), {}
        return result if self.results[0] == 2 else result[0]

    def step(self, action):
        self.t += 1
        self.actions.append(action)
        ended = self.t >= self.max_cycles
        result = self._observe(), self.t, ended and self.terminate, ended and not self.terminate, {}
        return result[: self.results[1]]

    def close(self):
        self.closed = True

    def _observe(self):
        return np.array([self.t, 1000 * self.episode], np.float32)


@pytest.mark.parametrize("terminate", [True, False])
def test_a_gymnasium_environment_is_one_agent_and_every_value_is_of_its_step(terminate):
    env = make_vector_env(CountingGym, 2, 0, terminate=terminate)
    assert env.agents == ("agent_0",)
    assert (env.observation_sizes, env.action_sizes, env.action_types) == ((2,), (3,), ("discrete",))
    assert env.reset()[0].tolist() == [[0, 0]] * 2
    results = [env.step([np.array([0, action])]) for action in (0, 1, 2, 0)]
    assert [result.rewards.tolist() for result in results] == [[[t], [t]] for t in (1, 2, 3, 1)]
    assert [result.final_obs[0][0].tolist() for result in results] == [[1, 0], [2, 0], [3, 0], [1, 1000]]
    assert [result.obs[0][0].tolist() for result in results] == [[1, 0], [2, 0], [0, 1000], [1, 1000]]
    ends = [(bool(result.terminated.all()), bool(result.truncated.all())) for result in results]
    assert ends == [(False, False), (False, False), (terminate, not terminate), (False, False)]
    assert [copy.env.actions for copy in env.envs] == [[1, 1, 1, 1], [1, 2, 3, 1]]
    env.close()
    assert all(copy.env.closed for copy in env.envs)


def test_an_environment_of_gymnasiums_registry_is_named_by_its_maker_and_restored():
    env, other = (make_vector_env("gymnasium:make", 2, seed, id="CartPole-v1") for seed in (0, 1))
    env.reset()
    steps = [[np.array([t % 2, 1])] for t in range(30)]
    for actions in steps:
        env.step(actions)
    other.set_state(env.get_state())
    for actions in steps:
        assert (other.step(actions).obs[0] == env.step(actions).obs[0]).all()


@pytest.mark.parametrize(
    ("results", "remedy"),
    [
        ((1, 5), "its reset must return (observations, infos)"),
        ((2, 4), "its step must return (observations, rewards, terminations, truncations, infos)"),
    ],
)
def test_results_of_the_older_gym_are_refused(results, remedy):
    env = make_vector_env(CountingGym, 1, 0, results=results)
    with pytest.raises(BadInput) as caught:
        env.reset()
        env.step([np.array([0])])
    assert str(caught.value) == f"env.id = 'factory:CountingGym': {remedy}"
