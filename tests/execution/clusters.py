"""Real Ray clusters of several nodes on this machine, with a token: each node a tree of processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

STORE = 80 * 2**20  #: bytes; as little as Ray takes
NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed")
TOKEN = "peftlab-tests-0123456789abcdef0123456789abcdef"
VARIABLES = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Node:
    """``ray start --block`` in a process of its own, with all that it starts."""

    def __init__(self, cluster: Cluster, arguments: list[str], resources: dict[str, float], cpus: int) -> None:
        cluster.folder.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        command += ["--include-log-monitor=false", f"--num-cpus={cpus}", f"--object-store-memory={STORE}"]
        command += [f"--resources={json.dumps(resources)}", *arguments]
        self.command, self.log = command, cluster.folder / f"node-{len(cluster.nodes)}.txt"
        self.killed = False
        self.start()

    def start(self) -> None:
        environment = {**os.environ, **VARIABLES}
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def pids(self) -> list[int]:
        with suppress(psutil.Error):
            return [self.process.pid, *(p.pid for p in psutil.Process(self.process.pid).children(recursive=True))]
        return []

    def kill(self) -> None:
        """All of it at once, as when the power goes."""
        self.killed = True
        found = self.pids()
        for again in range(3):  # some may have started others meanwhile
            for pid in found:
                with suppress(OSError):
                    os.kill(pid, signal.SIGSTOP if again == 0 else signal.SIGKILL)
            found = sorted({*found, *self.pids()})
        self.process.wait(30)


class Cluster:
    """A head, which runs nothing unless told so, and nodes."""

    def __init__(self, head_cpus: int = 0) -> None:
        #: not below pytest's own folder: the paths of Ray's sockets must stay under 107 bytes, whoever runs the tests
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp" if Path("/tmp").is_dir() else None))
        self.port, self.nodes = free_port(), []
        self.address = f"127.0.0.1:{self.port}"
        self.head_cpus, self.client_port = head_cpus, free_port()
        self.start_head()

    def start_head(self) -> None:
        arguments = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        self.head = Node(self, [*arguments, f"--ray-client-server-port={self.client_port}"], {}, self.head_cpus)
        self.nodes.append(self.head)
        until = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            assert time.monotonic() < until and self.head.process.poll() is None, self.head.log.read_text()
            time.sleep(0.2)

    def add(self, cpus: int = 1, gpus: int = 0, **resources: float) -> Node:
        """``gpus``: Ray keeps books on as many as it is told, whether there are any or not."""
        node = Node(self, [f"--address={self.address}", f"--num-gpus={gpus}"], resources, cpus)
        self.nodes.append(node)
        return node

    def wait(self) -> None:
        """Until all nodes have joined, and those that were killed are known to be gone."""
        import ray

        until = time.monotonic() + 120
        while True:
            with suppress(Exception):
                if not ray.is_initialized():
                    ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")  # pyright: ignore
                if sum(node["Alive"] for node in ray.nodes()) == sum(not node.killed for node in self.nodes):
                    break
            assert time.monotonic() < until, "".join(node.log.read_text() for node in self.nodes)
            for node in self.nodes:
                if (
                    node.process.poll() is not None and not node.killed
                ):  # it gives up after 30 s, which is short on a busy machine
                    node.start()
            time.sleep(0.3)
        ray.shutdown()

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def variables() -> Iterator[None]:
    """What a program needs to be let in; Ray reads it once, when it is first imported."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(VARIABLES)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
