"""From YAML to a validated study; every mistake is a StudyError that says what, where and what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftlab.errors import OptionError, StudyError
from peftlab.study.expand import cells
from peftlab.study.load import apply_overrides, dump, load_study, of_file, parse_yaml, validate_study
from peftlab.study.schema import Study

TEXT = """\
study: small
question: Is it?
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits}
seeds: [0, 1]
train: {epochs: 2, learning_rate: 1e-3}
arms:
  full: {adapter: full, learning_rate: 1e-4}
  lora: {adapter: {name: lora, rank: [2, 8]}}
tune: {learning_rate: [3e-4, 1e-3], seeds: [100], on: validation}
analysis: {metric: accuracy, baseline: full, margin: {relative: 0.03}}
"""


def load(tmp_path: Path, text: str, overrides: tuple[str, ...] = ()) -> Study:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study(path, overrides)


def test_a_study(tmp_path: Path) -> None:
    study = load(tmp_path, TEXT)
    assert study.train.learning_rate == 0.001
    assert study.tune is not None
    assert study.tune.on == "validation"  # YAML 1.1 would read ``on`` as true
    assert study.tune.grid == {"learning_rate": [3e-4, 1e-3]}
    assert len(cells(study)) == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E4", 1e4),
        ("1.", 1.0),
        ("0o17", 15),
        ("0x1F", 31),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("012", 12),
        ("~", None),
        ("true", True),
        ("[1, [2, 3]]", [1, [2, 3]]),
    ],
)
def test_numbers_and_words_follow_yaml_1_2(text: str, value: Any) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize(
    ("old", "new", "message", "place"),
    [
        ("train: {epochs", "train: {epoch", "Did you mean 'epochs'", "train.epoch"),
        ("full: {adapter:", "full: {adaptor:", "Did you mean 'adapter'", "arms.full.adaptor"),
        (
            "full: {adapter: full, learning_rate",
            "full: {adapter: full, learning_rat",
            "'learning_rate'",
            "arms.full.learning_rat",
        ),
        ("question:", "qestion:", "Did you mean 'question'", "qestion"),
        ("metric: acc", "metrik: acc", "Did you mean 'metric'", "analysis.metrik"),
        ("relative: 0.03", "relativ: 0.03", "Did you mean 'relative'", "analysis.margin.relativ"),
        ("seeds: [0, 1]", 'seeds: ["0", 1]', "a whole number", "seeds.0"),
        ("seeds: [0, 1]", "seeds: [true, 1]", "a whole number", "seeds.0"),
        ("seeds: [0, 1]", "seeds: [-1]", "must be 0 or more, not -1", "seeds.0"),
        ("seeds: [0, 1]", "seeds: []", "a list with something in it", "seeds"),
        ("seeds: [0, 1]", "seeds: [1, 1]", "listed twice", ""),
        ("seeds: [100]", "seeds: [1]", "tuning seeds must not be evaluation seeds", ""),
        ("seeds: [100]", "seeds: [-5]", "0 or more", "tune.seeds.0"),
        ("epochs: 2", "epochs: 0", "must be above 0, not 0", "train.epochs"),
        ("epochs: 2", "epochs: .inf", "finite", ""),
        ("epochs: 2", "epochs: .nan", "finite", ""),
        ("relative: 0.03", "relative: 0.03, absolute: 1.0", "exactly one", "analysis.margin"),
        ("backbone: bundled:vit-nano\n", "", "'backbone' is missing", ""),
        ("full: {adapter: full", "Full: {adapter: full", "is no name", "arms"),
        ("study: small", "study: ../small", "is no name", "study"),
        ("tune: {learning_rate", "tune: {learning_rat", "no key of train", "tune"),
        ("epochs: 2,", "epochs: 2, early_stopping: {patiance: 1},", "Did you mean 'patience'", "train.early_stopping.patiance"),
        ("epochs: 2,", "batch_size: 8, effective_batch_size: 12,", "not a multiple", "train"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]", "duplicate key", ":6"),
        ("seeds: [0, 1]", "seeds: &a [0, 1]\nmatrix: {epochs: *a}", "aliases", ""),
        ("seeds: [0, 1]", "seeds: !!python/object/apply:os.system [echo]", "tags", ""),
        ("question: Is it?", "question: !!binary aGk=", "tags", ""),
        ("task: {", "task: {since: 2020-01-01, ", "neither text nor", ""),
        ("task: {", "task: {3: 4, ", "not text", ""),
        ("question: Is it?", 'question: "\\ud800"', "not valid YAML", ""),
        ("seeds: [0, 1]", "seeds: [0, 1", "not valid YAML", ""),
        ("seeds: [0, 1]", "---\nseeds: [0, 1]", "not valid YAML", ""),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, message: str, place: str) -> None:
    assert old in TEXT
    with pytest.raises(StudyError) as caught:
        load(tmp_path, TEXT.replace(old, new))
    assert message in str(caught.value)
    assert "s.yaml" in caught.value.where
    assert place in caught.value.where
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "- 1\n", "just words", "3", "null"])
def test_what_is_no_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(StudyError, match="mapping"):
        load(tmp_path, text)
    with pytest.raises(StudyError, match="mapping"):
        load(tmp_path, text, ("train.epochs=1",))


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("arms.lora.adapter.rnk", "s.yaml: arms.lora.adapter.rnk"),
        ("arms.lora, blocks.0.attn", "s.yaml: arms.lora, blocks.0.attn"),
        ("analysis.baseline", "s.yaml: analysis.baseline"),
        ("--stack", "--stack"),
        ("photos/train/ants", "photos/train/ants"),
    ],
)
def test_a_key_that_is_wrong_later_on_is_told_with_its_file(where: str, told: str) -> None:
    with pytest.raises(StudyError) as error, of_file("s.yaml"):
        raise OptionError("is wrong", where=where)
    assert error.value.where == told


def test_an_overridden_key_may_stand_in_either_place() -> None:
    with pytest.raises(StudyError) as error, of_file("s.yaml", ["arms.lora.adapter.rnk=2"]):
        raise OptionError("is wrong", where="arms.lora.adapter.rnk")
    assert error.value.where == "s.yaml and --set: arms.lora.adapter.rnk"


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(TEXT)
    with pytest.raises(StudyError, match=re.escape("Did you mean 'digits.yaml'")):
        load_study(tmp_path / "digit.yaml")
    (tmp_path / ".digit.yaml").touch()
    with pytest.raises(StudyError, match=re.escape("Did you mean 'digits.yaml'")):
        load_study(tmp_path / "digit.yaml")  # a hidden file is none of the user's studies
    with pytest.raises(StudyError, match="no such"):
        load_study(tmp_path / "nowhere" / "s.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match="UTF-8"):
        load_study(tmp_path / "b.yaml")
    (tmp_path / "large.yaml").write_text("# " + "x" * 1_000_000)
    with pytest.raises(StudyError, match="1 MB"):
        load_study(tmp_path / "large.yaml")
    with pytest.raises(StudyError, match="this is a folder"):
        load_study(tmp_path)


def test_overrides(tmp_path: Path) -> None:
    chosen = (
        "train.epochs=1",
        "train.batch_size=auto",
        "arms.full.adapter.extra=[1, 2]",
        "arms.lora.adapter.rank=4",
        "seeds=[7]",
    )
    study = load(tmp_path, TEXT, chosen)
    assert study.train.epochs == 1
    assert study.train.batch_size == "auto"
    assert study.seeds == [7]
    assert study.arms["full"].adapter == {"name": "full", "extra": [1, 2]}
    assert study.arms["lora"].adapter == {"name": "lora", "rank": 4}
    assert apply_overrides({}, ["a.b.c=1e-3"]) == {"a": {"b": {"c": 1e-3}}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=1", "Did you mean 'epochs'"),
        ("train.epochs", "key.path=value"),
        ("=3", "key.path=value"),
        ("study.x=1", "holds no keys"),
        ("seeds.x.y=1", "seeds holds no keys but [0, 1]"),
        ("train.epochs=[1", "not valid YAML"),
        ("train.epochs=", "must be a number, not null"),
        ("arms.nobody.learning_rate=1.0", "the study has no arm 'nobody'"),
        ("arms.lorra.adapter.rank=4", "Did you mean 'lora'?"),
        ("arms.lora[rank=2].learning_rate=1.0", "the values of a grid are set together: arms.lora.learning_rate=..."),
    ],
)
def test_overrides_that_are_wrong(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        load(tmp_path, TEXT, (override,))
    assert message in str(caught.value)


def test_what_is_written_out_reads_back_as_the_same_study(tmp_path: Path) -> None:
    study = load(tmp_path, TEXT)
    assert load(tmp_path, dump(study, ["train.epochs=2"])) == study
    assert "overridden" in dump(study, ["train.epochs=2"]).splitlines()[0]


# --- fuzz ------------------------------------------------------------------------------------------------------------------

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-3, 300), st.floats(), st.text(max_size=6), st.dates())
DATA = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8
)
KEYS = st.sampled_from([*Study.model_fields, "epochs", "rank", "x"])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=200) | st.text("-:[]{}&*!|>'\"%@`#,? \nab1.e", max_size=60) | st.binary(max_size=60))
def test_any_bytes_are_a_study_or_a_study_error(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    with pytest.raises(StudyError):
        load_study(path)


@settings(max_examples=300)
@given(st.dictionaries(KEYS, DATA, max_size=4))
def test_any_data_in_place_of_a_key_are_a_study_or_a_study_error(changes: dict[str, Any]) -> None:
    try:
        cells(validate_study({**parse_yaml(TEXT), **changes}))
    except StudyError as error:
        assert error.what


@settings(max_examples=300)
@given(st.sampled_from(["full", "lora"]), st.sampled_from(["adapter", "allocator", "quantizer", "epochs", "batch_size"]), DATA)
def test_any_data_in_an_arm_are_an_arm_or_a_study_error(arm: str, key: str, value: Any) -> None:
    raw = parse_yaml(TEXT)
    raw["arms"][arm][key] = value
    try:
        found = cells(validate_study(raw))
    except StudyError:
        return
    assert all(isinstance(cell.adapter, dict) for cell in found)


@settings(max_examples=200)
@given(st.text(max_size=30), DATA)
def test_any_override_is_one_or_a_study_error(path: str, value: Any) -> None:
    try:
        text = json.dumps(value, default=str)
        validate_study(apply_overrides(parse_yaml(TEXT), [f"{path}={text}"]))
    except StudyError as error:
        assert error.what
