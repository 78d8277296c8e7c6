"""The doctor: what it says works was tried, and what breaks, crashes or hangs is a line with a remedy."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from peftlab import api
from peftlab.api import _trials, doctoring

ROOT = Path(__file__).parents[2]


def test_everything_has_a_state_and_what_does_not_work_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    answer = api.doctor()
    found = {line["name"]: line for line in answer.as_dict()["lines"]}
    for name in (
        "torch",
        "transformers",
        "peft",
        "timm",
        "python",
        "memory",
        "disk",
        "cache",
        "torch.compile",
        "chromium",
        "LaTeX",
    ):
        assert found[name]["state"] in ("ok", "warn"), found[name]
    assert "products with 4 and 8 bits work" in found["bitsandbytes"]["found"]
    assert "HF_HUB_OFFLINE" in found["hub"]["found"]
    assert answer.exit_code == 0
    for line in found.values():
        assert bool(line["remedy"]) == (line["state"] != "ok"), line
    console = Console(width=80, file=io.StringIO())
    console.print(answer.table())
    assert max(len(line.rstrip()) for line in console.file.getvalue().splitlines()) <= 80  # pyright: ignore


def installed(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of this name that shadows the real one in the processes of the trials."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_what_crashes_or_hangs_is_told_and_the_next_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "bitsandbytes", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", monkeypatch)
    installed(tmp_path, "onnxruntime", "raise OSError('libsomething.so: cannot open shared object file')", monkeypatch)
    installed(tmp_path, "ray", "__version__ = '0'", monkeypatch)
    found = doctoring._try(("bitsandbytes", "onnxruntime", "ray"), 120)
    assert found["bitsandbytes"][0]["found"] == "crashes: SIGSEGV"
    assert "libsomething" in found["onnxruntime"][0]["found"] and found["ray"][0]["state"] == "ok"
    (line,) = doctoring._optional("bitsandbytes", found["bitsandbytes"][0])
    assert line.state == "warn" and "install" in line.remedy


def test_what_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "ray", "import time; time.sleep(600)", monkeypatch)
    began = time.monotonic()
    assert doctoring._try(("ray",), 5)["ray"][0]["found"] == "hangs: no answer within 5 s"
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "code", ["raise ImportError('undefined symbol: _ZN5torch')", "import os; os.abort()", "import sys; sys.exit(3)"]
)
def test_an_installation_that_clashes_is_named_with_what_to_uninstall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    installed(tmp_path, "torch_xla", code, monkeypatch)
    (line,) = doctoring._optional("torch_xla", doctoring._try(("torch_xla",), 120)["torch_xla"][0])
    assert line.state == "warn" and "pip uninstall torch_xla" in line.remedy
    assert not list(doctoring._optional("jax", {"name": "jax", "state": "absent", "found": "", "remedy": ""}))


@pytest.mark.slow
def test_a_broken_needed_library_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole verb, as a person types it."""
    installed(tmp_path, "peft", "raise OSError('libsomething.so: cannot open shared object file')", monkeypatch)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{tmp_path}", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "peftlab", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    found = {line["name"]: line for line in json.loads(done.stdout)["lines"]}
    assert found["peft"]["state"] == "fail" and "libsomething" in found["peft"]["found"] and found["peft"]["remedy"]
    assert found["timm"]["state"] == "ok"


@pytest.mark.slow
def test_full_compiles_and_exports() -> None:
    pytest.importorskip("onnxruntime")
    for name in ("ONNX", "torch.compile"):
        found = _trials.tried(name)
        assert found["state"] == "ok", found


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    line = doctoring._disk(tmp_path / "a" / "b", "cache", "")
    assert line.state in ("ok", "warn") and str(tmp_path) in line.found and not (tmp_path / "a").exists()


def test_hub_that_never_answers_does_not_hang() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)  # takes the connection and says nothing
        began = time.monotonic()
        problem = doctoring._reach(f"http://127.0.0.1:{server.getsockname()[1]}", 0.3)
        assert problem
        assert time.monotonic() - began < 3


def test_hub_that_answers() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(405)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert doctoring._reach(f"http://127.0.0.1:{server.server_port}", 3.0) is None
