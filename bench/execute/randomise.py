"""A subject that has forgotten everything: the same network with weights as an untrained one has them."""

import copy

import torch

from bench.contract import Classifier


def drawn_anew(model: Classifier, seed: int) -> Classifier:
    """A copy of the subject with all parameters drawn anew, on the same device; the subject itself is not touched.

    A module that can (``reset_parameters``) starts as its own kind does, and forgets what it gathered: running means
    are 0 and variances 1 again, as in an untrained network. Any other parameter gets normal numbers of its own mean and
    spread. All draws are made on the CPU, so that every device gets the same weights.

    Args:
        seed: fixes the draws; the global generator is left as found.
    """
    blank = copy.deepcopy(model)
    assert isinstance(blank, torch.nn.Module)
    device = next((tensor.device for tensor in blank.parameters()), torch.device("cpu"))
    blank.cpu()
    done: set[int] = set()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in blank.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                done.update(id(parameter) for parameter in module.parameters(recurse=False))
        for parameter in blank.parameters():
            if id(parameter) not in done:
                mean, spread = parameter.mean().item(), parameter.std(correction=0).item()
                parameter.normal_(mean, spread)
    return blank.to(device)
