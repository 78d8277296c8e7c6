"""Extractive question answering: which words of a paragraph answer a question, or do none?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from peftlab.errors import OptionError
from peftlab.tasks._answer_meter import AnswerMeter, span_losses
from peftlab.tasks._questions import Questions, constant_level, guessing_level, read_questions
from peftlab.tasks._split_task import SplitTask, places
from peftlab.tasks._splits import Splitter
from peftlab.tasks._squad_metrics import by_kind
from peftlab.tasks._tokens import longest_text, tokenizer_fingerprint
from peftlab.tasks._windows import Cut, Windows, cached_windows, make_windows
from peftlab.tasks.contract import Head, Meter, PreparedTask, Splits, TaskInfo, TextPreprocessing
from peftlab.tasks.text.contract import TextSource
from peftlab.tasks.text.resolve import source_of

MAX_LENGTH = 384  #: of a window, where the model takes as many
_LONGEST, _SAMPLE = 64, 512  #: how many questions are tokenized to plan with: the longest decide memory, the others time
_TARGETS = frozenset({"start_positions", "end_positions", "windows"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswering(SplitTask):
    """The words of a paragraph that answer a question, or that there are none, as in SQuAD.

    An example is a question with all its windows; what is cut here (train, validation, test, folds) never parts the questions of
    one paragraph. Loss: of each window the mean of the cross-entropies of the answer's first and last token. Metrics are those of
    SQuAD's evaluation script. Where questions without an answer are among the data, no answer is given if its score, start plus
    end logit of [CLS] in the window where that is smallest, is above that of the best span by more than a threshold, which
    validation data decide (best F1) and test data are given.
    """

    name: ClassVar[str] = "question-answering"
    input_kind: ClassVar[Literal["image", "text"]] = "text"
    head: ClassVar[Head] = "question-answering"
    citation: ClassVar[str] = """@inproceedings{devlin2019bert,
  author = {Devlin, Jacob and Chang, Ming-Wei and Lee, Kenton and Toutanova, Kristina},
  title = {{BERT}: Pre-training of Deep Bidirectional Transformers for Language Understanding},
  booktitle = {Proceedings of NAACL-HLT 2019},
  year = {2019}, pages = {4171--4186}, doi = {10.18653/v1/N19-1423}
}"""

    question: str = "question"  #: column
    context: str = "context"  #: column of the paragraphs
    answers: str = "answers"  #: column; {text: [...], answer_start: [...]}, empty lists where there is no answer
    unanswerable: bool = True  #: false: questions without an answer are left out, and one is always given
    max_length: int | None = None  #: tokens of a window; default: 384, or as many as the model takes
    stride: int | None = None  #: tokens that neighbouring windows of a paragraph share; default: a third of max_length
    max_question_length: int | None = None  #: tokens, longer questions are cut; default: a sixth of max_length
    n_best: int = 20  #: likeliest starts, and ends, that spans are made of
    max_answer_length: int = 30  #: tokens
    bucketing: bool = True  #: questions whose windows are of similar length share a batch

    def __post_init__(self) -> None:
        for key, least in {"max_length": 16, "stride": 0, "max_question_length": 1, "n_best": 1, "max_answer_length": 1}.items():
            value = getattr(self, key)
            if value is not None and value < least:
                raise OptionError(f"{value} is too small", where=key, remedy=f"{least} or more")
        SplitTask.__post_init__(self)

    def source(self) -> TextSource:
        """The configured source of questions."""
        return source_of(self.data)

    def columns(self) -> list[str]:
        """The columns that a new question needs."""
        return [self.question, self.context]

    def cut(self, preprocessing: TextPreprocessing) -> Cut:
        """How this task cuts texts for a model.

        Raises:
            OptionError: ``max_length`` above what the model takes.
        """
        longest = longest_text(self.max_length, preprocessing, MAX_LENGTH)
        return Cut(
            max_length=longest,
            stride=longest // 3 if self.stride is None else self.stride,
            max_question_length=self.max_question_length or longest // 6,
        )

    def info(self) -> TaskInfo:
        found = self._read()
        return self._described(found, self._splitter(found))

    def _read(self) -> Questions:
        columns = {key: getattr(self, key) for key in ("question", "context", "answers")}
        found = read_questions(self.source().read(), columns)
        return found if self.unanswerable else found.answerable_only()

    def _splitter(self, found: Questions) -> Splitter:
        return Splitter(
            labels=np.zeros(len(found.ids), dtype=np.int64),
            label_names=("question",),
            roles={role: indices[found.usable[indices]] for role, indices in found.rows.roles.items()},
            options=self.split_options(),
            groups=found.paragraphs(),
        )

    def _described(self, found: Questions, splitter: Splitter) -> TaskInfo:
        tried = splitter.tried("give it questions; those of one paragraph stay together")
        splits = tried[0][1]
        draws = np.random.PCG64(0).random_raw(2 * len(splits.test))
        uniform = (np.asarray(draws, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) / 2**53
        none = np.empty(0)
        metrics = by_kind(none, none, none.astype(bool) if found.nullable else None)
        without = [f"{int((~found.answerable).sum()):,} of {len(found.ids):,} questions have no answer"] if found.nullable else []
        return TaskInfo(
            outputs=2,
            label_names=("start", "end"),
            sizes={split: len(splits[split]) for split in ("train", "validation", "test")},
            higher_is_better={**dict.fromkeys(metrics, True), "loss": False},
            primary_metric="f1",
            chance=guessing_level(found, splits.test, self.max_answer_length, uniform.reshape(-1, 2)),
            majority=constant_level(found, splits.train, splits.test),
            warnings=(*found.warnings, *_overlap(found, splitter)),
            notes=(*found.notes, *without),
            folds=len(tried),
        )

    def prepare(self, preprocessing: TextPreprocessing, cache: Path) -> PreparedQuestionAnswering:
        """As the contract says.

        Raises:
            OptionError: ``max_length`` above what the model takes, no room for a paragraph beside its question; sizes that do not
                work out.
            DataError: bad data; a tokenizer of another model.
            BackboneError: no tokenizer.
        """
        cut = self.cut(preprocessing)
        found = self._read()
        splitter = self._splitter(found)
        used = splitter.used()
        key = {
            "data": self.source().fingerprint(cache),
            "columns": [self.question, self.context, self.answers],
            "tokenizer": tokenizer_fingerprint(preprocessing.tokenizer),
            "cut": dataclasses.asdict(cut),
            "used": used.tolist() if len(used) < len(found.ids) else "all",
        }
        windows = cached_windows(key, cache, lambda: _windows(found, used, preprocessing, cut))
        info = self._described(found, splitter)
        info = dataclasses.replace(info, warnings=(*info.warnings, *_lost(found, windows, used, cut)))
        return PreparedQuestionAnswering(
            task=self,
            info=info,
            splitter=splitter,
            questions=found,
            used=used,
            windows=windows,
            pad_token=preprocessing.pad_token,
        )

    def batch_shapes(
        self, batch: int, preprocessing: TextPreprocessing, info: TaskInfo
    ) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """The questions with the most windows, of those with the longest paragraphs: with ``bucketing`` they do meet."""
        longest = self._some(preprocessing, batch)[0]
        most = int(np.sort(longest.counts)[::-1][:batch].sum())
        shape = ((most, int(longest.lengths.max(initial=1))), torch.int64)
        types = {} if longest.tokens.types is None else {"token_type_ids": shape}
        targets = dict.fromkeys(sorted(_TARGETS), ((most,), torch.int64))
        return {"input_ids": shape, **types, "attention_mask": shape, **targets}

    def fill(self, batch: int, preprocessing: TextPreprocessing) -> float:
        """By questions from all over the data: windows times the length of their batch, with ``bucketing`` the question's own."""
        longest, sample = self._some(preprocessing, batch)
        lengths, counts = sample.lengths, sample.counts
        if not self.bucketing:
            lengths = np.repeat(np.maximum.reduceat(lengths, np.arange(0, len(lengths), batch)), batch)[: len(lengths)]
        most = np.sort(longest.counts)[::-1][:batch].mean() * longest.lengths.max(initial=1)
        return float((counts * lengths).mean() / most)

    def _some(self, preprocessing: TextPreprocessing, batch: int) -> tuple[Windows, Windows]:
        """Of the questions used: those with the longest paragraphs, and some from all over."""
        found = self._read()
        used = self._splitter(found).used()
        size = np.array([len(found.contexts[i]) for i in used])
        longest = used[np.argsort(-size, kind="stable")[: max(batch, _LONGEST)]]
        parts = (longest, used[:: max(1, len(used) // _SAMPLE)])
        first, second = (_windows(found, rows, preprocessing, self.cut(preprocessing)) for rows in parts)
        return first, second

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in batch.items() if name not in _TARGETS}

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
        """Mean over windows of the cross-entropies of first and last token, halved; of logits [B, T, 2], in float32, in nats."""
        return span_losses(outputs.float(), batch, label_smoothing).mean()


class PreparedQuestionAnswering(PreparedTask):
    """Windows of tokens, padded to the longest of each batch; a question's windows are always in one batch."""

    def __init__(
        self,
        *,
        task: QuestionAnswering,
        info: TaskInfo,
        splitter: Splitter,
        questions: Questions,
        used: np.ndarray,
        windows: Windows,
        pad_token: int,
    ) -> None:
        self.task, self.info, self.splitter, self.questions = task, info, splitter, questions
        self.used, self.windows, self._pad, self._options = used, windows, pad_token, task

    def splits(self, seed: int, fold: int = 0) -> Splits:
        return self.splitter.splits(seed, fold)

    def _places(self, indices: np.ndarray) -> np.ndarray:
        """Where questions lie among those used, int64 [B]. Raises IndexError for one that no split has."""
        return places(self.used, indices)

    def batch(self, indices: np.ndarray, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """All windows of some questions: inputs, ``start_positions``, ``end_positions`` and ``windows``, int64."""
        places = self._places(np.asarray(indices, dtype=np.int64))
        return self.windows.padded(self.windows.of(places), self._pad)

    def lengths(self, indices: np.ndarray) -> np.ndarray | None:
        return self.windows.lengths[self._places(indices)] if self._options.bucketing else None

    def weight(self, indices: np.ndarray) -> float:
        return float(self.windows.counts[self._places(indices)].sum())

    def meter(self, thresholds: Mapping[str, float] | None = None) -> Meter:
        return AnswerMeter(
            self.questions,
            self.windows,
            self.used,
            n_best=self._options.n_best,
            max_answer_length=self._options.max_answer_length,
            thresholds=thresholds,
        )


def _windows(found: Questions, used: np.ndarray, preprocessing: TextPreprocessing, cut: Cut) -> Windows:
    questions, contexts = ([texts[i] for i in used] for texts in (found.questions, found.contexts))
    return make_windows(questions, contexts, found.gold[used], preprocessing, cut)


def _lost(found: Questions, windows: Windows, used: np.ndarray, cut: Cut) -> list[str]:
    """What cutting took away, in sentences."""
    shortened, unreachable = int(windows.tokens.cut[windows.first[:-1]].sum()), len(windows.unreachable(found.answerable[used]))
    said = []
    if shortened:
        said.append(f"{shortened:,} of {len(used):,} questions are longer than {cut.max_question_length} tokens and were cut")
    if unreachable:
        said.append(
            f"{unreachable:,} answers are in no window of {cut.max_length} tokens whole: those windows point at no answer"
        )
    return said


def _overlap(found: Questions, splitter: Splitter) -> list[str]:
    """The sentence about test questions whose paragraph is also trained on; cuts made here never cause that."""
    if splitter.options.folds:
        return []
    fixed = splitter.fixed()
    known = {found.contexts[i] for part in (fixed.pool, fixed.validation) if part is not None for i in part}
    shared = sum(found.contexts[i] in known for i in fixed.test)
    if not shared:
        return []
    return [f"{shared} of {len(fixed.test)} test questions are about paragraphs of train or validation: scores are flattered"]
