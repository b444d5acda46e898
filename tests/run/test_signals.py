import signal

import pytest

from distributed_maddpg.run.signals import stop_on_signals


def test_a_signal_whose_interrupt_was_lost_before_the_start_ends_the_run_at_its_start():
    with stop_on_signals(pytest.fail) as started:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            started()
