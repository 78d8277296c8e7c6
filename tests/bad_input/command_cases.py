"""Command lines: verbs, options, ``--set``, and folders that are none."""

from __future__ import annotations

from tests.bad_input.case import Case, line
from tests.bad_input.changes import Change, cut, drop, keys, put
from tests.bad_input.world import copy


def changed(name: str, command: str, *changes: Change, words: tuple[str, ...] = (), code: int = 6) -> Case:
    """A command on ``bad``, a changed copy of the results ``world/tiny``."""
    return Case(name=name, command=command, words=words, code=code, files={"bad": copy("tiny", *changes)})


def overridden(name: str, words_typed: str, words: tuple[str, ...] = ()) -> Case:
    return line(name, f"plan good.yaml --set {words_typed}", words=words)


def of_a_run(change: Change) -> Change:
    """Of results: the same change to the first of the runs that are looked at."""
    return lambda folder: change(sorted((folder / "runs" / "lora.rank-4").iterdir())[0])


OVERRIDES = [
    overridden("--set without a value", "train.epochs"),
    overridden("--set with a space for =", "train.epochs 1"),
    overridden("--set with spaces around =", "train.epochs = 1"),
    overridden("--set with a colon", "train.epochs:1"),
    overridden("--set of an empty key", "=1"),
    overridden("--set of an empty value", "train.epochs="),
    overridden("--set of a key misspelt", "train.epoch=1"),
    overridden("--set of a section misspelt", "trian.epochs=1"),
    overridden("--set of a wrong type", "train.epochs=many"),
    overridden("--set of text with quotes too many", "\"train.epochs='1'\""),
    overridden("--set of a list index", "seeds.0=7"),
    overridden("--set of a list index in brackets", "seeds[0]=7"),
    overridden("--set of seeds without brackets", "seeds=0,1,2"),
    overridden("--set of a list that is not closed", "seeds=[0"),
    overridden("--set into an arm that is not there", "arms.lorra.adapter.rank=4"),
    overridden("--set into a grid's label", "'arms.lora[rank=2].learning_rate=1e-3'"),
    overridden("--set of an adapter's option misspelt", "arms.lora.adapter.rnak=4"),
    overridden("--set of a key with dashes", "--train.epochs=1"),
    overridden("--set with an empty part", "train..epochs=1"),
    overridden("--set of the whole study", "study="),
]

VERBS = [
    line("no such verb", "rnu good.yaml"),
    line("a verb in capitals", "RUN good.yaml"),
    line("run without a study", "run"),
    line("run with two studies", "run good.yaml good.yaml"),
    line("no such option", "run good.yaml --jbos 2"),
    line("a key of the study as an option", "run good.yaml --seeds 7"),
    line("a key of the study as an option, with =", "plan good.yaml --learning-rate=1e-3"),
    line("no such study", "run goood.yaml"),
    line("no such folder of studies", "plan studies/good.yaml"),
    line("a folder in place of a study", "plan world"),
    line("results in place of a study", "plan world/tiny"),
    line("jobs of zero", "run good.yaml --jobs 0"),
    line("jobs negative", "run good.yaml --jobs -1"),
    line("jobs as a word", "run good.yaml --jobs all"),
    line("max-runs of zero", "plan good.yaml --max-runs 0"),
    line("only an unknown arm", "plan good.yaml --only lroa"),
    line("only a label that is not in the grid", "run good.yaml --only lora[rank=4]"),
    line("a stack that is none", "plan good.yaml --stack many"),
    line("a stack that is negative", "plan good.yaml --stack=-2"),
    line("compile at another word", "plan good.yaml --compile yes"),
    line("an unknown engine", "run good.yaml --engine slurm"),
    line("an unknown device", "run good.yaml --device gpu"),
    line("one GPU of several", "plan good.yaml --device cuda:1"),
    line("a device on a cluster", "run good.yaml --engine ray --device cpu"),
    line("an address without its engine", "run good.yaml --address auto"),
    line("processes and a stack", "run good.yaml --processes 2 --stack auto"),
    line("shard as a part of the study", "run good.yaml --shard 3/2"),
    line("shard as a part, with =", "run good.yaml --shard=1/2"),
    line("a word behind the second form of a flag", "run good.yaml --no-fused true"),
    line("shard without processes", "run good.yaml --shard", code=5),
    line("a place that is none", "run good.yaml --engine ray --place lora"),
    line("GPUs negative", "run good.yaml --engine ray --gpus=-1"),
    line("checkpoints at a negative interval", "run good.yaml --checkpoint-every -5"),
    line("an output that is a file", "run good.yaml --output good.yaml", code=6),
    line("an output below a file", "run good.yaml --output good.yaml/results", code=6),
    line("check of no such study", "check gud.yaml"),
    line("check of an unknown arm", "check good.yaml --only probe"),
    line("init on a file that exists", "init good.yaml"),
    line("init from an unknown template", "init new.yaml --template digit"),
    line("init below a file", "init good.yaml/new.yaml", code=6),
    line("list of an unknown kind", "list adaptors"),
    line("list of two kinds", "list adapter task"),
    line("doctor of something", "doctor gpu"),
    line("status of no such folder", "status results/smal", code=6),
    line("status of a study's file", "status good.yaml", code=6),
    line("status of the parent of results", "status world", code=6),
    line("status of an empty folder", "status empty", code=6, files={"empty/.keep": ""}),
    line("status of a folder of something else", "status world/vit", code=6),
    line("analyze of no such folder", "analyze results/none", code=6),
    line("analyze of an exported adapter", "analyze world/adapter", code=6),
    line("report of no such folder", "report results/none", code=6),
    line("paper of a file", "paper good.yaml", code=6),
    line("choose with a margin of 3", "choose world/tiny --margin 3"),
    line("choose with a margin of 300 %", "choose world/tiny --margin 300%"),
    line("choose with a margin of 0", "choose world/tiny --margin 0"),
    line("choose with a negative margin", "choose world/tiny --margin=-3%"),
    line("choose with a margin in words", "choose world/tiny --margin small"),
    line("choose with a decimal comma", "choose world/tiny --margin 0,03"),
    line("choose with a margin that is not a number", "choose world/tiny --margin nan"),
    line("choose with a memory in words", "choose world/tiny --memory lots"),
    line("choose with a negative memory", "choose world/tiny --memory=-8GB"),
    line("choose with an unknown unit", "choose world/tiny --memory 8XB"),
    line("choose with a budget but no ranks", "choose world/tiny --budget '64 ranks'"),
    line("choose ranks with a margin", "choose world/tiny --ranks --margin 3%"),
    line("choose ranks of an unknown arm", "choose world/tiny --ranks --arm lorra"),
    line("choose ranks of a budget that is none", "choose world/tiny --ranks --budget many"),
    line("choose ranks by an unknown importance", "choose world/tiny --ranks --metric sensitvity"),
    line("power of nothing", "power"),
    line("power of a folder and a deviation", "power world/tiny --sd 0.01"),
    line("power without a difference", "power --sd 0.01"),
    line("power of a negative deviation", "power --sd=-0.01 --difference 0.01"),
    line("power of a deviation of zero", "power --sd 0 --difference 0.01"),
    line("power of a deviation that is not a number", "power --sd nan --difference 0.01"),
    line("power of no difference", "power --sd 0.01 --difference 0"),
    line("power above one", "power --sd 0.01 --difference 0.01 --power 1.5"),
    line("power of 80", "power --sd 0.01 --difference 0.01 --power 80"),
    line("power with a margin but no folder", "power --sd 0.01 --margin 3%"),
    line("verify of no such folder", "verify nowhere", code=6),
    line("gc of a study's file", "gc good.yaml", code=6),
    line("reproduce of no such folder", "reproduce nowhere", code=6),
    line("reproduce of a file that is no bundle", "reproduce good.yaml", code=6),
    line("reproduce of an unknown arm", "reproduce world/tiny --only lorra"),
    line("reproduce of an unknown seed", "reproduce world/tiny --seeds 9"),
    line("reproduce of a seed that is none", "reproduce world/tiny --seeds one"),
    line("reproduce of an unknown run", "reproduce world/tiny --runs zzzz"),
    line("bundle of no such folder", "bundle nowhere", code=6),
    line("bundle onto a file that exists", "bundle world/tiny --output good.yaml", code=6),
]

RESULTS = [
    changed("a run from the future", "verify bad", of_a_run(keys("config.json", schema_version=99)), words=("newer peftlab",)),
    changed("a config.json that is cut", "verify bad", of_a_run(cut("config.json")), words=("config.json",)),
    changed("a results.json that is cut", "verify bad", of_a_run(cut("results.json")), words=("results.json",)),
    changed("results.json with other numbers", "verify bad", of_a_run(keys("results.json", steps=7)), words=("results.json",)),
    changed("a missing manifest", "verify bad", of_a_run(drop("MANIFEST.json")), words=("MANIFEST.json",)),
    changed("a missing config.json", "verify bad", of_a_run(drop("config.json")), words=("config.json",)),
    changed("a missing file of a run", "verify bad", of_a_run(drop("parameters.json")), words=("parameters.json",)),
    changed("a study.yaml with a typo", "analyze bad", put("study.yaml", "study: tiny\nbackbon: x\n")),
    changed("no study.yaml", "report bad", drop("study.yaml")),
]

CASES = [*OVERRIDES, *VERBS, *RESULTS]
