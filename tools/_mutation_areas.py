"""What is mutated: the areas on which a verdict rests, their sources, and the tests that are meant to guard them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

STATISTICS = (
    "ablation agreement anytime comparison correlations crossed efficiency factorial imputed interaction intervals means "
    "over_tasks pairwise pareto power profiles race_tests racing ranking seeds stability tuning_luck"
)
#: beside their own: agreement is also tested with importance, means and interactions with quantization, imputing with assess
GUARDS = f"{STATISTICS} assess importance quantization"


@dataclasses.dataclass(frozen=True, slots=True)
class Area:
    """Patterns of files below the root of the repository."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]

    def files(self, root: Path, patterns: tuple[str, ...]) -> list[str]:
        found = {path for pattern in patterns for path in root.glob(pattern) if path.name != "__init__.py"}
        return sorted(path.relative_to(root).as_posix() for path in found)

    def source_files(self, root: Path) -> list[str]:
        return self.files(root, self.sources)

    def test_files(self, root: Path) -> list[str]:
        return self.files(root, self.tests)


def below(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"src/peftlab/{folder}/{name}.py" for name in names.split())


AREAS: dict[str, Area] = {
    "statistics": Area(below("analysis", STATISTICS), tuple(f"tests/analysis/test_{name}.py" for name in GUARDS.split())),
    "records": Area(
        below("records", "commit journal lease manifest record redact regular run_folder store temporaries"),
        ("tests/records/test_*.py", "tests/security/test_folders.py"),
    ),
    "resume": Area(
        (
            *below("training", "checkpoint selection schedule"),
            *below("execution", "agenda attempts"),
            *below("records", "commit"),
        ),
        (
            *(
                f"tests/training/test_{name}.py"
                for name in "checkpoint loop selection schedule dynamic adaptive cancellation adalora".split()
            ),
            "tests/execution/test_agenda.py",
            "tests/execution/test_attempts.py",
            "tests/records/test_commit.py",
        ),
    ),
    "group-wise": Area(
        (*below("nn", "groups packed quantized weight_error"), *below("quantizers", "groupwise _schedule")),
        (
            *(f"tests/nn/test_{name}.py" for name in "groups packed quantized weight_error theory".split()),
            "tests/quantizers/test_groupwise.py",
            "tests/quantizers/test_schedule.py",
            "tests/contracts/test_quantizers.py",
            "tests/training/test_quantization.py",
            "tests/training/test_qa_lora.py",
            "tests/deployment/test_packed.py",
        ),
    ),
    "importance": Area(
        (*below("allocators/importance", "*"), *below("nn", "parts triplets"), *below("allocators", "_probe")),
        (
            "tests/allocators/importance/test_*.py",
            "tests/contracts/test_importance.py",
            "tests/nn/test_parts.py",
            "tests/nn/test_triplets.py",
            "tests/allocators/test_probe.py",
            "tests/allocators/test_adalora.py",
            "tests/allocators/test_empirical.py",
            "tests/allocators/test_gora.py",
            "tests/allocators/test_adaptive.py",
        ),
    ),
    "merge": Area(
        (
            *below("adapters", "lora svd pooled _peft _own_layers"),
            *below("nn", "low_rank pooled surgery"),
            *below("api", "_merging"),
            *below("deployment", "packed"),
        ),
        (
            *(f"tests/adapters/test_{name}.py" for name in "lora pooled published_counts".split()),
            *(f"tests/nn/test_{name}.py" for name in "low_rank surgery".split()),
            *(f"tests/contracts/test_{name}.py" for name in "adapters adapters_on_quantized".split()),
            "tests/deployment/test_packed.py",
            "tests/api/test_exporting.py",
            "tests/api/test_merging.py",
            "tests/api/test_deployment.py",
        ),
    ),
    "allocators": Area(
        below("allocators", "*"),
        (
            "tests/allocators/test_*.py",
            "tests/contracts/test_allocators.py",
            "tests/training/test_adalora.py",
            "tests/training/test_adaptive.py",
        ),
    ),
}


def mirrors(source: str, test: str) -> bool:
    """Whether a file of tests is the one of this source: ``nn/groups.py`` and ``tests/nn/test_groups.py``."""
    return Path(test).name == f"test_{Path(source).stem.lstrip('_')}.py"
