"""Question answering on small paragraphs: windows, targets, decoding, thresholds, and what is said about the data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from peftlab import registry
from peftlab.backbones.resolve import source_of
from peftlab.errors import BackboneError, DataError, OptionError
from peftlab.tasks._answers import decode, gather, ranked
from peftlab.tasks._squad_metrics import f1
from peftlab.tasks._windows import Windows, _widest
from peftlab.tasks.contract import TextPreprocessing
from peftlab.tasks.question_answering import PreparedQuestionAnswering, QuestionAnswering
from tests.tasks.samples import Sample
from tests.tasks.squad import articles, shared_squad, write_squad
from tests.tasks.texts import make_bert, shared_bert, shared_gpt2, shelf

REAL = Path(__file__).parents[3] / "shared" / "data" / "text" / "squad_v2"


def bert() -> TextPreprocessing:
    return source_of(str(shared_bert())).text_preprocessing(str(shared_bert()))


def random_logits(prepared, batch, generator):
    return torch.randn(*batch["input_ids"].shape, 2, generator=generator)


def spec(**options: Any) -> dict[str, Any]:
    return {"kind": "question-answering", "data": {"name": "squad_v2", "path": str(shared_squad())}, **options}


SAMPLES = [
    Sample(spec=spec(), preprocessing=bert(), outputs=random_logits),  # pyright: ignore[reportArgumentType]
    Sample(spec=spec(max_length=20, folds=3, bucketing=False), preprocessing=bert(), outputs=random_logits),  # pyright: ignore
    Sample(
        spec=spec(max_length=16, stride=2, train_size=100, validation=0.2, test_size=40),
        preprocessing=bert(),  # pyright: ignore[reportArgumentType]
        outputs=random_logits,
    ),
]


def prepared(tmp_path: Path, **options: Any) -> PreparedQuestionAnswering:
    return registry.create("task", spec(**options), key="kind").prepare(bert(), tmp_path)


def everything(task: PreparedQuestionAnswering) -> dict[str, torch.Tensor]:
    return task.batch(task.used)


def decoded(task: PreparedQuestionAnswering, windows: np.ndarray) -> list[list[str]]:
    """The words of each window."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_bert())
    tokens, bounds = task.windows.tokens, task.windows.tokens.offsets
    return [tokenizer.convert_ids_to_tokens(tokens.ids[bounds[w] : bounds[w + 1]].tolist()) for w in windows]


def test_inputs_are_what_transformers_makes_of_them(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    task = prepared(tmp_path, max_length=20, stride=4)
    chosen = task.splits(0).test[:9]
    asked = [task.questions.questions[i] for i in chosen]
    contexts = [task.questions.contexts[i] for i in chosen]
    wanted = AutoTokenizer.from_pretrained(shared_bert())(
        asked, contexts, truncation="only_second", max_length=20, stride=4, return_overflowing_tokens=True, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    batch = task.batch(chosen)
    found = task.inputs(batch)
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert task.weight(chosen) == len(wanted["input_ids"]) > len(chosen)
    assert task.questions.ids[task.used[task.windows.question_of(batch["windows"].numpy())[-1]]] == task.questions.ids[chosen[-1]]
    lengths = task.lengths(chosen)
    assert lengths is not None
    assert lengths.tolist() == [int(task.batch(chosen[i : i + 1])["attention_mask"].sum(1).max()) for i in range(9)]


def test_targets_are_the_answers_and_windows_without_them_point_at_cls(tmp_path: Path) -> None:
    task = prepared(tmp_path, max_length=18, stride=4)
    windows, pointed = task.windows, set()
    for place, index in enumerate(task.used):
        rows = np.arange(windows.first[place], windows.first[place + 1])
        begin, end = task.questions.gold[index]
        wanted = task.questions.contexts[index][max(begin, 0) : max(end, 0)].split()
        for row, words in zip(rows, decoded(task, rows), strict=True):
            span = words[windows.start[row] : windows.stop[row] + 1]
            first = windows.tokens.offsets[row]
            inside = windows.begin[first : first + len(words)]
            seen = inside[inside >= 0]
            ends = windows.end[first : first + len(words)].max()
            whole = begin >= 0 and seen.min() <= begin and end <= ends
            assert span == (wanted if whole else ["[CLS]"])
            pointed.add((whole, len(rows) > 1))
    assert pointed == {(True, True), (True, False), (False, True), (False, False)}


def test_the_widest_window_is_that_of_run_squad() -> None:
    """Naive: over all windows that hold a token, the largest min(left, right) + 0.01 length; the first of equals."""
    for lengths, stride in (([10, 10, 10, 4], 3), ([7, 7], 5), ([12], 4), ([9, 9, 9], 1)):
        starts = [i * (lengths[0] - stride) for i in range(len(lengths))]
        found = _widest(lengths, stride)
        for token in range(starts[-1] + lengths[-1]):
            scores = {
                w: min(token - s, s + n - 1 - token) + 0.01 * n
                for w, (s, n) in enumerate(zip(starts, lengths, strict=True))
                if s <= token < s + n
            }
            best = max(scores, key=lambda w: (scores[w], -w))
            assert [w for w in scores if found[w][token - starts[w]]] == [best]


def naive_best(task: PreparedQuestionAnswering, context: str, logits: np.ndarray, rows: np.ndarray, n_best: int, longest: int):
    """Of one question's windows, (score, begin, end) of the best span, or None, and the smallest null score; loops only."""
    windows, found, null = task.windows, None, math.inf
    for row, scores in zip(rows, logits, strict=True):
        first, length = windows.tokens.offsets[row], int(windows.tokens.lengths[row])
        null = min(null, float(scores[0, 0]) + float(scores[0, 1]))
        starts, ends = (sorted(range(length), key=lambda i, k=k: -scores[i, k])[:n_best] for k in (0, 1))
        for s in starts:
            for e in ends:
                inside = windows.begin[first + s] >= 0 and windows.begin[first + e] >= 0
                if not inside or not windows.widest[first + s] or e < s or e - s + 1 > longest:
                    continue
                score = float(scores[s, 0]) + float(scores[e, 1])
                begin, end = int(windows.begin[first + s]), int(windows.end[first + e])
                if context[begin:end].strip() and (found is None or score > found[0]):
                    found = (score, end - len(context[begin:end].lstrip()), begin + len(context[begin:end].rstrip()))
    return found, null


def spaced() -> TextPreprocessing:
    """A tokenizer in which every space is a token, as some of the spaces of byte-level ones are."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    folder = shelf() / "spaced"
    if not folder.is_dir():
        make_bert(folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s"), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.save(str(folder / "tokenizer.json"))
    return source_of(str(folder)).text_preprocessing(str(folder))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("made", [bert, spaced])
@pytest.mark.parametrize(("n_best", "longest"), [(20, 30), (3, 2), (1, 1)])
def test_answers_are_those_of_a_naive_search(
    tmp_path: Path, n_best: int, longest: int, made: Callable[[], TextPreprocessing]
) -> None:
    task = registry.create("task", spec(max_length=18, stride=4), key="kind").prepare(made(), tmp_path)
    places = np.arange(60)
    rows = task.windows.of(places)
    batch = task.windows.padded(rows, 0)
    logits = random_logits(task, batch, torch.Generator().manual_seed(1)).numpy()
    spans = decode(logits, task.windows, rows, n_best=n_best, max_answer_length=longest)
    found = dict(gather(spans, task.windows.question_of(rows)))
    none = 0
    for place in places:
        own = task.windows.question_of(rows) == place
        best, null = naive_best(task, task.questions.contexts[task.used[place]], logits[own], rows[own], n_best, longest)
        assert found[int(place)].null == pytest.approx(null)
        if best is None:
            none += 1
            assert not found[int(place)].spans and found[int(place)].difference == math.inf
        else:
            assert found[int(place)].spans[0] == pytest.approx(best)
    assert (none > 0) == (n_best < 20)


def test_scores_and_predictions_give_the_same_answers_whatever_is_white_space(tmp_path: Path) -> None:
    """The meter keeps one span of a window, ``predict`` many: both skip what holds no word, as run_squad does."""
    task = registry.create("task", spec(stride=4), key="kind").prepare(spaced(), tmp_path)
    rows = task.windows.of(np.arange(60))
    batch = task.windows.padded(rows, 0)
    logits = random_logits(task, batch, torch.Generator().manual_seed(0))
    words = torch.from_numpy(np.array([text == " " for text in _texts(task, rows, batch)]).reshape(len(rows), -1))
    logits[words] += 2  # white space looks best
    meter = task.meter({"no_answer": -4.0})
    meter.update(logits, batch)
    answers = meter.details()["answers"]
    spans = decode(logits.double().numpy(), task.windows, rows, n_best=20, max_answer_length=30)
    empty = 0
    for place, found in gather(spans, task.windows.question_of(rows)):
        context = task.questions.contexts[task.used[place]]
        texts = [text for text, *_ in ranked(found, context, nullable=False, n_best=20)]
        assert all(text == text.strip() != "" for text in texts) and len(set(texts)) == len(texts)
        given = answers[task.questions.ids[task.used[place]]]
        assert given == ("" if found.difference > -4.0 else texts[0])
        empty += not given
    assert 0 < empty < 60


def _texts(task: PreparedQuestionAnswering, rows: np.ndarray, batch: dict[str, torch.Tensor]) -> list[str]:
    """What every position of some windows stands for in its paragraph."""
    windows, texts = task.windows, []
    for row in rows:
        context = task.questions.contexts[task.used[windows.question_of(np.array([row]))[0]]]
        first, length = windows.tokens.offsets[row], int(windows.tokens.lengths[row])
        spans = zip(windows.begin[first : first + length], windows.end[first : first + length], strict=True)
        own = [" " if begin == end >= 0 else context[max(begin, 0) : max(end, 0)] for begin, end in spans]
        texts += own + [""] * (batch["input_ids"].shape[1] - length)
    return texts


def test_the_loss_is_that_of_transformers_on_rows_of_one_length(tmp_path: Path) -> None:
    """Their loss knows no padding; ours is theirs where there is none, and does not move where more is added."""
    from transformers import AutoModelForQuestionAnswering

    task = prepared(tmp_path)
    lengths = task.lengths(task.used)
    assert lengths is not None
    same = task.used[lengths == np.bincount(lengths).argmax()][:8]
    batch = task.batch(same)
    model = AutoModelForQuestionAnswering.from_pretrained(shared_bert()).eval()
    targets = {name: batch[name] for name in ("start_positions", "end_positions")}
    with torch.no_grad():
        theirs = model(**task.inputs(batch), **targets)
    outputs = torch.stack([theirs.start_logits, theirs.end_logits], dim=-1)
    assert float(task.loss(outputs, batch)) == pytest.approx(float(theirs.loss), rel=1e-5)
    longer = functional.pad(outputs, (0, 0, 0, 5), value=9.0)
    padded = {**batch, "attention_mask": functional.pad(batch["attention_mask"], (0, 5))}
    assert float(task.loss(longer, padded)) == pytest.approx(float(theirs.loss), rel=1e-5)
    smooth = functional.cross_entropy(outputs.transpose(1, 2).reshape(-1, outputs.shape[1])[::2], targets["start_positions"],
                                      label_smoothing=0.1)  # fmt: skip
    smooth += functional.cross_entropy(outputs[:, :, 1], targets["end_positions"], label_smoothing=0.1)
    assert float(task.loss(longer, padded, 0.1)) == pytest.approx(float(smooth / 2), rel=1e-5)


def confident(task: PreparedQuestionAnswering, batch: dict[str, torch.Tensor], null: float) -> torch.Tensor:
    """Logits that point at every answer with 4, and everywhere at no answer with ``null``."""
    logits = torch.zeros(*batch["input_ids"].shape, 2)
    rows = torch.arange(len(logits))
    logits[rows, batch["start_positions"], 0] += 4
    logits[rows, batch["end_positions"], 1] += 4
    logits[:, 0] += null
    return logits


def test_a_model_that_knows_is_right_about_everything(tmp_path: Path) -> None:
    task = prepared(tmp_path, max_length=20)
    chosen = task.splits(0).test
    batch = task.batch(chosen)
    meter = task.meter()
    meter.update(confident(task, batch, 0.0), batch)
    metrics = meter.compute()
    assert metrics["f1"] == metrics["exact_match"] == metrics["no_answer_exact_match"] == 1
    answers = meter.details()["answers"]
    assert set(answers) == {task.questions.ids[i] for i in chosen}
    assert all(answers[task.questions.ids[i]] in (task.questions.answers[i] or ("",)) for i in chosen)
    items = meter.predictions()
    assert (items["label"] == items["prediction"]).all() and items["f1"].all()


def test_what_validation_decides_test_is_given(tmp_path: Path) -> None:
    """Null scores are 20 too high: only a threshold of about 20 answers anything, and validation finds it."""
    task = prepared(tmp_path)
    batch = everything(task)
    logits = confident(task, batch, 10.0)
    validation, test, naive = task.meter(), None, task.meter({})
    validation.update(logits, batch)
    thresholds = validation.thresholds()
    assert set(thresholds) == {"no_answer"} and 10 < thresholds["no_answer"] < 20.1
    test = task.meter(thresholds)
    for meter in (test, naive):
        meter.update(logits, batch)
    assert test.compute()["f1"] == 1 and test.thresholds() == thresholds
    share = 1 - np.mean([bool(task.questions.answers[i]) for i in task.used])
    assert naive.compute()["f1"] == pytest.approx(share)  # without one: 0, and nothing is answered
    assert naive.compute()["has_answer_f1"] == 0


def test_levels_are_those_of_the_answers_they_stand_for(tmp_path: Path) -> None:
    task = prepared(tmp_path)
    golds = [task.questions.answers[i] for i in task.splits(0).test]
    assert task.info.majority["f1"] == pytest.approx(np.mean([f1("", gold) for gold in golds]))
    assert task.info.majority["has_answer_f1"] == 0
    chance = task.info.chance  # of a guess "the" no word is left: it counts as no answer
    assert 0 < chance["f1"] < 0.5 <= chance["no_answer_exact_match"] < 0.6


def without_unanswerable(folder: Path) -> Path:
    write_squad(folder)
    for name in ("train", "dev"):
        content = json.loads((folder / f"{name}.json").read_text())
        for article in content["data"]:
            for passage in article["paragraphs"]:
                passage["qas"] = [{k: v for k, v in q.items() if k != "is_impossible"} for q in passage["qas"] if q["answers"]]
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_where_every_question_has_an_answer_one_is_always_given(tmp_path: Path) -> None:
    data = {"name": "squad", "path": str(without_unanswerable(tmp_path / "v1"))}
    task = QuestionAnswering(data=data).prepare(bert(), tmp_path)
    assert set(task.info.higher_is_better) == {"f1", "exact_match", "loss"}
    batch = everything(task)
    meter = task.meter()
    meter.update(confident(task, batch, 50.0), batch)
    assert meter.compute()["f1"] == 1 and meter.thresholds() == {}


def test_questions_without_an_answer_can_be_left_out(tmp_path: Path) -> None:
    task = prepared(tmp_path, unanswerable=False, train_size=60, validation_size=20, test_size=30)
    assert task.info.sizes == {"train": 60, "validation": 20, "test": 30}
    assert all(task.questions.answers[i] for i in task.used)
    assert set(task.info.higher_is_better) == {"f1", "exact_match", "loss"}
    assert any("80 of 240 questions have no answer and are left out" in note for note in task.info.notes)
    batch = everything(task)
    meter = task.meter()
    meter.update(confident(task, batch, 50.0), batch)
    assert meter.compute()["f1"] == 1 and meter.thresholds() == {}


def test_no_paragraph_is_on_both_sides_of_a_cut(tmp_path: Path) -> None:
    task = prepared(tmp_path, folds=4)
    for fold in range(4):
        splits = task.splits(3, fold)
        parts = [{task.questions.contexts[i] for i in splits[name]} for name in ("train", "validation", "test")]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert abs(len(splits.test) - len(task.used) / 4) <= 3
    sized = prepared(tmp_path, train_size=100, validation=0.1)
    assert [len(sized.splits(seed).train) + len(sized.splits(seed).validation) for seed in range(3)] == [111] * 3
    assert all(9 <= len(sized.splits(seed).validation) <= 11 for seed in range(3))


def test_the_plan_knows_the_largest_batch(tmp_path: Path) -> None:
    task = registry.create("task", spec(max_length=18, stride=4), key="kind")
    ready = task.prepare(bert(), tmp_path)
    most = ready.used[np.argsort(-ready.windows.counts, kind="stable")[:8]]
    batch = ready.batch(most)
    shapes = task.batch_shapes(8, bert(), task.info())
    assert {name: shape for name, (shape, _) in shapes.items()} == {name: tuple(t.shape) for name, t in batch.items()}
    assert all(dtype == batch[name].dtype for name, (_, dtype) in shapes.items())
    counts, lengths = ready.windows.counts, ready.windows.lengths
    wanted = (counts * lengths).mean() / (len(batch["windows"]) / 8 * batch["input_ids"].shape[1])
    assert task.fill(8, bert()) == pytest.approx(wanted)


def broken(tmp_path: Path, change) -> QuestionAnswering:
    """The task whose training questions ``change`` was applied to, one after the other with their number."""
    folder = write_squad(tmp_path / "broken")
    content = json.loads((folder / "train.json").read_text())
    questions = [(q, p) for a in content["data"] for p in a["paragraphs"] for q in p["qas"]]
    for number, (question, passage) in enumerate(questions):
        change(number, question, passage)
    (folder / "train.json").write_text(json.dumps(content))
    return QuestionAnswering(data=str(folder))


def shifted(every: int):
    def change(number: int, question: dict[str, Any], _passage: Any) -> None:
        if number % every == 1:
            for answer in question["answers"]:
                answer["answer_start"] += 1

    return change


def test_answers_that_are_not_where_they_should_be_are_left_out_and_named(tmp_path: Path) -> None:
    task = broken(tmp_path, shifted(30))
    info = task.prepare(bert(), tmp_path).info
    (said,) = [warning for warning in info.warnings if "answer_start" in warning]
    assert said.startswith(
        "6 questions are left out: no answer lies in the paragraph at its answer_start ('0-0-1', '0-10-1', '0-20-1', "
    )
    whole = QuestionAnswering(data=str(write_squad(tmp_path / "whole"))).info()
    assert sum(info.sizes.values()) == sum(whole.sizes.values()) - 6


def test_most_answers_elsewhere_is_no_accident(tmp_path: Path) -> None:
    def change(_number: int, question: dict[str, Any], _passage: Any) -> None:
        for answer in question["answers"]:
            answer["answer_start"] += 1

    with pytest.raises(DataError, match="120 of 160 answers are not in their paragraph at `answer_start`"):
        broken(tmp_path, change).info()


CHANGES = {
    "2 questions have the id 'same'": lambda n, q, p: q.update(id="same") if n < 2 else None,
    "the paragraph is empty": lambda n, q, p: p.update(context=" ") if n == 0 else None,
    "no 'question'": lambda n, q, p: q.pop("question") if n == 7 else None,
    "a number in place of a text": lambda n, q, p: q.update(question=3) if n == 7 else None,
    "is_impossible, but has answers": lambda n, q, p: q.update(is_impossible=True),
    "not is_impossible, but has no answers": lambda n, q, p: q.update(is_impossible=False),
    "no `answers`": lambda n, q, p: q.pop("answers") if n == 3 else None,
    "is no answer": lambda n, q, p: q["answers"].append({"text": "", "answer_start": 0}) if n == 1 else None,
}


@pytest.mark.parametrize("what", CHANGES)
def test_data_that_cannot_be_used_are_refused_with_their_place(tmp_path: Path, what: str) -> None:
    with pytest.raises(DataError, match=what) as raised:
        broken(tmp_path, CHANGES[what]).info()
    assert "train.json" in str(raised.value) and "->" in str(raised.value)


def test_files_that_are_no_squad(tmp_path: Path) -> None:
    for content, what in (
        (b'{"data": [{"paragraphs"', "is no JSON"),
        ("{é".encode("latin-1"), "is not UTF-8"),
        (b"{}", "layout"),
    ):
        (tmp_path / "train.json").write_bytes(content)
        with pytest.raises(DataError, match=what):
            QuestionAnswering(data={"name": "squad-json", "path": str(tmp_path)}).info()
    with pytest.raises(DataError, match="no such file or folder"):
        QuestionAnswering(data={"name": "squad_v2", "path": str(tmp_path / "gone")}).info()


def flat(train: int) -> list[dict[str, Any]]:
    rows = []
    for article in articles(train, 0):
        for passage in article["paragraphs"]:
            for q in passage["qas"]:
                answers = {key: [a[key] for a in q["answers"]] for key in ("text", "answer_start")}
                rows.append({"id": q["id"], "question": q["question"], "context": passage["context"], "answers": answers})
    return rows


def test_tables_and_hub_sets_give_the_same_questions(tmp_path: Path) -> None:
    import datasets

    rows = flat(60)
    nested = QuestionAnswering(data=str(write_squad(tmp_path / "nested") / "train.json"))
    (tmp_path / "flat.json").write_text(json.dumps(rows))
    other = [{"key": 1, "asked": r["question"], "text": r["context"], "gold": json.dumps(r["answers"])} for r in rows]
    (tmp_path / "named.jsonl").write_text("\n".join(map(json.dumps, other)))
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    made = [
        nested,
        QuestionAnswering(data=str(tmp_path / "flat.json")),
        QuestionAnswering(data=str(tmp_path / "saved")),
        QuestionAnswering(data=str(tmp_path / "named.jsonl"), question="asked", context="text", answers="gold"),
    ]
    found = [task._read() for task in made]
    for one in found[1:]:
        assert one.questions == found[0].questions and one.contexts == found[0].contexts
        assert one.answers == found[0].answers and np.array_equal(one.gold, found[0].gold)
    assert found[1].ids == found[2].ids == found[0].ids and found[3].ids[:2] == ["0", "1"]
    assert any("not used: key" in note for note in made[3].info().notes)


def test_lengths_that_leave_no_room(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="the stride of 12 must be below that"):
        prepared(tmp_path, max_length=18, stride=12)
    with pytest.raises(OptionError, match="100 tokens, but the model has 48 positions"):
        prepared(tmp_path, max_length=100)
    with pytest.raises(OptionError, match="8 is too small"):
        QuestionAnswering(data="squad_v2", max_length=8)
    cut = prepared(tmp_path, max_length=24, max_question_length=2)
    assert any("questions are longer than 2 tokens and were cut" in warning for warning in cut.info.warnings)
    assert decoded(cut, np.array([0]))[0][:5] == ["[CLS]", "the", decoded(cut, np.array([0]))[0][2], "[SEP]", "the"]


def test_an_answer_that_fits_no_window_is_counted(tmp_path: Path) -> None:
    def whole(number: int, question: dict[str, Any], passage: dict[str, Any]) -> None:
        if question["answers"] and number % 10 == 1:
            question["answers"] = [{"text": passage["context"], "answer_start": 0}]

    task = broken(tmp_path, whole)
    small = dataclasses.replace(task, max_length=16, stride=2).prepare(bert(), tmp_path)
    assert any("are in no window of 16 tokens whole" in warning for warning in small.info.warnings)
    lost = small.windows.unreachable(small.questions.answerable[small.used])
    assert all(small.windows.counts[place] > 1 for place in lost) and len(lost)


def test_test_paragraphs_that_are_also_trained_on_are_said(tmp_path: Path) -> None:
    folder = write_squad(tmp_path / "same")
    (folder / "dev.json").write_text((folder / "train.json").read_text().replace('"id": "0-', '"id": "1-'))
    assert any(
        "180 of 180 test questions are about paragraphs of train" in w
        for w in QuestionAnswering(data=str(folder)).info().warnings
    )


def test_offsets_do_not_begin_with_the_space_before_a_word(tmp_path: Path) -> None:
    """A byte-level tokenizer counts it to the word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "bytes")
    preprocessing = TextPreprocessing(tokenizer=str(tmp_path / "bytes"), max_length=400, pad_token=0, vocabulary=256)
    task = QuestionAnswering(data=str(shared_squad())).prepare(preprocessing, tmp_path)
    windows: Windows = task.windows
    texts = set()
    for place, index in enumerate(task.used):
        row = windows.first[place]
        if windows.start[row] != windows.null[row]:
            first = windows.tokens.offsets[row]
            span = slice(windows.begin[first + windows.start[row]], windows.end[first + windows.stop[row]])
            texts.add(task.questions.contexts[index][span])
            assert task.questions.contexts[index][span] == task.questions.answers[index][0]
    assert len(texts) > 10


def test_the_head_has_two_outputs_whatever_the_weights_were_for(tmp_path: Path) -> None:
    from transformers import BertConfig

    size = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertConfig(**size, num_labels=3).save_pretrained(tmp_path)
    backbone = source_of(str(tmp_path)).load(str(tmp_path), outputs=2, head="question-answering", device="meta")
    ids = torch.zeros(3, 7, dtype=torch.int64, device="meta")
    assert backbone.outputs(backbone.module, {"input_ids": ids}).shape == (3, 7, 2)


def test_a_model_of_texts_without_a_head_for_answers_is_refused(tmp_path: Path) -> None:
    backbone = source_of(str(shared_gpt2())).load(str(shared_gpt2()), outputs=2, head="question-answering", device="meta")
    assert backbone.head == "qa_outputs"  # GPT-2 has one
    from transformers import Mamba2Config  # a causal model without one

    Mamba2Config(vocab_size=64, hidden_size=32, num_heads=8, head_dim=8, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="no AutoModelForQuestionAnswering"):
        source_of(str(tmp_path)).load(str(tmp_path), outputs=2, head="question-answering", device="meta")


@pytest.mark.skipif(not REAL.is_dir(), reason="the data extracts are not here")
def test_the_extract_has_its_published_counts() -> None:
    info = QuestionAnswering(data={"name": "squad_v2", "path": str(REAL)}).info()
    assert info.sizes["train"] + info.sizes["validation"] == 2000 and info.sizes["test"] == 500
    assert info.majority["f1"] == pytest.approx(0.5) and not info.warnings
