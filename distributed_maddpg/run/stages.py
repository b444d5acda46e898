"""Snapshots of the policies at stages of a run, `policies/step_<env steps>`: what was learned when.

Each is a checkpoint of the policies alone, 70 kB by default. They stay when checkpoints are deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distributed_maddpg.checkpoint.folder import save_checkpoint
from distributed_maddpg.checkpoint.listing import checkpoints_of, remove_checkpoint, remove_drafts
from distributed_maddpg.errors import TrainingError, one_line
from distributed_maddpg.rollout import first_policies
from distributed_maddpg.trainer import MADDPG
from distributed_maddpg.types import FloatArray

STAGES = (0.0, 0.1, 0.3)
"""Shares of the run's env steps at which policies are kept, beside those of its end."""


class PolicyStages:
    """Keeps the policies of a run's stages; a failure to write is noted and ends nothing."""

    def __init__(self, run_dir: Path, algo: MADDPG, note: Callable[[str], None]) -> None:
        """Continue at the run's env steps, without what a later part of it left that is trained again.

        Args:
            run_dir: folder of the run.
            algo: the run, not started yet.
            note: called with why a snapshot could not be written.
        """
        self._folder, self._algo, self._note = run_dir / "policies", algo, note
        total = algo.config.pacing.total_env_steps
        remove_drafts(self._folder)
        kept = [0]
        for path in map(Path, checkpoints_of(self._folder)):
            steps = int(path.name.removeprefix("step_"))
            if steps > algo.env_steps or algo.restored_tables is None:
                remove_checkpoint(path)
            else:
                kept.append(steps)
        # A run that resumes past a stage that it has no snapshot of was begun by an older version.
        due = (round(share * total) for share in STAGES)
        self._due = [steps for steps in due if steps > max(algo.env_steps, *kept)]
        if algo.restored_tables is None:
            self._save(0, 0, first_policies(algo.config, algo.spec))

    def advance(self) -> None:
        """Keep the present policies if the run has reached another stage."""
        reached = [steps for steps in self._due if self._algo.env_steps >= steps]
        if reached:
            self._due = self._due[len(reached) :]
            self.keep()

    def keep(self) -> None:
        """Keep the present policies."""
        self._save(self._algo.env_steps, self._algo.updates, self._algo.policy_parameters())

    def _save(self, env_steps: int, updates: int, policies: FloatArray) -> None:
        checkpoint = self._algo.policies_checkpoint(env_steps, updates, policies)
        path = self._folder / checkpoint.name
        try:
            save_checkpoint(path, checkpoint)
        except (OSError, ValueError, TrainingError) as error:
            self._note(one_line(f"{path}: this snapshot of the policies could not be written ({error})"))
