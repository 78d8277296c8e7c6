"""Faults 7 and 8: asked to stop, a run saves the step in flight; asked twice, it ends, and the checkpoint before holds."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from peftlab.records.store import verify
from tests.faults.conftest import KINDS, Ground, saved
from tests.faults.inject import order


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == "lora" else pytest.mark.slow) for k in KINDS if k != "pissa"])
def test_07_sigterm_and_sigint_save_stop_and_say_so(ground: Ground, kind: str) -> None:
    config = ground.config(kind)
    for number, step, code in ((signal.SIGTERM, 3, 75), (signal.SIGINT, 9, 130)):
        fault = {"fault": "ask_to_stop", "step": step, "number": int(number), "starter": os.getpid()}
        outcome = ground.run(config, fault=fault)
        assert outcome.counts == {"interrupted": 1} and outcome.exit_code == code
        run = ground.here.run(config)
        assert run.status() == "interrupted" and verify(ground.here) == []
        assert saved(run)[-1] == step, "the step in flight is saved"
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 2


def test_08_a_second_signal_during_the_save_ends_it_and_the_checkpoint_before_holds(ground: Ground) -> None:
    config = ground.config()
    saving = order(ground.here.path).with_suffix(".saving")

    def stop_twice() -> None:
        while not saving.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop_twice)
    thread.start()
    outcome = ground.run(config, fault={"fault": "slow_save", "number": 3, "seconds": 60.0})
    thread.join()
    assert outcome.interrupted and outcome.exit_code == 130
    run = ground.here.run(config)
    assert run.status() == "interrupted" and saved(run) == [2, 4]
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 1
