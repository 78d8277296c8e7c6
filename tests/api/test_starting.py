"""init, list and doctor."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from peftlab import api
from peftlab.api.listing import describe, sources
from peftlab.api.starting import shipped_studies
from peftlab.errors import OptionError, StudyError
from peftlab.registry import PACKAGES, Component, components
from peftlab.study.load import load_study

ROOT = Path(__file__).parents[2]


def drawn(answer, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(answer.table(), highlight=False)
    return console.export_text()


def test_every_shipped_study_is_a_template(tmp_path: Path) -> None:
    names = {path.stem for path in (ROOT / "studies").glob("*.yaml")}
    assert set(shipped_studies()) == names and "digits" in names
    for name in names:
        answer = api.init(tmp_path / name / "mine.yaml", template=name)
        assert list(load_study(answer["path"]).arms) == answer["arms"]


@pytest.mark.parametrize(
    ("file", "name"), [("my-first.yaml", "my-first"), ("My Study (2).yaml", "my-study-2"), ("1.2.yml", "1.2"), ("no.yaml", "no")]
)
def test_a_new_study_is_called_as_its_file(tmp_path: Path, file: str, name: str) -> None:
    """Results of the template in the same folder are another study's, and what README says to type next finds its own."""
    answer = api.init(tmp_path / file)
    assert load_study(tmp_path / file).study == answer["study"] == name
    assert f"results/{name}" in drawn(answer, 200)


def test_every_template_can_be_renamed(tmp_path: Path) -> None:
    for template in shipped_studies():
        assert api.init(tmp_path / f"{template}-mine.yaml", template=template)["study"] == f"{template}-mine"


def test_init_names_every_arm_of_a_grid(tmp_path: Path) -> None:
    shown = drawn(api.init(tmp_path / "mine.yaml"))
    assert "7 arms: full, probe, bitfit, lora[rank=2], lora[rank=8]" in " ".join(shown.split())


@pytest.mark.parametrize("kind", [None, *PACKAGES, "study"])
def test_lists_fit_80_columns_and_cut_no_word(kind: str | None) -> None:
    shown = drawn(api.list(kind), 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "``" not in shown
    entries = api.list(kind).as_dict()
    found = {word for group in entries.values() for entry in group.values() for word in entry["summary"].split()}
    assert {word.replace("``", "`") for word in found if len(word) > 20} <= set(shown.split())


def test_init_never_overwrites_and_suggests(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("mine")
    for path in (tmp_path / "study.yaml", tmp_path):
        with pytest.raises(StudyError, match="nothing is overwritten"):
            api.init(path)
    assert (tmp_path / "study.yaml").read_text() == "mine"
    with pytest.raises(StudyError) as caught:
        api.init(tmp_path / "new.yaml", template="digit")
    assert "'digits'" in caught.value.remedy
    assert not (tmp_path / "new.yaml").exists()


def test_studies_of_an_installed_package_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel has them inside the package."""
    import peftlab

    (tmp_path / "peftlab" / "_studies").mkdir(parents=True)
    (tmp_path / "peftlab" / "_studies" / "one.yaml").write_text((ROOT / "studies" / "digits.yaml").read_text())
    monkeypatch.setattr(peftlab, "__file__", str(tmp_path / "peftlab" / "__init__.py"))
    shipped_studies.cache_clear()
    try:
        assert list(shipped_studies()) == ["one"]
    finally:
        shipped_studies.cache_clear()
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"studies" = "peftlab/_studies"' in settings


def test_list_names_every_component_and_every_option() -> None:
    listed = api.list().as_dict()
    for kind in ("adapter", "task", "data", "backbone", "allocator", "quantizer"):
        assert set(listed[kind]) == set(components(kind))
        for name, cls in components(kind).items():
            fields = [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
            assert [option["name"] for option in listed[kind][name]["options"]] == fields
    lora = {option["name"]: option for option in listed["adapter"]["lora"]["options"]}
    assert (lora["rank"]["default"], lora["rank"]["type"], lora["rank"]["required"]) == (8, "int", False)
    assert "on the adapter's input" in lora["dropout"]["meaning"]
    assert "all-linear" in lora["targets"]["meaning"]
    assert listed["adapter"]["lora"]["citation"].startswith("@inproceedings")
    assert listed["adapter"]["full"]["citation"] is None
    assert listed["task"]["image-classification"]["options"][0]["required"] is True
    json.dumps(listed, allow_nan=False)


def test_every_citation_gives_a_line_with_who_when_and_what() -> None:
    cited = [cls.citation for kind in PACKAGES for cls in components(kind).values() if cls.citation]
    assert cited
    for bibtex in cited:
        found = [*sources(bibtex)]
        assert len(found) == bibtex.count("@")
        assert all(re.fullmatch(r"[A-Z][^{}\\]* (19|20)\d\d, [^{}\\]{10,}", line) for line in found), found


def test_sources_are_in_the_list_of_a_kind() -> None:
    assert [*sources(components("adapter")["lora"].citation)] == [
        "Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models"
    ]
    assert "Jie & Deng 2023" in drawn(api.list("adapter"))


def test_one_component_by_its_name() -> None:
    answer = api.list("lora")
    assert list(answer.as_dict()) == ["adapter"]
    text = drawn(answer)
    assert "option" in text and "rslora" in text and "@inproceedings" in text


def test_unknown_word_suggests() -> None:
    with pytest.raises(OptionError) as caught:
        api.list("adaptor")
    assert "'adapter'" in caught.value.remedy
    for kind in PACKAGES:  # also kinds of which there is nothing yet
        api.list(kind)


@pytest.mark.parametrize("kind", [None, "adapter", "study", "lora"])
def test_tables_fit_80_columns(kind: str | None) -> None:
    text = drawn(api.list(kind))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


@dataclasses.dataclass(frozen=True)
class _Example(Component):
    """An example. With more words."""

    name: ClassVar[str] = "example"
    hash: str = "a # b"  #: at its line
    #: on the line above,
    #: in two lines
    above: int = 1
    wrapped: str | None = (
        None  #: where a formatter put it
    )  # fmt: skip
    silent: list[int] = dataclasses.field(default_factory=list)  # no meaning


def test_meanings_are_read_from_the_comments() -> None:
    options = {option["name"]: option for option in describe(_Example)["options"]}
    meanings = {name: option["meaning"] for name, option in options.items()}
    assert meanings == {
        "hash": "at its line", "above": "on the line above, in two lines", "wrapped": "where a formatter put it", "silent": ""
    }  # fmt: skip
    assert options["silent"]["default"] == [] and options["silent"]["type"] == "list[int]"


@pytest.mark.parametrize("verb", ["list", "init", "analyze", "verify", "status", "report", "choose"])
def test_light_verbs_import_no_torch(verb: str) -> None:
    code = f"import sys\nfrom peftlab import api\napi.{verb}\nprint('torch' in sys.modules)"
    if verb == "list":
        code = "import sys\nfrom peftlab import api\napi.list('study')\napi.list('figure')\nprint('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "False", done.stderr
