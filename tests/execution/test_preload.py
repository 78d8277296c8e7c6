"""The fork server as it is used: everything imported, nothing started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import json, sys
from pathlib import Path
from peftlab.execution.local import execute, warm_up
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import WorkerOptions
from peftlab.records.store import ResultsFolder
from tests.execution.targets import configuration
folder = ResultsFolder(sys.argv[1]).open_or_create("study: tests")
warm_up()
for threads in (1, 2):
    options = WorkerOptions(cache=Path(sys.argv[1]) / "cache", threads=threads)
    outcome = execute(folder, [configuration(threads)], jobs=1, options=options, listener=NullListener(),
                      target="tests.execution.targets:look_around")
    run = folder.run(configuration(threads))
    print(json.dumps(run.read_json("seen.json") if outcome.exit_code == 0 else run.error().traceback))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are spawned here")
def test_children_start_with_everything_loaded_from_a_server_without_threads(tmp_path: Path) -> None:
    cwd = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "tests")], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    for threads, line in zip((1, 2), done.stdout.splitlines(), strict=True):
        seen = json.loads(line)
        assert seen["server_threads"] == 1, "a forked child would wait for the others for ever"
        assert {"torch", "transformers", "peft", "timm", "sklearn"} <= set(seen["loaded"])
        assert seen["torch_threads"] == threads and seen["variable"] == str(threads)
        assert seen["cuda_initialized"] is False
        assert seen["worked"] == 64.0, "a forked child can compute"
