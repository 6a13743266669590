"""One option for all seeds of a training."""

from collections.abc import Sequence

SEEDS = ("seed_everything", "model.seed", "data.seed")
"""What decides the initial weights, the noise, and the order and the crops of the images."""


def with_all_seeds(arguments: Sequence[str]) -> list[str]:
    """Put the three options of :data:`SEEDS` in the place of ``--seed``, which sweeps and scripts vary as one.

    They go to the end, behind the files and the classes that have them. The last ``--seed`` holds.

    Args:
        arguments: A command line.
    """
    kept, seed, words = list[str](), None, iter(arguments)
    for word in words:
        if word == "--seed":
            seed = next(words, "")
        elif word.startswith("--seed="):
            seed = word.partition("=")[2]
        else:
            kept.append(word)
    return kept if seed is None else [*kept, *(f"--{name}={seed}" for name in SEEDS)]
