"""Bort in two processes that share the gradients of a batch, which is all that they send each other.

A file of its own, since each process imports it.
"""

import sys

import pytest
import torch
from torch import nn

from methods.training._bort import BortAdamW, BortSGD, bort_param_groups

STEPS, BATCH = 6, 8


def small_network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5)).double()


def batch_of(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 2, 5, 5, generator=generator, dtype=torch.float64)
    return images, torch.arange(step, step + BATCH) % 5


def optimizers_of(network):
    settings = {"lr": 0.05, "every": 2, "clip_correction": True}
    return {
        "sgd": lambda: BortSGD(bort_param_groups(network, gamma=0.3), momentum=0.9, **settings),
        "adamw": lambda: BortAdamW(bort_param_groups(network, gamma=0.3), **settings),
    }


def train(network, optimizer, rows):
    """Mean loss over this process's rows of each batch."""
    for step in range(STEPS):
        images, labels = batch_of(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimizer.step()


def weights_of(network):
    return torch.cat([one.detach().flatten() for one in network.parameters()])


def process(rank, store, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name in ("sgd", "adamw"):
        network = small_network()
        parallel = nn.parallel.DistributedDataParallel(network)
        train(parallel, optimizers_of(network)[name](), slice(rank, None, 2))
        torch.save(weights_of(network), f"{folder}/{name}{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available() or sys.platform == "win32", reason="torch without gloo")
def test_two_processes_train_as_one_with_the_joined_batch(tmp_path):
    torch.multiprocessing.spawn(process, args=(tmp_path / "store", tmp_path), nprocs=2)
    for name in ("sgd", "adamw"):
        alone = small_network()
        start = weights_of(alone)
        train(alone, optimizers_of(alone)[name](), slice(None))
        first, second = (torch.load(tmp_path / f"{name}{rank}.pt") for rank in range(2))
        assert torch.equal(first, second)
        torch.testing.assert_close(first, weights_of(alone), rtol=0, atol=1e-6)
        assert (first - start).abs().max() > 1e-2
