"""Executions with real processes: what a run may die of, who may share a study, and how it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from peftlab.errors import OptionError
from peftlab.execution.local import execute
from peftlab.execution.progress import NullListener, Outcome
from peftlab.execution.protocol import Evaluated, Finished, Message, Started, Step, WorkerOptions
from peftlab.execution.silence import Silence
from peftlab.planning.stacking import Stacking
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder, RunFolder, verify
from tests.execution.targets import configuration

WORK, AT_ONCE = "tests.execution.targets:work", "tests.execution.targets:finish_at_once"
#: ``python -c RUNNER FOLDER JOBS CONFIG...``: an execution in a process of its own; prints events as JSON lines
RUNNER = """
import sys
from pathlib import Path
from peftlab.execution import local, processes
from peftlab.execution.progress import JsonListener
from peftlab.execution.protocol import WorkerOptions
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
processes.PRELOAD = ("peftlab.execution.child", "tests.execution.targets")
folder = ResultsFolder(sys.argv[1])
configs = [RunConfig.model_validate_json(text) for text in sys.argv[3:]]
outcome = local.execute(folder, configs, jobs=int(sys.argv[2]), options=WorkerOptions(cache=Path(sys.argv[1]) / "cache"),
                        listener=JsonListener(), target="tests.execution.targets:work")
sys.exit(outcome.exit_code)
"""


class Recorder(NullListener):
    def __init__(self) -> None:
        self.messages: list[tuple[int, Message]] = []
        self.silences: list[Silence] = []

    def message(self, config: RunConfig, message: Message) -> None:
        self.messages.append((config.seed, message))

    def silent(self, silence: Silence) -> None:
        self.silences.append(silence)


def run(folder: ResultsFolder, configs: list[RunConfig], options: WorkerOptions, **more: Any) -> Outcome:
    return execute(folder, configs, options=options, **{"jobs": 2, "listener": NullListener(), "target": WORK, **more})


def start_runner(folder: ResultsFolder, configs: list[RunConfig], jobs: int = 2) -> subprocess.Popen[str]:
    texts = [config.model_dump_json() for config in configs]
    command = [sys.executable, "-c", RUNNER, str(folder.path), str(jobs), *texts]
    cwd = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, start_new_session=True)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def steps(folder: RunFolder) -> list[int]:
    return [line.step for line in folder.metrics()]


def starts(folder: ResultsFolder) -> Counter[str]:
    path = folder.path / "starts.txt"
    return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


def wait_for(condition: Any, what: str, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def worker_pids(folder: ResultsFolder) -> list[int]:
    path = folder.path / "starts.txt"
    return [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_runs_are_done_once_and_then_reused(results_folder: ResultsFolder, options: WorkerOptions) -> None:
    configs = [configuration(seed) for seed in range(4)]
    recorder = Recorder()
    outcome = run(results_folder, [*configs, configs[0]], options, listener=recorder)
    assert outcome.counts == {"finished": 4} and outcome.exit_code == 0
    first = [message for seed, message in recorder.messages if seed == 2]
    assert first == [Started(0, 3), *(Step(n, 3, 1 / n, 1e-3) for n in (1, 2, 3)), Finished()]
    again = run(results_folder, configs, options)
    assert again.counts == {"reused": 4} and len(again.reused) == 4
    assert set(starts(results_folder).values()) == {1}
    assert verify(results_folder) == []
    assert all(not (folder.path / "worker.log").exists() for folder in results_folder.runs())


@pytest.mark.parametrize(
    ("asked", "type_", "said"),
    [
        ({"kill_at": 2}, "WorkerDied", "SIGKILL"),
        ({"kill_at": 2, "signal": int(signal.SIGSEGV)}, "WorkerDied", "SIGSEGV"),
        ({"exit_at": 2}, "WorkerDied", "code 3"),
        ({"raise_at": 2}, "NonFinite", "not finite"),
        ({"break_at": 2}, "ZeroDivisionError", "[redacted]"),
    ],
)
def test_a_run_that_dies_is_recorded_and_its_siblings_go_on(
    results_folder: ResultsFolder, options: WorkerOptions, asked: dict[str, Any], type_: str, said: str
) -> None:
    configs = [configuration(0, **asked), *(configuration(seed) for seed in (1, 2))]
    outcome = run(results_folder, configs, options)
    assert outcome.counts == {"failed": 1, "finished": 2} and outcome.exit_code == 1
    folder = results_folder.run(configs[0])
    assert folder.status() == "failed"
    record = folder.error()
    assert record is not None and record.step == 1
    assert record.error["type"] == type_ and said in record.error["what"] and record.error["remedy"]
    assert "hf_abc" not in record.model_dump_json()
    assert outcome.failed[0].error == record.error
    assert verify(results_folder) == []
    if type_ != "WorkerDied":
        assert "targets.py" in record.traceback
    if "signal" in asked:
        assert "Segmentation fault" in record.traceback, "the stack of a crash in native code is kept"


def test_a_step_that_hangs_is_reported_with_its_stack_and_not_ended(results_folder: ResultsFolder, tmp_path: Path) -> None:
    options = WorkerOptions(cache=tmp_path / "cache", silence_s=1.0)
    hanging = configuration(0, hang_at=2, hang_s=5.0)
    recorder = Recorder()
    outcome = run(results_folder, [hanging, configuration(1)], options, listener=recorder)
    assert outcome.counts == {"finished": 2}
    told = [silence for silence in recorder.silences if silence.step == 1]
    first = told[0]
    assert {silence.config.seed for silence in told} == {0}
    assert all(silence.silent_s >= 2.0**n for n, silence in enumerate(told)), "told again when the time has doubled"
    assert first.log is not None and str(first.pid) in first.sentence() and str(first.log) in first.sentence()
    assert "in work" in first.log.read_text(), "the stack names the function that hangs"
    assert verify(results_folder) == []


def test_a_run_that_has_not_spoken_yet_is_reported_and_not_signalled(results_folder: ResultsFolder, tmp_path: Path) -> None:
    recorder = Recorder()
    options = WorkerOptions(cache=tmp_path / "cache", silence_s=1.0)
    outcome = run(results_folder, [configuration(0, mute_s=3.0)], options, listener=recorder)
    assert outcome.counts == {"finished": 1}
    assert recorder.silences and recorder.silences[0].step is None and recorder.silences[0].log is None


def test_a_run_that_hangs_is_ended_where_its_study_says_so_and_one_that_still_prepares_is_not(
    results_folder: ResultsFolder, options: WorkerOptions
) -> None:
    fail = {"train": {"on_hang": "fail", "hang_limit_s": 1.5}}
    hangs = configuration(0, hang_at=2, hang_s=600.0).model_copy(update=fail)
    loads = configuration(1, mute_s=4.0).model_copy(update=fail)
    slow = configuration(2, hang_at=2, hang_s=3.0).model_copy(update={"train": {"on_hang": "report", "hang_limit_s": 1.5}})
    recorder = Recorder()
    outcome = run(results_folder, [hangs, loads, slow], options, listener=recorder)
    assert {ending.config.seed: ending.how for ending in outcome.endings} == {0: "failed", 1: "finished", 2: "finished"}
    assert outcome.failed[0].error["type"] == "Hung" and [silence.ends for silence in recorder.silences] == [True]
    assert run(results_folder, [hangs], options).counts == {"failed-before": 1}, "tried again only on request"
    assert not any(alive(pid) for pid in worker_pids(results_folder))


def stacked(folder: ResultsFolder, configs: list[RunConfig], options: WorkerOptions, **more: Any) -> Outcome:
    alike = Stacking(9, known={config.run_id: "" for config in configs})
    return run(folder, configs, options, stacking=alike, stack_target="tests.execution.targets:begin_together", jobs=1, **more)


def test_of_a_stack_that_hangs_every_run_goes_on_alone_and_ends_by_its_own_limit(
    results_folder: ResultsFolder, options: WorkerOptions
) -> None:
    fail = {"train": {"on_hang": "fail", "hang_limit_s": 1.5}}
    runs = [configuration(seed, hang_at=3 if seed == 1 else 0, hang_s=600.0).model_copy(update=fail) for seed in range(3)]
    recorder = Recorder()
    outcome = stacked(results_folder, runs, options, listener=recorder)
    assert {ending.config.seed: ending.how for ending in outcome.endings} == {0: "finished", 1: "failed", 2: "finished"}
    assert outcome.failed[0].error["type"] == "Hung"
    assert [silence.ends for silence in recorder.silences] == [True, True], "once of the stack, once of the run"


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGTERM, "interrupted"), (signal.SIGINT, "interrupted"), (signal.SIGSEGV, "finished")]
)
def test_a_stack_that_is_asked_to_stop_from_outside_is_not_started_again(
    results_folder: ResultsFolder, options: WorkerOptions, number: int, how: str
) -> None:
    """As a run is not that has its process for itself; one that crashed is."""
    runs = [configuration(seed, signal=int(number)) for seed in range(2)]
    assert stacked(results_folder, runs, options).counts == {how: 2}


def test_failed_runs_are_shown_and_retried_only_when_asked(
    results_folder: ResultsFolder, options: WorkerOptions, tmp_path: Path
) -> None:
    config = configuration(0, raise_at=3, unless=str(tmp_path / "mended"))
    assert run(results_folder, [config], options).counts == {"failed": 1}
    shown = run(results_folder, [config], options)
    assert shown.counts == {"failed-before": 1} and shown.exit_code == 1
    assert shown.failed[0].error["type"] == "NonFinite"
    assert run(results_folder, [config], options, retry_failed=True).counts == {"failed": 1}
    (tmp_path / "mended").touch()
    assert run(results_folder, [config], options, retry_failed=True).counts == {"finished": 1}
    folder = results_folder.run(config)
    assert steps(folder) == [1, 2, 3], "it went on where it had stopped"
    assert sorted(path.name for path in folder.path.glob("error*")) == ["error-1.json", "error-2.json"]
    assert starts(results_folder)[config.run_id] == 3


def test_of_arms_of_equal_configuration_each_failed_run_is_retried(results_folder: ResultsFolder, options: WorkerOptions) -> None:
    """Their runs have one id, and errors of their own."""
    first = configuration(0, break_at=3)
    second = first.model_copy(update={"arm": "twin", "label": "twin", "slug": "twin"})
    assert first.run_id == second.run_id
    assert run(results_folder, [first, second], options).counts == {"failed": 2}
    assert run(results_folder, [first, second], options, retry_failed=True).counts == {"failed": 2}
    for config in (first, second):
        assert sorted(path.name for path in results_folder.run(config).path.glob("error*")) == ["error-1.json", "error.json"]
    assert starts(results_folder)[first.run_id] == 4


def test_a_worker_that_cannot_be_imported_is_a_recorded_failure(results_folder: ResultsFolder, options: WorkerOptions) -> None:
    outcome = run(results_folder, [configuration()], options, target="tests.execution.no_such_module:main")
    assert outcome.failed[0].error["type"] == "ModuleNotFoundError"


def test_jobs_below_one_are_refused(results_folder: ResultsFolder, options: WorkerOptions) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        run(results_folder, [configuration()], options, jobs=0)


def test_a_run_that_another_process_holds_is_left_and_said_so(results_folder: ResultsFolder, options: WorkerOptions) -> None:
    held, free = configuration(0), configuration(1)
    with results_folder.run(held).create(held).lease():
        outcome = run(results_folder, [held, free], options, jobs=1)
    assert {ending.config.seed: ending.how for ending in outcome.endings} == {0: "leased", 1: "finished"}
    assert outcome.exit_code == 6, "it may fail there"
    assert str(os.getpid()) in next(ending.detail for ending in outcome.endings if ending.how == "leased")


def test_two_runners_share_a_study_and_do_nothing_twice(results_folder: ResultsFolder) -> None:
    configs = [configuration(seed, step_s=0.1) for seed in range(8)]
    runners = [start_runner(results_folder, configs), start_runner(results_folder, configs)]
    told = [events(runner.communicate(timeout=120)[0]) for runner in runners]
    left = [any(event["event"] == "ended" and event["how"] == "leased" for event in one) for one in told]
    assert [runner.returncode for runner in runners] == [6 if by_one else 0 for by_one in left], "not done until the other is"
    assert starts(results_folder) == Counter({config.run_id: 1 for config in configs})
    finished = [[e["run_id"] for e in one if e["event"] == "ended" and e["how"] == "finished"] for one in told]
    assert sorted(finished[0] + finished[1]) == sorted(config.run_id for config in configs)
    assert all(finished), "both did some of the work"
    for one in told:
        assert len([e for e in one if e["event"] == "ended"]) == len(configs), "each runner accounts for every run"
    assert verify(results_folder) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_on_request_at_a_step_boundary_and_continued(
    results_folder: ResultsFolder, options: WorkerOptions, number: int, code: int
) -> None:
    configs = [configuration(seed, steps=40, step_s=0.05) for seed in range(3)]
    runner = start_runner(results_folder, configs)
    wait_for(lambda: len(worker_pids(results_folder)) == 2, "two workers")
    wait_for(lambda: all(steps(results_folder.run(config)) for config in configs[:2]), "a step of each")
    os.killpg(runner.pid, number) if number == signal.SIGINT else runner.send_signal(number)  # as a terminal does
    told = events(runner.communicate(timeout=60)[0])
    assert runner.returncode == code
    assert told[-1]["counts"] == {"interrupted": 2} and told[-1]["interrupted"]
    assert [e["signal"] for e in told if e["event"] == "stopping"] == [signal.Signals(number).name]
    assert [results_folder.run(config).status() for config in configs] == ["interrupted", "interrupted", "new"]
    assert not any(alive(pid) for pid in worker_pids(results_folder))
    outcome = run(results_folder, configs, options, jobs=3)
    assert outcome.counts == {"finished": 3}
    assert all(steps(results_folder.run(config)) == list(range(1, 41)) for config in configs), "no step lost, none twice"


def test_the_second_signal_does_not_wait(results_folder: ResultsFolder) -> None:
    config = configuration(0, steps=1000, step_s=0.02, save_s=60)
    runner = start_runner(results_folder, [config])
    wait_for(lambda: steps(results_folder.run(config)), "a step")
    runner.send_signal(signal.SIGINT)
    assert runner.stdout is not None
    told = ""
    while '"stopping"' not in told:
        told = runner.stdout.readline()
    runner.send_signal(signal.SIGINT)
    assert runner.wait(20) == 130
    assert not any(alive(pid) for pid in worker_pids(results_folder))
    assert results_folder.run(config).status() == "interrupted"


def test_workers_save_and_stop_when_their_starter_is_killed(results_folder: ResultsFolder, options: WorkerOptions) -> None:
    configs = [configuration(seed, steps=200, step_s=0.05) for seed in range(2)]
    runner = start_runner(results_folder, configs)
    wait_for(lambda: len(worker_pids(results_folder)) == 2, "two workers")
    wait_for(lambda: all(steps(results_folder.run(config)) for config in configs), "a step of each")
    runner.kill()
    runner.communicate()
    wait_for(lambda: not any(alive(pid) for pid in worker_pids(results_folder)), "no orphans", 20)
    for config in configs:
        folder = results_folder.run(config)
        assert folder.status() == "interrupted"
        assert steps(folder) == list(range(1, len(steps(folder)) + 1))


class Faulty(NullListener):
    def message(self, config: RunConfig, message: Message) -> None:
        if isinstance(message, Step) and message.step == 3:
            raise ZeroDivisionError


def test_when_the_listener_breaks_the_workers_save_and_stop(results_folder: ResultsFolder, options: WorkerOptions) -> None:
    configs = [configuration(seed, steps=400, step_s=0.05) for seed in range(2)]
    with pytest.raises(ZeroDivisionError):
        run(results_folder, configs, options, listener=Faulty())
    assert not any(alive(pid) for pid in worker_pids(results_folder))
    assert {results_folder.run(config).status() for config in configs} <= {"interrupted", "new"}
    assert len(steps(results_folder.run(configs[0]))) < 400


def test_from_another_thread_than_the_main_one(results_folder: ResultsFolder, options: WorkerOptions) -> None:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(results_folder, [configuration()], options)))
    thread.start()
    thread.join(60)
    assert [outcome.counts for outcome in outcomes] == [{"finished": 1}]


def test_a_secret_in_a_configuration_stops_that_run_and_is_not_written(
    results_folder: ResultsFolder, options: WorkerOptions
) -> None:
    token = "hf_" + "a1" * 17
    outcome = run(results_folder, [configuration(0, note=token), configuration(1)], options)
    assert outcome.counts == {"failed": 1, "finished": 1}
    assert "secret" in outcome.failed[0].error["what"]
    assert not any(token in path.read_text() for path in results_folder.path.rglob("*") if path.is_file())


def test_a_killed_fork_server_does_not_lose_the_study(results_folder: ResultsFolder) -> None:
    configs = [configuration(0, steps=600, step_s=0.05), configuration(1, steps=600, step_s=0.05), configuration(2)]
    runner = start_runner(results_folder, configs)
    wait_for(lambda: len(worker_pids(results_folder)) == 2, "two workers")
    server = psutil.Process(worker_pids(results_folder)[0]).parent()
    assert server is not None and server.pid != runner.pid
    server.kill()
    told = events(runner.communicate(timeout=60)[0])
    assert runner.returncode == 1
    endings = [e for e in told if e["event"] == "ended"]
    assert sorted(e["how"] for e in endings) == ["failed", "failed", "finished"]
    assert {e["error"]["type"] for e in endings if e["how"] == "failed"} == {"WorkerDied"}
    wait_for(lambda: not any(alive(pid) for pid in worker_pids(results_folder)), "no orphans", 20)


def test_a_script_without_a_main_guard_works(results_folder: ResultsFolder, tmp_path: Path) -> None:
    script = tmp_path / "study_script.py"
    script.write_text(RUNNER)
    command = [sys.executable, str(script), str(results_folder.path), "1", configuration().model_dump_json()]
    cwd = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(cwd), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [e["how"] for e in events(done.stdout) if e["event"] == "ended"] == ["finished"]


def test_what_workers_print_does_not_reach_our_output(results_folder: ResultsFolder, options: WorkerOptions, capfd) -> None:
    config = configuration(0, say="chatter of a library, token")
    run(results_folder, [config], options)
    assert capfd.readouterr() == ("", "")
    log = (results_folder.run(config).path / "worker.log").read_text()
    assert log == "chatter of a library, token [redacted]\n"
    assert verify(results_folder) == []


def test_fifty_trivial_runs(results_folder: ResultsFolder, options: WorkerOptions, record_property) -> None:
    configs = [configuration(seed) for seed in range(50)]
    recorder = Recorder()
    began = time.monotonic()
    outcome = run(results_folder, configs, options, jobs=1, target=AT_ONCE, listener=recorder)
    overhead_s = (time.monotonic() - began) / len(configs)
    print(f"orchestration: {overhead_s:.3f} s per trivial run")
    record_property("overhead_s_per_run", overhead_s)
    assert outcome.counts == {"finished": 50}
    assert sum(isinstance(message, Evaluated) for _, message in recorder.messages) == 50
