"""How long a step of training takes, compared within one process."""

import statistics
import time
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

ROUNDS = 15


def step_times(networks: Mapping[str, nn.Module], images: torch.Tensor, rounds: int = ROUNDS) -> dict[str, float]:
    """Return the seconds of the processor that forward and backward pass of each network take, the median of rounds.

    In each round all networks have their turn, so that what else the machine does is alike for all.

    Args:
        networks: From names to classifiers, which are left in training mode.
        images: What they are given, one batch.
        rounds: How many, after one that does not count.
    """
    labels = torch.zeros(len(images), dtype=torch.int64)
    found: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(rounds + 1):
        for name, network in networks.items():
            start = time.process_time()
            F.cross_entropy(network.train()(images), labels).backward()
            if turn:
                found[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in found.items()}
