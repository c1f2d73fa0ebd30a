"""What detectors that learn from known attacks share: their examples, and a classifier on rows of numbers."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.ensemble import AdaBoostClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from bench.contract import DetectionTask, Skip

Kind = Literal["random_forest", "adaboost", "gradient_boosting", "logistic_regression"]
STATES = 2**24  # seeds of a forest: as many as a float32 draw in [0, 1) can tell apart


def too_dear(task: DetectionTask, *, scoring: int, learning: int) -> str | None:
    """Why the budget does not do.

    Args:
        task: the whole cell.
        scoring: passes that judging one image costs.
        learning: passes that `fit` costs, all together: they are divided over the images to be judged.
    """
    needed = scoring * len(task) + learning
    if needed <= task.budget * len(task):
        return None
    return (
        f"needs {scoring} passes an image and {learning} to learn, {needed / max(1, len(task)):.1f} an image in all,"
        f" the budget is {task.budget}"
    )


@dataclass(frozen=True)
class Examples:
    """What a detector learns from: (E, C, H, W) images, and (E,) bool which of them were attacked."""

    images: Tensor
    attacked: Tensor


def examples_of(task: DetectionTask, originals_per_class: int | None) -> Examples:
    """The known pictures, of at most so many originals a class: the first ones, with all that was made of them.

    Raises:
        Skip: attacked or unattacked ones are missing, so that there is nothing to tell apart.
    """
    taken = _taken(task.known_originals, task.known_labels, originals_per_class)
    images, attacked = task.known[taken], task.known_attacked[taken]
    there = int(attacked.sum())
    if there == 0 or there == len(attacked):
        raise Skip(f"learns from attacked and unattacked pictures, has {there} and {len(attacked) - there}")
    return Examples(images, attacked)


def _taken(originals: Tensor, labels: Tensor, per_class: int | None) -> Tensor:
    """(J,) bool: which pictures stem from the first ``per_class`` originals of their class."""
    taken = torch.ones_like(originals, dtype=torch.bool)
    if per_class is not None:
        for label in labels.unique():
            ours = labels == label
            taken &= ~ours | torch.isin(originals, originals[ours].unique()[:per_class])
    return taken


@dataclass(frozen=True)
class Learned:
    """A classifier that has learned which rows of features were attacked."""

    classifier: Any  # of scikit-learn

    def scores(self, features: Tensor) -> Tensor:
        """(B,) float32, higher is more suspicious: log-odds where the classifier has them, else a probability."""
        rows = _rows(features)
        if hasattr(self.classifier, "decision_function"):  # keeps the order of those whose probability rounds to 1
            values = self.classifier.decision_function(rows)
        else:
            values = self.classifier.predict_proba(rows)[:, 1]
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(features.device)


def learned(kind: Kind, features: Tensor, attacked: Tensor, task: DetectionTask) -> Learned:
    """Fit a classifier of scikit-learn, in its own settings but for what ``_classifier`` names.

    Args:
        kind: which one.
        features: (E, F) one row an example.
        attacked: (E,) bool.
        task: the whole cell; the forest's draws come from it.
    """
    classifier = _classifier(kind, task)
    classifier.fit(_rows(features), attacked.cpu().numpy())
    return Learned(classifier)


def _classifier(kind: Kind, task: DetectionTask) -> Any:
    """One not fitted yet. Boosting draws nothing but the order in which it looks for ties: that order is fixed."""
    match kind:
        case "random_forest":
            state = int(task.draws("forest", law="uniform")[0].item() * STATES)
            return RandomForestClassifier(n_estimators=100, random_state=state)
        case "adaboost":
            return AdaBoostClassifier(n_estimators=100, random_state=0)
        case "gradient_boosting":
            return GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=0)
        case "logistic_regression":
            return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _rows(features: Tensor) -> np.ndarray:
    return features.detach().double().cpu().numpy()
