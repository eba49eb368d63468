"""Child: batches of a PyTorch DataLoader, stock and through an arena.

    loader.py SAMPLES BATCHES WORKERS

The dataset is in RAM already: IMAGES pictures of 3x224x224 bytes, each with a number as
its label, batches of 128 (19.3 MB). Both loaders differ in one argument, `collate_fn`,
and keep their workers. A sample is BATCHES batches; the consumer reads one byte of each
page of each batch and checks the labels, so that every page is mapped and what arrives
is the right batch. Subjects take turns, in an order that is shuffled each time. Prints
one JSON object: nanoseconds per batch by subject, and "not shared" for `collate()`
without any worker, which is what the machine could do if nothing had to be sent.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

import uslub
import uslub.torch

SHAPE = (3, 224, 224)
BATCH = 128
IMAGES = 1024
PAGE = 4096


class Pictures(Dataset):  # type: ignore[misc]
    """Pictures in RAM; the label is the index."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(1)
        shape = (IMAGES, *SHAPE)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=chance)

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.images[index], index


class Endless(Sampler):  # type: ignore[misc]
    """Batches in order, for ever: no sample pays for the start of an epoch."""

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        while True:
            yield [(start + i) % IMAGES for i in range(BATCH)]
            start = (start + BATCH) % IMAGES


def take(batches: Iterator[Any], count: int) -> float:
    """Nanoseconds per batch for the next `count`."""
    begin = time.perf_counter_ns()
    for _ in range(count):
        images, labels = next(batches)
        if int(labels[-1] - labels[0]) % IMAGES != BATCH - 1:
            raise SystemExit(f"loader.py: the labels of a batch are wrong: {labels}")
        images.view(-1)[::PAGE].sum()
    return round((time.perf_counter_ns() - begin) / count, 1)


def main(samples: int, count: int, workers: int) -> None:
    torch.set_num_threads(1)
    data = Pictures()
    arena = uslub.Arena.create(size="2GiB")
    collate = uslub.torch.collate(arena)
    wishes: dict[str, dict[str, Any]] = {
        "stock": {"num_workers": workers},
        "uslub.torch.collate": {"num_workers": workers, "collate_fn": collate},
        "not shared": {"num_workers": 0, "collate_fn": collate},
    }
    found: dict[str, list[float]] = {}
    order = list(wishes)
    chance = random.Random(1)
    for i in range(-1, samples):  # the first ones meet cold pages
        chance.shuffle(order)
        for subject in order:
            # One loader at a time: waiting workers would go on filling their queues.
            loader = DataLoader(data, batch_sampler=Endless(), **wishes[subject])
            batches = iter(loader)
            take(batches, count)  # started, and every page is mapped
            spent = take(batches, count)
            del batches, loader
            if i >= 0:
                found.setdefault(subject, []).append(spent)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
