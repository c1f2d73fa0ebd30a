"""What this machine has, for ``run_bench.py doctor`` and for whoever asks why something does not run."""

from collections.abc import Iterator
from pathlib import Path

from bench.contract import SetupError
from bench.execute import environment
from bench.zoo.datasets import dataset_card, dataset_names, open_dataset
from bench.zoo.foundations import judge_card, judge_names
from bench.zoo.weights import public_card, public_names


def findings(data: Path | None) -> Iterator[tuple[str, str]]:
    """(what, found): device, versions, code, data sets, public weights and judge networks.

    Args:
        data: the data folder, None where none is given.
    """
    device = environment.best_device()
    facts = environment.conditions(device) | environment.code_state() | environment.host()
    yield "device", f"{device} {facts['gpu_name']}".strip()
    yield from ((name, str(value)) for name, value in facts.items() if value not in ("", None))
    yield "data", str(data) if data else "GLASSBENCH_DATA is not set: only embedded data"
    yield from ((f"data set {name}", _data_found(name, data)) for name in dataset_names())
    yield from ((f"weights {name}", _weights_found(name, data)) for name in public_names())
    yield from ((f"judge {name}", _judge_found(name, data)) for name in judge_names())


def _data_found(name: str, data: Path | None) -> str:
    try:
        opened = open_dataset(name, data)
    except SetupError as error:
        return str(error).split("\n")[0]
    exact = "" if dataset_card(name).exact else " (not the exact pixels)"
    return f"found, splits {', '.join(opened.splits)}{exact}"


def _weights_found(name: str, data: Path | None) -> str:
    path = public_card(name).path
    return "found" if data is not None and (data / path).is_file() else f"{path} is not there"


def _judge_found(name: str, data: Path | None) -> str:
    card = judge_card(name)
    if data is None or not (data / card.file.path).is_file():
        return f"{card.file.path} is not there; run_bench.py fetch {name} ({card.mebibytes} MiB, {card.licence})"
    return "found"
