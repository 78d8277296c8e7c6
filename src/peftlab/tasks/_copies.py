"""Whether examples to test on are also trained on, or copies of one another lie in several folds: a sentence for the warnings."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from peftlab.tasks._splits import Splitter


def overlap(
    splitter: Splitter,
    contents: Sequence[Hashable] | Mapping[int, Hashable],
    *,
    what: str,
    how: str = "word for word",
    flattered: str = "",
) -> str | None:
    """The sentence, or None where there is nothing to say.

    Args:
        contents: of every example that a split uses, by its index; examples with equal ones are copies.
        what: examples are, in the plural.
        how: they are equal.
        flattered: what such test examples make look better.
    """
    if splitter.options.folds:
        used = [contents[int(i)] for i in splitter.used()]
        twice = len(used) - len(set(used))
        return f"{twice} {what} are copies of others, so folds share {what}" if twice else None
    fixed = splitter.fixed()
    others = {contents[int(i)] for part in (fixed.pool, fixed.validation) if part is not None for i in part}
    shared = sum(contents[int(i)] in others for i in fixed.test)
    end = f": {flattered} is flattered" if flattered else ""
    return f"{shared} of {len(fixed.test)} test {what} are also in train or validation, {how}{end}" if shared else None
