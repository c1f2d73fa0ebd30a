"""Published judge networks: with random weights in files of the published form, against the libraries' own ways."""

import dataclasses
import functools
import hashlib
import math
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.contract import SetupError, ShapeError, Unsupported
from bench.zoo import foundations
from bench.zoo.datasets import dataset_card
from bench.zoo.datasets.card import DataFile
from bench.zoo.foundations import class_names, clip_directions, fetch_judge, judge_card, judge_names, load_judge
from tests.zoo import judges


def images(count: int, channels: int = 3, side: int = 32) -> torch.Tensor:
    """Random pictures of 4 × 4 tiles in 256 levels, as a data set has them."""
    draw = torch.Generator().manual_seed(count)
    tiles = torch.randint(0, 256, (count, channels, 4, 4), generator=draw).float() / 255
    return F.interpolate(tiles, (side, side), mode="nearest")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data root with a file of random weights for each judge."""
    with judges.with_random_weights(tmp_path_factory.mktemp("data")) as folder:
        yield folder


@pytest.fixture(scope="module")
def judge_named(root: Path):
    """Loads each judge once."""
    return functools.cache(lambda name: load_judge(name, root))


# ---- networks ------------------------------------------------------------------------------------------------------


def test_inception_sees_what_torch_fidelity_sees(root, judge_named):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    pictures = images(3)
    path = str(root / judge_card("inception").file.path)
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
    with torch.no_grad():
        (expected,) = theirs((pictures * 255).round().to(torch.uint8))
    assert expected.std(0).mean() > 0.01  # the random network tells them apart
    torch.testing.assert_close(judge_named("inception")(pictures), expected)


def cubic(known: int, wanted: int) -> torch.Tensor:
    """(wanted, known) matrix of cubic convolution (a = −3/4) at the places of DINOv2's position embeddings."""
    matrix = torch.zeros(wanted, known)
    for row in range(wanted):
        place = (row + 0.5) * known / (wanted + 0.1) - 0.5
        for column in range(math.floor(place) - 1, math.floor(place) + 3):
            x = abs(place - column)
            near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(column, 0), known - 1)] += near if x <= 1 else far
    return matrix


def dinov2_by_definition(state: dict[str, torch.Tensor], pictures: torch.Tensor) -> torch.Tensor:
    """Class token of a vision transformer with layer scale, written out; ``pictures`` normalised, 224 px."""

    def norm(name, tokens):
        return F.layer_norm(tokens, (768,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def linear(name, tokens):
        return tokens @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    patches = F.conv2d(pictures, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    grid = state["pos_embed"][0, 1:].view(37, 37, 768)
    places = torch.einsum("ai,bj,ijd->abd", cubic(37, 16), cubic(37, 16), grid).reshape(256, 768)
    tokens = patches.flatten(2).transpose(1, 2) + places
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(pictures), -1, -1)
    tokens = torch.cat([first, tokens], 1)
    for block in (f"blocks.{number}" for number in range(judges.DINOV2_DEPTH)):
        heads = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", tokens)).view(len(tokens), 257, 3, 12, 64)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = (query @ key.transpose(2, 3) / 8).softmax(-1) @ value
        seen = linear(f"{block}.attn.proj", seen.transpose(1, 2).flatten(2))
        tokens = tokens + state[f"{block}.ls1.gamma"] * seen
        hidden = F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", tokens)))
        tokens = tokens + state[f"{block}.ls2.gamma"] * linear(f"{block}.mlp.fc2", hidden)
    return norm("norm", tokens)[:, 0]


def test_dinov2_sees_what_torch_fidelity_shows_the_authors_network(root, judge_named, monkeypatch):
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    state = torch.load(root / judge_card("dinov2").file.path, weights_only=True)

    class Theirs(nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return dinov2_by_definition(state, pictures)

    monkeypatch.setattr(torch.hub, "load", lambda repository, name: Theirs())
    pictures = images(2)
    with torch.no_grad():
        (expected,) = FeatureExtractorDinoV2("dinov2-vit-b-14", ["dinov2"])((pictures * 255).to(torch.uint8))
    assert (expected[0] - expected[1]).abs().mean() > 1e-3
    torch.testing.assert_close(judge_named("dinov2")(pictures), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:FutureWarning")  # in open_clip
def test_clip_is_the_network_that_open_clip_makes_of_the_file(root, judge_named):
    import open_clip
    from open_clip.openai import load_openai_model

    theirs = load_openai_model(str(root / judge_card("clip").file.path), precision="fp32", device="cpu")
    shown = open_clip.image_transform(judges.CLIP_SIDE, is_train=False)  # for Pillow's images
    pictures = images(3, side=judges.CLIP_SIDE)
    from torchvision.transforms.functional import to_pil_image

    words = open_clip.get_tokenizer("ViT-B-32")(["a photo of a cat", "a photo of the digit 3"])
    with torch.no_grad():
        expected, *_ = theirs.get_logits(torch.stack([shown(to_pil_image(one)) for one in pictures]), words)
    judge = judge_named("clip")
    torch.testing.assert_close(judge(pictures) @ clip_directions(judge, ["cat", "3"]).T, expected, rtol=1e-4, atol=1e-4)


def test_clip_resizes_nearly_as_pillow_does(judge_named):
    import open_clip
    from torchvision.transforms.functional import to_pil_image

    smooth = F.interpolate(images(2, side=5), (40, 48), mode="bilinear", align_corners=True)
    judge = judge_named("clip")
    shown = open_clip.image_transform(judges.CLIP_SIDE, is_train=False)
    with torch.no_grad():  # Pillow rounds to 8 bits, the judge does not
        expected = judge.network.encode_image(torch.stack([shown(to_pil_image(one)) for one in smooth]), normalize=True)
    assert (judge(smooth) * expected).sum(1).min() > 0.999
    assert (judge(smooth)[0] * expected[1]).sum() < 0.999


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_lpips_is_that_of_its_authors_package(root, judge_named, name, monkeypatch):
    import lpips
    from torchvision import models

    state = torch.load(root / judge_card(f"lpips_{name}").file.path, weights_only=True)
    layers = judges.backbone(name)
    layers.load_state_dict({key[9:]: part for key, part in state.items() if key.startswith("features.")})

    class Trained:
        def __init__(self, pretrained: bool) -> None:
            assert pretrained
            self.features = layers

    with monkeypatch.context() as patch:
        patch.setattr(models, "alexnet" if name == "alex" else "vgg16", Trained)
        theirs = lpips.LPIPS(net=name, verbose=False)
    first, second = images(2), images(3)[:2]
    expected = theirs(2 * first - 1, 2 * second - 1).flatten()
    assert expected.min() > 0.01
    judge = judge_named(f"lpips_{name}")
    torch.testing.assert_close(judge(first, second), expected)
    assert judge(first, first).tolist() == [0, 0]
    torch.testing.assert_close(judge(second, first), expected)


@pytest.mark.parametrize("name", judge_names())
def test_grey_is_three_equal_channels_and_the_batch_changes_nothing(judge_named, name, monkeypatch):
    grey = images(3, channels=1)
    judge, sides = judge_named(name), 2 if name.startswith("lpips") else 1
    shown = judge(*[grey, grey.flip(0)][:sides])
    repeated = grey.repeat(1, 3, 1, 1)
    torch.testing.assert_close(judge(*[repeated, repeated.flip(0)][:sides]), shown, rtol=0, atol=0)
    monkeypatch.setattr(foundations, "BATCH", 2)
    torch.testing.assert_close(judge(*[grey, grey.flip(0)][:sides]), shown, rtol=1e-4, atol=1e-5)
    assert not shown.requires_grad


def test_only_intensities_of_one_or_three_channels_are_taken(judge_named):
    judge = judge_named("lpips_alex")
    good = images(2)
    with pytest.raises(ShapeError, match=r"images 1 should be intensities in \[0, 1\], got \[-1, 1\]"):
        judge(good, torch.tensor([-1.0, 1.0]).repeat(2, 3, 32, 16))
    with pytest.raises(ShapeError, match="images 0 should be floating point"):
        judge((good * 255).to(torch.uint8), good)
    with pytest.raises(ShapeError, match="1 or 3 channels, got 2"):
        judge(good[:, :2], good[:, :2])


def test_loading_leaves_the_global_generator_alone_and_gives_the_files_digest(root):
    state = torch.get_rng_state()
    judge = load_judge("lpips_alex", root)
    assert torch.equal(torch.get_rng_state(), state)
    content = (root / judge.card.file.path).read_bytes()
    assert judge.digest == hashlib.sha256(content).hexdigest()


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", judge_names())
def test_a_missing_file_is_unsupported_with_the_command_that_brings_it(name, tmp_path, monkeypatch):
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)
    path = judge_card(name).file.path
    assert path.startswith("weights/judges/")
    for place in (tmp_path, None):
        with pytest.raises(Unsupported) as caught:
            load_judge(name, place)
        assert str(caught.value) == f"needs {path}, fetch with: run_bench.py fetch {name}"


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("inception", "torch_fidelity.feature_extractor_inceptionv3", "torch-fidelity"),
        ("dinov2", "torch_fidelity.interpolate_compat_tensorflow", "torch-fidelity"),
        ("clip", "open_clip.model", "open_clip_torch"),
        ("lpips_vgg", "lpips", "lpips"),
    ],
)
def test_a_missing_library_is_unsupported_by_its_name(root, name, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unsupported, match=f"^needs {package}$"):
        load_judge(name, root)


def test_a_file_with_another_checksum_is_refused_with_both_sums(tmp_path):
    card = judge_card("dinov2")
    path = tmp_path / card.file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(SetupError) as caught:
        load_judge("dinov2", tmp_path)
    for part in (str(path), card.file.checksum, hashlib.sha256(b"something else").hexdigest(), "fetch dinov2"):
        assert part in str(caught.value)


def test_published_checksums_are_whole_or_stand_in_the_files_name():
    for name in judge_names():
        card = judge_card(name)
        algorithm, digits = card.file.checksum.split(":")
        assert algorithm == "sha256"
        assert len(digits) == 64 or (len(digits) == 8 and card.file.path.endswith(f"-{digits}.pth"))
        assert card.address.endswith("/" + Path(card.file.path).name)
        assert card.licence and card.source and card.checksum_from


def test_an_unknown_judge_is_named_with_the_nearest():
    with pytest.raises(SetupError, match=r"no judge network named 'incepton'. Did you mean 'inception'\?"):
        judge_card("incepton")


# ---- downloads -----------------------------------------------------------------------------------------------------

CONTENT = b"weights" * 50_000


class CutOff(BaseHTTPRequestHandler):
    """Promises all bytes and gives half of them."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2])

    def log_message(self, *args: object) -> None:
        pass


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Starts a server for the file of the judge "lpips_alex", with the checksum of ``CONTENT``; gives the data root."""
    running = []

    def start(handler, digits: int = 8) -> Path:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running.append((server, thread))
        checksum = f"sha256:{hashlib.sha256(CONTENT).hexdigest()[:digits]}"
        card = dataclasses.replace(
            judge_card("lpips_alex"),
            file=DataFile(path="weights/judges/toy.pth", checksum=checksum),
            address=f"http://127.0.0.1:{server.server_port}/toy.pth",
        )
        monkeypatch.setitem(foundations._CARDS, "lpips_alex", card)
        return tmp_path / "root"

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def files(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("digits", [8, 64])
def test_a_judges_file_is_fetched_once_with_its_checksum(served, tmp_path, digits):
    (tmp_path / "toy.pth").write_bytes(CONTENT)
    root = served(functools.partial(Quiet, directory=str(tmp_path)), digits)
    path, digest = fetch_judge("lpips_alex", root, progress=False)
    assert path == root / "weights/judges/toy.pth" and path.read_bytes() == CONTENT
    assert digest == hashlib.sha256(CONTENT).hexdigest()
    before = path.stat().st_ino
    (tmp_path / "toy.pth").unlink()
    fetch_judge("lpips_alex", root, progress=False)
    assert path.stat().st_ino == before


def test_a_download_that_is_cut_off_leaves_nothing(served):
    root = served(CutOff)
    with pytest.raises(SetupError, match=r"lpips_alex: weights/judges/toy\.pth could not be downloaded"):
        fetch_judge("lpips_alex", root, progress=False)
    assert files(root) == []


def test_another_file_under_the_address_is_refused_with_both_sums_and_what_to_do(served, tmp_path):
    (tmp_path / "toy.pth").write_bytes(b"other weights")
    root = served(functools.partial(Quiet, directory=str(tmp_path)))
    with pytest.raises(SetupError) as caught:
        fetch_judge("lpips_alex", root, progress=False)
    sums = [hashlib.sha256(CONTENT).hexdigest()[:8], hashlib.sha256(b"other weights").hexdigest()]
    for part in (*sums, f"put it at {root}/weights/judges/toy.pth", judge_card("lpips_alex").address):
        assert part in str(caught.value)
    assert files(root) == []


def test_a_damaged_file_is_replaced(served, tmp_path):
    (tmp_path / "toy.pth").write_bytes(CONTENT)
    root = served(functools.partial(Quiet, directory=str(tmp_path)))
    path = root / "weights/judges/toy.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:100])
    fetch_judge("lpips_alex", root, progress=False)
    assert path.read_bytes() == CONTENT


def test_fetching_a_judge_without_a_data_root_says_where_it_would_go(monkeypatch):
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)
    with pytest.raises(SetupError, match=r"fetch needs a data root(.|\n)*weights/judges/dinov2_vitb14_pretrain.pth"):
        fetch_judge("dinov2")


# ---- words ---------------------------------------------------------------------------------------------------------


def test_sentences_name_the_class_and_digits_are_called_so():
    assert foundations.sentence("airplane") == "a photo of a airplane"
    assert foundations.sentence("3") == "a photo of the digit 3"


def test_classes_have_the_names_of_their_data_set_and_imagenets_are_in_its_order():
    assert list(class_names(dataset_card("digits"))) == list("0123456789")
    named = class_names(dataset_card("imagenet"))
    assert len(named) == len(set(named)) == 1000
    assert [named[index] for index in (0, 217, 701)] == ["tench", "English springer", "parachute"]
    unnamed = dataclasses.replace(dataset_card("digits"), class_names=None)
    assert class_names(unnamed) is None
