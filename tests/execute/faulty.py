"""Does wrong in one way, or leaves a trace: what a worker must survive."""

import ctypes
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.contract import method

NOTES = "GLASSBENCH_TEST_NOTES"  # names a file that a cell may leave a line in


def note(line: str) -> bool:
    """Append a line; whether it was there before."""
    path = Path(os.environ[NOTES])
    known = path.exists() and line in path.read_text(encoding="utf-8").split("\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    return known


def make_a_mess(model: Any) -> None:
    """Every switch that a process has and a method should leave alone, and the network's own."""
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(False)
    torch.nn.modules.module.register_module_forward_hook(lambda module, args, out: out * 1.5)
    model.network.register_forward_hook(lambda module, args, out: out + 1)
    model.network.train().requires_grad_(True)
    os.chdir("/")


@method(source="a test")
@dataclass(frozen=True, kw_only=True)
class Faulty:
    """One fault, named by its setting."""

    fault: str = "none"

    def why_not(self, task: Any) -> str | None:
        """Refuses, or fails to answer."""
        if self.fault == "why_not":
            raise ValueError("no idea")
        return "needs a rainy day, the sun shines" if self.fault == "refuses" else None

    def attack(self, task: Any) -> Any:
        """The images as they are, unless the fault is another."""
        images = task.images
        match self.fault:
            case "segfault":
                ctypes.string_at(0)
            case "leaves":
                sys.exit(0)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "killed_once":
                if not note("killed once"):
                    os.kill(os.getpid(), signal.SIGKILL)
            case "slow":
                time.sleep(600)
            case "raises":
                raise RuntimeError("first line\nsecond line")
            case "talks":
                raise RuntimeError("x" * 500)
            case "no_memory":
                raise MemoryError("no room for the attack")
            case "huge":
                torch.empty(2**58)
            case "not_finite":
                return images / 0 * 0
            case "outside":
                return images + 1.0
            case "shape":
                return images[:, :, 1:]
            case "double":
                return images.double()
            case "nothing":
                return None
            case "far":
                return 1 - images
            case "greedy":
                for _ in range(task.budget + 1):
                    task.model(images)
            case "spoils":
                next(task.model.network.parameters()).data.add_(1)
            case "messy":
                make_a_mess(task.model)
            case "counts":
                note(f"{task.seed}")
                time.sleep(0.3)
        return images
