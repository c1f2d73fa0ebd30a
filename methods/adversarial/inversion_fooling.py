"""Images that look like nothing and that the subject is sure of: a generator told a class, trained on its answers."""

from dataclasses import asdict, dataclass

from torch import Tensor

from bench.conditioned_generator import Recipe, Trained, train_generator
from bench.contract import AdversarialTask, method
from methods.adversarial import _inversion


@method(
    source="Suhail & Sethi 2025, arXiv:2503.20187 (confident counterfeits: one-hot conditions); adversarial use in"
    " Suhail & Sethi 2024, arXiv:2407.18002, first version",
    differs="neither recipe nor weights are public, so all are ours; width, step size and batch are those of a small"
    " budget, on MNIST 200 passes an image for 100 images; normalised rows in the Gram term; output through a sigmoid",
)
@dataclass(frozen=True, kw_only=True)
class InversionFooling:
    """x_b = G(z_b, t_b), t_b a class other than the true one, drawn for the place; no real image is looked at.

    G minimises α KL + β CE + γ cosine + δ orthogonality over its own images. For a one-hot condition KL is CE
    [derived], so that α + β is what pulls towards confidence; nothing pulls towards the data. Both the one-hot vector
    and the hot matrix tell G its class. The whole budget goes into training; an image then costs no pass.
    """

    width: int = 16  # channels of the generator's first stage
    latent: int = 100  # numbers of z
    dropout: str = "heavy"  # in training; off when images are made
    kl: float = 1.0  # α
    cross_entropy: float = 1.0  # β
    cosine: float = 1.0  # γ, over all pairs
    orthogonality: float = 1.0  # δ
    step_size: float = 2e-3  # Adam's
    batch_size: int = 64  # images of a training step

    def why_not(self, task: AdversarialTask) -> str | None:
        """Needs freedom from a bound, a wrong class, and the passes of a step."""
        return _inversion.why_not(task, self._recipe())

    def fit(self, task: AdversarialTask) -> Trained:
        """Train the generator with the passes of all images."""
        return train_generator(task, self._recipe(), _targets(task))

    def attack(self, task: AdversarialTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1]; only places and labels of ``task`` are used."""
        trained: Trained = task.fitted
        return trained.sample(task, _targets(task))

    def describe(self, task: AdversarialTask) -> dict[str, Tensor]:
        """Say which class each image was made for."""
        return {"target_labels": _targets(task)}

    def _recipe(self) -> Recipe:
        return Recipe(condition="one_hot", matrix="auto", **asdict(self))


def _targets(task: AdversarialTask) -> Tensor:
    """(B,) a class other than the label, each with equal chance, drawn for the image's place."""
    others = task.model.num_classes - 1
    drawn = task.draws("target", law="uniform")  # (B,)
    return (task.labels + 1 + (drawn * others).long().clamp(max=others - 1)) % (others + 1)
