"""Trained weights: the public files, networks by their tag, our own files, and the gates."""

import hashlib
import io
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contract import SetupError, Unsupported
from bench.zoo.architectures import Normalised
from bench.zoo.classifier import Classifier
from bench.zoo.datasets import open_dataset
from bench.zoo.networks import untrained, wrap
from bench.zoo.weights import (
    Gate,
    linear_probe,
    load_public,
    load_weights,
    public_card,
    public_names,
    save_weights,
)

DATA = Path(os.environ.get("GLASSBENCH_DATA", "absent"))
needs_data = pytest.mark.skipif(not (DATA / "weights").is_dir(), reason="needs GLASSBENCH_DATA with weights/")


def small(name: str = "mlp", *, mean: float = 0.5, num_classes: int = 4, seed: int = 0) -> Normalised:
    return untrained(name, num_classes=num_classes, image_shape=(1, 8, 8), mean=[mean], std=[0.3], seed=seed)


# ---- our own files -------------------------------------------------------------------------------------------------


def test_saved_weights_come_back_bit_for_bit(tmp_path):
    saved, other = small(seed=0), small(seed=1)
    save_weights(saved, tmp_path / "deep" / "w.safetensors")
    load_weights(other, tmp_path / "deep" / "w.safetensors")
    assert saved.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in saved.state_dict().items())


def test_weights_of_another_shape_are_refused_with_the_tensor_and_both_shapes(tmp_path):
    save_weights(small(num_classes=4), tmp_path / "w.safetensors")
    with pytest.raises(SetupError, match=r"w\.safetensors: inner\.head\.bias should be \(5,\), got \(4,\)"):
        load_weights(small(num_classes=5), tmp_path / "w.safetensors")


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(small("mlp"), tmp_path / "w.safetensors")
    with pytest.raises(SetupError, match=r"has no inner\.block1\.0\.bias, expected \(32,\)"):
        load_weights(small("cnn"), tmp_path / "w.safetensors")
    save_weights(nn.Sequential(small("mlp")), tmp_path / "w.safetensors")
    with pytest.raises(SetupError, match=r"has 0\.inner\.head\.bias \(4,\), which the network has not"):
        load_weights(small("mlp"), tmp_path / "w.safetensors")


def test_a_refused_file_changes_nothing(tmp_path):
    save_weights(small(num_classes=4, seed=1), tmp_path / "w.safetensors")
    network = small(num_classes=5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(SetupError):
        load_weights(network, tmp_path / "w.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_weights_trained_with_another_normalisation_are_refused(tmp_path):
    save_weights(small(mean=0.5), tmp_path / "w.safetensors")
    with pytest.raises(SetupError, match=r"mean is \[0\.5\], expected \[0\.25\]"):
        load_weights(small(mean=0.25), tmp_path / "w.safetensors")


def test_damaged_and_missing_files_are_told(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(small(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SetupError, match="is not a whole safetensors file"):
        load_weights(small(), path)
    with pytest.raises(SetupError, match=r"other\.safetensors is not there"):
        load_weights(small(), tmp_path / "other.safetensors")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(small(seed=0), path)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(small(seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- public files --------------------------------------------------------------------------------------------------


def test_every_public_network_says_what_it_needs_and_how_good_it_should_be():
    for card in map(public_card, public_names()):
        assert len(card.sha256) == 64
        assert card.path.startswith("weights/")
        assert card.gate is not None
        assert 0.5 < card.gate.accuracy < 1
        assert card.licence
        assert card.source
        assert len(card.mean) == len(card.std) == card.image_shape[0] == 3


def test_cifar_resnets_have_the_checksum_that_is_in_their_file_names():
    for depth in (20, 32, 44, 56):
        card = public_card(f"resnet{depth}.akamaster")
        assert card.path.endswith(f"resnet{depth}-{card.sha256[:8]}.th")


def test_unknown_public_network_is_told_with_the_nearest():
    with pytest.raises(
        SetupError, match=r"no trained network named 'resnet20\.akamastr'\. Did you mean 'resnet20\.akamaster'"
    ):
        public_card("resnet20.akamastr")


def test_missing_data_folder_is_told(monkeypatch):
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)
    with pytest.raises(
        SetupError, match=r"no data folder is named\n  set GLASSBENCH_DATA or give --data DIR.*12fca82f"
    ):
        load_public("resnet20.akamaster")


def test_missing_file_is_told_with_its_place_origin_and_checksum(tmp_path):
    with pytest.raises(
        SetupError, match=r"weights/cifar10/resnet20-12fca82f\.th, which is not there\n.*akamaster.*12fca82f"
    ):
        load_public("resnet20.akamaster", tmp_path)


def test_damaged_file_is_told_with_both_checksums(tmp_path):
    card = public_card("resnet20.akamaster")
    path = tmp_path / card.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")
    found = hashlib.sha256(b"half a file").hexdigest()
    with pytest.raises(
        SetupError, match=f"should have sha256 {card.sha256}, has {found}\n  .* get it again from github"
    ):
        load_public(card.name, tmp_path)


# ---- networks by their tag -----------------------------------------------------------------------------------------


def put(root: Path, name: str, state: dict[str, Tensor] | bytes) -> None:
    path = root / "weights" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(state, bytes):
        path.write_bytes(state)
    elif path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)


def random_state(name: str, num_classes: int = 1000) -> dict[str, Tensor]:
    made = untrained(name, num_classes=num_classes, image_shape=(3, 224, 224), mean=[0.5] * 3, std=[0.5] * 3, seed=5)
    return made.inner.state_dict()


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", ["resnet18.tv_in1k", "resnet18.IMAGENET1K_V1", "deit_tiny_patch16_224.fb_in1k"])
def test_network_by_its_tag_takes_its_file_from_the_data_folder(tmp_path, name, ending):
    state = random_state(name)
    put(tmp_path, f"{name}{ending}", state)
    before = torch.get_rng_state()
    made = load_public(name, tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(tensor, state[key]) for key, tensor in made.network.state_dict().items())
    assert made.image_shape == (3, 224, 224)
    torch.testing.assert_close(made.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))


def test_network_by_its_tag_is_normalised_as_its_library_says():
    card = public_card("vit_large_patch16_224.augreg_in21k_ft_in1k")
    assert (card.mean, card.std, card.num_classes) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1000)
    assert (card.transform.crop_pct, card.transform.interpolation) == (0.9, "bicubic")
    assert public_card("vit_large_patch32_384.orig_in21k_ft_in1k").image_shape == (3, 384, 384)
    card = public_card("resnet50.IMAGENET1K_V1")  # resized to 256, cut to 224
    assert card.transform.crop_pct == pytest.approx(224 / 256)


@pytest.mark.parametrize("name", ["resnet18.tv_in1k", "resnet18.IMAGENET1K_V1"])
def test_file_of_another_shape_is_told_with_the_tensor_and_both_shapes(tmp_path, name):
    put(tmp_path, f"{name}.pth", random_state(name, num_classes=7))
    with pytest.raises(SetupError) as caught:
        load_public(name, tmp_path)
    assert all(part in str(caught.value) for part in (f"{name}.pth", "fc.", "1000", "7"))


class Trap:
    """An object that would run code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


@pytest.mark.parametrize("name", ["resnet18.tv_in1k", "resnet18.IMAGENET1K_V1"])
def test_damaged_or_dangerous_file_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap = io.BytesIO()
    torch.save({"fc.weight": Trap()}, trap)
    for content in (b"", b"not a file of tensors", trap.getvalue()):
        put(tmp_path, f"{name}.pth", content)
        with pytest.raises(SetupError, match=f"{name}.pth does not give {name}: "):
            load_public(name, tmp_path)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("name", "place"),
    [("resnet18.tv_in1k", "timm.create_model"), ("resnet18.IMAGENET1K_V1", "torchvision.models.get_model")],
)
def test_network_without_file_and_connection_is_unsupported(tmp_path, monkeypatch, name, place):
    def offline(*given: object, **named: object) -> nn.Module:
        raise ConnectionError("no way out")

    public_card(name)  # the library's own look-ups come first
    monkeypatch.setattr(place, offline)
    with pytest.raises(Unsupported, match=f"no weights/{name}.safetensors or weights/{name}.pth in .*ConnectionError"):
        load_public(name, tmp_path)


# ---- gates ---------------------------------------------------------------------------------------------------------


def test_gate_admits_what_was_measured_and_two_thousandths_less():
    gate = Gate(accuracy=0.915, dataset="d", split="test", count=1000)
    assert 0.912 < gate.lowest < 0.913 < gate.accuracy


def test_probe_of_separable_features_is_perfect_and_of_noise_is_chance():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    noise = torch.randn(300, 5, generator=generator)
    apart = noise + 20 * F.one_hot(labels, 5)
    assert linear_probe(apart[:150], labels[:150], apart[150:], labels[150:]) == 1.0
    assert 0.15 < linear_probe(noise[:150], labels[:150], noise[150:], labels[150:]) < 0.5


def test_probe_does_not_care_about_the_size_or_place_of_features():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    features = torch.randn(200, 6, generator=generator) + F.one_hot(labels, 6)
    moved = features * torch.logspace(-3, 3, 6) + 100
    parts = [(given[:100], labels[:100], given[100:], labels[100:]) for given in (features, moved)]
    assert linear_probe(*parts[0]) == pytest.approx(linear_probe(*parts[1]), abs=0.011)


def accuracy(subject: Classifier, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        logits = torch.cat([subject(part.float() / 255) for part in images.split(40)])
    return (logits.argmax(1) == labels).double().mean().item()


@needs_data
def test_the_checksums_are_those_of_the_data_folder():
    sums = dict(reversed(line.split()) for line in (DATA / "SHA256SUMS").read_text().splitlines())
    assert {card.path: card.sha256 for card in map(public_card, public_names())} == {
        path: digest for path, digest in sums.items() if path.startswith("weights/")
    }


CIFAR = {"resnet20": 0.915, "resnet32": 0.928, "resnet44": 0.933, "resnet56": 0.926}


@needs_data
@pytest.mark.parametrize(
    ("name", "measured"), [*((f"{net}.akamaster", top1) for net, top1 in CIFAR.items()), ("vit_d6w128p4.smmk47", 0.705)]
)
def test_cifar_networks_reach_their_gates_on_the_exact_test_images(name, measured):
    data, subject = open_dataset("cifar10_exact5k", DATA), load_public(name, DATA)
    reached = accuracy(subject, data.images("test"), data.labels("test"))
    assert reached == pytest.approx(measured, abs=0.0021)
    assert reached >= public_card(name).gate.lowest


@needs_data
@pytest.mark.parametrize("name", ["resnet20.akamaster", "vit_d6w128p4.smmk47"])
def test_wrong_normalisation_falls_below_the_gate(name):
    data, subject = open_dataset("cifar10_exact5k", DATA), load_public(name, DATA)
    bare = wrap(Normalised(subject.network, [0.0] * 3, [1.0] * 3), name="bare", num_classes=10, image_shape=(3, 32, 32))
    assert accuracy(bare, data.images("test"), data.labels("test")) < public_card(name).gate.lowest


# Top-1 on the first 200 images of nips17, measured; all 1000 are the gate.
FIRST_200 = {"googlenet.bvlc_caffe": 0.625, "squeezenet1_1.caffe": 0.500, "mobilenet_v2.keras_int8": 0.805}


@needs_data
@pytest.mark.slow_data
@pytest.mark.parametrize(("name", "measured"), FIRST_200.items())
def test_imagenet_networks_are_right_about_the_first_200_images(name, measured):
    data = open_dataset("nips17", DATA)
    images = data.images("test", torch.arange(200))
    assert accuracy(load_public(name, DATA), images, data.labels("test")[:200]) == pytest.approx(measured, abs=0.0051)


@needs_data
@pytest.mark.gates
@pytest.mark.parametrize("name", FIRST_200)
def test_imagenet_networks_reach_their_gates_on_all_images(name):
    data, gate = open_dataset("nips17", DATA), public_card(name).gate
    reached = accuracy(load_public(name, DATA), data.images("test"), data.labels("test"))
    assert reached == pytest.approx(gate.accuracy, abs=0.0021)


@needs_data
@pytest.mark.gates
def test_linear_probe_of_the_trunk_reaches_its_gate():
    data, trunk = open_dataset("imagenette", DATA), load_public("resnet18_trunk.torchvision_layer3", DATA)
    shown = []
    for split in ("train", "test"):
        with torch.no_grad():
            parts = [trunk.features(part.float() / 255, "penultimate") for part in data.images(split).split(40)]
        shown += [torch.cat(parts), data.labels(split)]
    assert linear_probe(*shown) == pytest.approx(0.869, abs=0.005)
