"""What a worker process is and must be reset to before each cell, and what a record says of the machine."""

import functools
import importlib.metadata
import os
import platform
import random
import socket
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROJECT = Path(__file__).resolve().parent.parent.parent
PACKAGES = {"torchvision": "torchvision", "timm": "timm", "numpy": "numpy", "scipy": "scipy", "lpips": "lpips"} | {
    "skimage": "scikit-image",
    "torch": "torch",
}
GLOBAL_HOOKS = [f"_global_{way}_{kind}" for way in ("forward", "backward") for kind in ("hooks", "pre_hooks")]


def best_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def reset(threads: int) -> None:
    """Put every process-wide switch that can move a number back to where a fresh worker has it."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_float32_matmul_precision("highest")
    torch.set_flush_denormal(False)
    torch.autograd.set_detect_anomaly(False)
    for kind in GLOBAL_HOOKS:
        getattr(torch.nn.modules.module, kind).clear()
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # True would write every new tensor twice, which costs 4 % of a run; nothing here reads what it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global generator is what is reset
    random.seed(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")


def conditions(device: torch.device) -> dict[str, Any]:
    """What can change a number, in the column names of ``results.csv``."""
    on_gpu = device.type == "cuda"
    return {
        "deterministic": not on_gpu or torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "gpu_name": torch.cuda.get_device_name(device) if on_gpu else "",
        "gpu_count": torch.cuda.device_count() if on_gpu else 0,
        "driver": _driver() if on_gpu else "",
        "cuda": (torch.version.cuda or "") if on_gpu else "",
        "cudnn": str(torch.backends.cudnn.version() or "") if on_gpu else "",
        "python": platform.python_version(),
        **versions(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Column name → version of each library that can move a number; empty where it is not installed."""
    found = {}
    for column, package in PACKAGES.items():
        try:
            found[column] = importlib.metadata.distribution(package).version
        except importlib.metadata.PackageNotFoundError:
            found[column] = ""
    return found


@functools.cache
def code_state() -> dict[str, Any]:
    """Commit of the project and whether its code differs from it; empty where it is no checkout."""
    parts = ("bench", "methods", "metrics", "run_bench.py", "pyproject.toml")
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", *parts)
    return {"code_sha": commit or "", "code_dirty": bool(changed) if commit else None}


def host() -> dict[str, Any]:
    """The machine's name and processor."""
    return {"host": socket.gethostname(), "processor": platform.processor() or platform.machine(), "cpus": cpus()}


def cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _driver() -> str:
    try:
        words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.split("\n")[0].strip()
