"""A generator that is told a class and trained, without data, to make images that a frozen subject gives that class.

Suhail & Sethi 2024, arXiv:2407.18002, and follow-ups. Shared by the methods of several tracks.
"""

from bench.conditioned_generator.training import Additions, Recipe, Trained, train_generator

__all__ = ["Additions", "Recipe", "Trained", "train_generator"]
