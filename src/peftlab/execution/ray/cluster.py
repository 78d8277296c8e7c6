"""A Ray cluster as peftlab sees it: reached, looked at, and refused where runs would not be the same on all of its nodes."""

from __future__ import annotations

import json
import platform
import re
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from peftlab.errors import MissingExtra, OptionError, PlanRefused, install
from peftlab.execution.ray.mailbox import NAMESPACE
from peftlab.execution.ray.passport import differences, passport, survey, watched
from peftlab.records.record import RunConfig

#: a head starts a server of its own for each ray:// program, which dies at once where the next port is taken meanwhile; Ray then
#: says that it failed, or trips over the zombie, according to when it looks: the answer is this, and a traceback of the head's
_TRIES, _NO_SERVER = 5, "Initialization failure from server"
_REST_S = 1.0  #: before another try
_ADDRESS = re.compile(r"auto|(ray://)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}")
_REACH_S, _SURVEY_S = 5.0, 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine, as it answered."""

    id: str
    host: str
    resources: Mapping[str, float]
    shared: bool  #: sees the disk of the results
    gpu_mb: float
    watched: Mapping[str, str]  #: versions that may differ

    def room(self, needs: Mapping[str, float]) -> int:
        """How many runs with these needs fit at once."""
        if any(self.resources.get(name, 0.0) < amount for name, amount in needs.items()):
            return 0
        counted = [int(self.resources[name] // needs[name]) for name in ("CPU", "GPU", "memory") if needs.get(name)]
        return min(counted, default=1)


def require() -> Any:
    """Ray.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        what = f"Ray cannot be imported: {error}"
        raise MissingExtra(what, where="--engine ray", remedy=install("ray")) from error
    return ray


def connect(address: str) -> bool:
    """Become a program of the cluster; False where this process is one already.

    Raises:
        MissingExtra: Ray is not installed.
        OptionError: that is no address.
        PlanRefused: nobody answers there, or not to us.
    """
    if not _ADDRESS.fullmatch(address):
        remedy = "write auto (a cluster of this machine), HOST:PORT, or ray://HOST:PORT"
        raise OptionError(f"{address!r} is no address of a cluster", where="--address", remedy=remedy)
    ray = require()
    if ray.is_initialized():
        return False
    if address != "auto" and not reachable(address):
        raise _unreachable(address, "nobody answers")
    for left in reversed(range(_TRIES)):
        try:
            with _handlers_kept():
                ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
            with suppress(Exception), _handlers_kept():
                ray.shutdown()
            if not left or _NO_SERVER not in str(error):
                raise _unreachable(address, told(error)) from error
            time.sleep(_REST_S)
        else:
            break
    return True


def told(error: Exception) -> str:
    """The line that says what was wrong: the first, of a traceback of the head's the last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if _NO_SERVER in lines[0] else 0].strip()


def disconnect() -> None:
    """Leave the cluster; its tasks of ours are ended."""
    with suppress(Exception), _handlers_kept():
        require().shutdown()


def head(address: str) -> str:
    """Where the head of the cluster listens that this process is connected to."""
    return address if "://" in address else require().get_runtime_context().gcs_address


def reachable(address: str) -> bool:
    """Whether something listens there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S):
            return True
    except OSError:
        return False


def on_node(task: Any, node_id: str, **more: Any) -> Any:
    """The task or actor, for one node only, whatever else runs there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False), **more)


def look(folder: str, witness: str) -> list[Node]:
    """All nodes that live, each asked what it is.

    Raises:
        PlanRefused: a node does not answer, has no peftlab, or another one than this machine; or there is no node.
    """
    ray = require()
    alive = [node for node in ray.nodes() if node["Alive"]]
    task = ray.remote(survey)
    asked = {node["NodeID"]: on_node(task, node["NodeID"], max_retries=0).remote(folder, witness) for node in alive}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=_SURVEY_S) if asked else None
    found, wrong = [], []
    for node in alive:
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            told = ray.get(asked[node["NodeID"]], timeout=0)
        except ray.exceptions.GetTimeoutError:
            wrong.append(f"{name}: no answer within {_SURVEY_S:.0f} s")
            continue
        except ray.exceptions.RayError as error:
            if node["NodeID"] in {one["NodeID"] for one in ray.nodes() if one["Alive"]}:  # else it has just died
                wrong.append(f"{name}: {_last_line(error)}")
            continue
        wrong += [f"{name}: {difference}" for difference in differences(passport(), told["passport"])]
        kept = {key: told[key] for key in ("host", "shared", "gpu_mb", "watched")}
        found.append(Node(id=node["NodeID"], resources=node["Resources"], **kept))
    if wrong or not found:
        remedy = "install the same versions and the same code on every machine (docs/ray.md), and start its node again"
        raise PlanRefused("; ".join(wrong) or "the cluster has no node", where="--address", remedy=remedy)
    return found


def number_of(number: float, word: str) -> str:
    return f"{number:g} {word if number == 1 else word + 's'}"


def remarks(nodes: Sequence[Node]) -> list[str]:
    """What the reader should know about the nodes."""
    apart = sum(not node.shared for node in nodes)
    cpus, gpus = (sum(node.resources.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    disk = (
        f"{apart} do not see the disk of the results: what runs there is sent back when it ends" if apart else "all on one disk"
    )
    said = [f"Ray: {number_of(len(nodes), 'node')}, {number_of(cpus, 'CPU')}, {number_of(gpus, 'GPU')}; {disk}"]
    unlike = {node.host: found for node in nodes if (found := differences(watched(), node.watched))}
    return [*said, *(f"{host}: {', '.join(found)}: results may differ in the last bits" for host, found in unlike.items())]


def with_own_files(nodes: Iterable[Node]) -> list[Node]:
    """Those that compute and may have other models and data than this machine: a disk that is shared for the results need not be
    the one that models lie on."""
    computing = [node for node in nodes if any(node.resources.get(name) for name in ("CPU", "GPU"))]
    return [node for node in computing if not node.shared or node.host != platform.node()]


def check_sources(nodes: Iterable[Node], configs: Iterable[RunConfig]) -> None:
    """Data and backbones must be the same on all nodes that may have others.

    Raises:
        PlanRefused: they are not.
    """
    from peftlab.execution.ray.task import fingerprints

    ray = require()
    wanted = {
        (config.backbone, json.dumps(config.task, sort_keys=True)): (config.backbone_fingerprint, config.data_fingerprint)
        for config in configs
    }
    task = ray.remote(max_calls=1)(fingerprints)
    asked = [(node, on_node(task, node.id, max_retries=0).remote(list(wanted))) for node in with_own_files(nodes)]
    wrong = []
    for node, reference in asked:
        for ((backbone, text), ours), theirs in zip(wanted.items(), ray.get(reference), strict=True):
            names = (f"backbone {backbone}", f"data of {json.loads(text).get('data', text)}")
            wrong += [
                f"{node.host}: {name}: {there}" for name, here, there in zip(names, ours, theirs, strict=True) if here != there
            ]
    if wrong:
        remedy = "put the same files under the same names on every node, or on a disk that all share"
        raise PlanRefused("not the same as here: " + "; ".join(wrong), where="--address", remedy=remedy)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray sets handlers of its own for signals."""
    before = {}
    with suppress(ValueError):  # not the main thread
        before = {number: signal.signal(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unreachable(address: str, why: str) -> PlanRefused:
    remedy = "`ray status` on that machine says whether a cluster runs there; a token may be needed (docs/ray.md)"
    return PlanRefused(f"no Ray cluster can be reached at {address}: {why}", where="--address", remedy=remedy)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
