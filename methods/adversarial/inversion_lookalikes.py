"""One picture that the subject gives every class: a generator whose images of different classes are pulled together."""

from dataclasses import asdict, dataclass

from torch import Tensor

from bench.conditioned_generator import Recipe, Trained, train_generator
from bench.contract import AdversarialTask, method
from methods.adversarial import _inversion


@method(
    source="Suhail & Sethi 2024, arXiv:2407.18002, first version, lists adversarial samples as a use; the pictures seen"
    " in student work are nearly equal and of ten classes [group code]; the loss is not public, this one is ours"
    " [our choice]",
    differs="the classes of a group share one latent; no dropout; width, step size and batch are those of a small"
    " budget, on MNIST 300 passes an image for 100 images; normalised rows in the Gram term; output through a sigmoid",
    variants={"no_pull": {"lookalike": 0.0}},
)
@dataclass(frozen=True, kw_only=True)
class InversionLookalikes:
    """x_b = G(z_g, t_b): K places in a row are a group g with one latent, made for the classes 0 to K − 1 in turn.

    G minimises α KL + β CE + γ cosine + δ orthogonality + λ · mean ‖x_i − x_j‖² over pairs of a batch with y_i ≠ y_j,
    the sum of squares over all pixels, over pictures of any latent. Where the class in turn is the image's true label,
    the next one is taken, so that a group may lack a class. No real image is looked at. The whole budget goes into
    training; an image then costs no pass.
    """

    lookalike: float = 3.0  # λ [our choice]: on MNIST shares of 0.02, 0.89 and 1 for 0.3, 1 and 3
    width: int = 16  # channels of the generator's first stage
    latent: int = 100  # numbers of z
    dropout: str = "none"  # in training, where it would keep images apart; off when images are made
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
        groups = task.places // task.model.num_classes
        return trained.sample(task.replace(places=groups), _targets(task))

    def describe(self, task: AdversarialTask) -> dict[str, Tensor]:
        """Say which class each image was made for."""
        return {"target_labels": _targets(task)}

    def _recipe(self) -> Recipe:
        return Recipe(condition="one_hot", matrix="auto", **asdict(self))


def _targets(task: AdversarialTask) -> Tensor:
    """(B,) the class whose turn it is, or the next one where that is the true label."""
    classes = task.model.num_classes
    turn = task.places % classes
    return (turn + (turn == task.labels)) % classes
