"""What a Ray execution decides before, or without, a cluster."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from peftlab.api.engines import Where
from peftlab.errors import MissingExtra, OptionError
from peftlab.execution.here import Here
from peftlab.execution.ray.cluster import Node, connect, remarks, told, with_own_files
from peftlab.execution.ray.engine import RayEngine
from peftlab.execution.ray.machines import Machines
from peftlab.execution.ray.passport import differences, passport, survey, watched
from peftlab.execution.ray.place import Place
from peftlab.execution.ray.task import fingerprints
from tests.execution.clusters import NEEDS_RAY
from tests.execution.targets import configuration

GB = 1e9


def node(cpus: float = 4, gpus: float = 0, memory: float = 8 * GB, shared: bool = True, **more: float) -> Node:
    resources = {"CPU": cpus, "memory": memory, **({"GPU": gpus} if gpus else {}), **more}
    return Node(id="n", host="h", resources=resources, shared=shared, gpu_mb=0.0, watched=watched())


def machines(tmp_path: Path, *nodes: Node) -> Machines:
    return Machines(folder=tmp_path, nodes=list(nodes))


def test_a_rule_names_an_arm_a_label_or_a_task(tmp_path: Path) -> None:
    config = configuration().model_copy(
        update={"arm": "lora", "label": "lora[rank=8]", "task": {"kind": "text-classification", "data": "mrpc"}}
    )
    for what in ("lora", "lora[rank=8]", "mrpc", "text-classification"):
        rules = Place.parse([f"{what}=big", "other=small"])
        assert list(rules.resources(config)) == ["big"], what
    assert list(Place.parse(["lora=big", "mrpc=left"]).resources(config)) == ["big", "left"], "all rules hold at once"
    files = config.model_copy(update={"task": {"kind": "t", "data": {"name": "npz", "path": "/data/cifar.npz"}}})
    assert list(Place.parse(["npz=a"]).resources(files)) == ["a"]


@pytest.mark.parametrize("text", ["big", "=big", "lora=", ""])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is no rule"):
        Place.parse([text])


def test_rules_without_effect_are_refused() -> None:
    with pytest.raises(OptionError, match="no run is named 'amr'") as caught:
        Place.parse(["amr=big"]).check([configuration()], ["big"])
    assert "'arm'" in caught.value.remedy
    with pytest.raises(OptionError, match="no node has the resource 'bag'"):
        Place.parse(["arm=bag"]).check([configuration()], ["big"])


def test_needs_are_predicted_memory_with_headroom_and_room_is_what_fits(tmp_path: Path) -> None:
    run = configuration().model_copy(update={"predicted": {"peak_mb": 1800.0}})
    on_cpu = machines(tmp_path, node(), node(cpus=1), node(memory=1 * GB))
    needs = on_cpu.needs(run)
    assert needs == {"CPU": 1.0, "memory": 2 * GB}
    assert on_cpu.room(needs) == 4 + 1 + 0
    assert on_cpu.available_mb == 8000.0 and on_cpu.threads == 1
    pinned = dataclasses.replace(on_cpu, place=Place.parse(["arm=big"]))
    assert pinned.room(pinned.needs(run)) == 0
    pinned.nodes.append(node(big=1))
    assert pinned.room(pinned.needs(run)) == 4, "a resource that says where does not limit how many"


def test_runs_get_a_gpu_where_there_are_any_and_its_share_of_the_cores(tmp_path: Path) -> None:
    on_gpu = machines(tmp_path, node(cpus=16, gpus=2), node())
    assert on_gpu.needs(configuration()) == {"CPU": 8.0, "GPU": 1.0}
    assert on_gpu.available_mb is None, "memory of the GPU is not what Ray keeps books on"
    assert on_gpu.room(on_gpu.needs(configuration())) == 2
    assert dataclasses.replace(on_gpu, gpus=0.5).room({"CPU": 4.0, "GPU": 0.5}) == 4
    assert dataclasses.replace(on_gpu, gpus=0.0).needs(configuration()) == {"CPU": 1.0}


def test_one_node_apart_makes_all_work_on_copies(tmp_path: Path) -> None:
    alike = machines(tmp_path, node(), node())
    assert RayEngine(machines=alike, cache=tmp_path).one_disk
    mixed = machines(tmp_path, node(), node(shared=False))
    assert not RayEngine(machines=mixed, cache=tmp_path).one_disk and "1 do not see the disk" in remarks(mixed.nodes)[0]
    assert not RayEngine(machines=alike, cache=tmp_path, share=False).one_disk


def test_who_is_asked_for_models_and_data() -> None:
    here = dataclasses.replace(node(), host=platform.node())
    elsewhere, apart = node(), dataclasses.replace(here, shared=False)
    idle = dataclasses.replace(elsewhere, resources={"memory": 8 * GB})
    assert with_own_files([here, elsewhere, apart, idle]) == [elsewhere, apart]


def test_versions_that_differ_are_told_by_name() -> None:
    ours = passport()
    assert differences(ours, dict(ours)) == []
    assert differences({"torch": "2.12.0"}, {"torch": "2.11.0"}) == ["torch 2.11.0 there, 2.12.0 here"]
    assert ours["code"] and ours["torch"] and ours["python"].startswith("3.")
    other = dataclasses.replace(node(), watched={**watched(), "numpy": "1.0"})
    assert "numpy 1.0 there" in remarks([other])[1]


def test_one_node_is_one_node() -> None:
    assert remarks([node(cpus=1)])[0].startswith("Ray: 1 node, 1 CPU, 0 GPUs;")
    assert remarks([node(), node(gpus=1)])[0].startswith("Ray: 2 nodes, 8 CPUs, 1 GPU;")


def test_a_survey_loads_no_torch() -> None:
    code = (
        "import sys\nfrom peftlab.execution.ray.passport import survey\nsurvey('/', 'none')\n"
        "print(*[m for m in ('torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert survey("/", "none")["shared"] is False and done.stdout.strip() == ""


def test_the_command_line_and_the_engine_load_ray_only_when_asked() -> None:
    code = (
        "import sys\nimport peftlab.execution.ray.engine, peftlab.execution.ray.task, peftlab.execution.ray.execution\n"
        "print('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_fingerprints_are_those_of_the_plan_and_an_absence_is_said() -> None:
    (backbone, data), (lost, _) = fingerprints([
        ("bundled:vit-nano", '{"kind": "image-classification", "data": "digits"}'),
        ("/no/such/folder", '{"kind": "image-classification", "data": "digits"}'),
    ])  # fmt: skip
    assert len(backbone) == len(data) == 64
    assert "no" in lost and lost != backbone


def test_options_of_one_engine_are_refused_by_the_other(tmp_path: Path) -> None:
    here = Where(device="cpu").make(tmp_path, tmp_path)
    assert isinstance(here, Here) and here.device == "cpu"
    assert isinstance(Where(engine="ray", place=["a=b"]).make(tmp_path, tmp_path), RayEngine)
    for option, where in {
        "--address": Where(address="auto"),
        "--place": Where(place=["a=b"]),
        "--gpus": Where(gpus=0.0),
        "--no-shared-disk": Where(shared_disk=False),
        "--device": Where(engine="ray", device="cpu"),
    }.items():
        with pytest.raises(OptionError) as caught:
            where.make(tmp_path, tmp_path)
        assert caught.value.where == option
    with pytest.raises(OptionError, match="there is no engine 'rya'") as caught:
        Where(engine="rya").make(tmp_path, tmp_path)
    assert "'ray'" in caught.value.remedy


@pytest.mark.parametrize("address", ["", "somewhere", "host:", "http://host:80", "host:12 --flag", "host:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(OptionError, match="is no address"):
        connect(address)


def test_without_ray_the_remedy_is_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra) as caught:
        connect("auto")
    assert ".[ray]" in caught.value.remedy and caught.value.exit_code == 8


@NEEDS_RAY
def test_of_a_traceback_of_the_head_its_last_line_is_told() -> None:
    text = "Initialization failure from server:\nTraceback (most recent call last):\n  File ...\nRuntimeError: Proxy failed\n"
    assert told(ConnectionAbortedError(text)) == "RuntimeError: Proxy failed"
    assert told(RuntimeError("Version mismatch\nRay: 2")) == "Version mismatch" and told(OSError()) == "OSError"


def test_a_port_where_nobody_listens_is_told_at_once(tmp_path: Path) -> None:
    from peftlab.errors import PlanRefused

    with pytest.raises(PlanRefused, match="nobody answers") as caught:
        connect("127.0.0.1:9")
    assert caught.value.exit_code == 5
