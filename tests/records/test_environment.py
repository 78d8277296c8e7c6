"""What is recorded of a run's surroundings, and what is not."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from peftlab.records.environment import environment, sanitised


def test_the_facts_are_those_of_this_machine() -> None:
    found = environment([])
    assert found["python"] == sys.version.split()[0]
    assert found["cores_logical"] == os.cpu_count()
    assert found["memory_mb"] == round(psutil.virtual_memory().total / 2**20)
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert list(found["packages"]) == sorted(found["packages"])
    listed = "\n".join(f"{name}=={version}" for name, version in found["packages"].items())
    assert found["packages_sha256"] == hashlib.sha256(listed.encode()).hexdigest()
    json.dumps(found, allow_nan=False)


def test_the_commit_is_what_git_says() -> None:
    here, git = Path(__file__).parent, ["git", "rev-parse", "HEAD"]
    said = subprocess.run(git, capture_output=True, text=True, check=False, cwd=here)
    if said.returncode:
        pytest.skip("not in a git checkout")
    listed = subprocess.run(["git", "ls-files", "--", __file__], capture_output=True, text=True, check=True, cwd=here)
    if not listed.stdout:
        pytest.skip("a copy in an ignored folder of a checkout, of which git says nothing")
    code = "from peftlab.records.environment import environment; print(environment()['git']['commit'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == said.stdout


def test_only_listed_variables_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:native")
    monkeypatch.setenv("SOME_TOKEN", "canary-19c83a77")
    monkeypatch.setenv("INNOCENT", "canary-55ab19ee")
    monkeypatch.setenv("PYTORCH_NOTE", "it holds canary-19c83a77")
    text = json.dumps(environment(["peftlab", "run", "--note", "canary-19c83a77"]))
    assert "canary-" not in text
    kept = json.loads(text)["variables"]
    assert kept["OMP_NUM_THREADS"] == "1" and kept["PYTORCH_CUDA_ALLOC_CONF"] == "backend:native"
    assert "INNOCENT" not in kept and "SOME_TOKEN" not in kept


def test_the_command_is_shareable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    command = ["/home/somebody/.venv/bin/peftlab", "run", "/home/somebody/a study.yaml", "--set", "x=hf_" + "a1" * 17]
    assert sanitised(command).startswith("peftlab run '~/a study.yaml' --set ")
    assert "/home/somebody" not in sanitised(command)


def test_torch_is_described_where_it_is_loaded() -> None:
    torch = pytest.importorskip("torch")
    found = environment([])
    assert found["torch"]["version"] == torch.__version__
    assert found["threads"]["intra_op"] == torch.get_num_threads()
