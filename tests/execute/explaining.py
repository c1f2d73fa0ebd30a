"""Which explanations of ``paths.csv`` stand for a measure."""

import re

from bench.leaderboard.paths import PATH_MEASURES

WORDS = {
    "percent": r"\d+",
    "path": "dynamic|mean|class|random",
    "maps": "masked|unmasked",
    "rival": "random|unit",
}


def explanations(measure: str) -> list[str]:
    """The keys that fit, placeholders filled in; one where it is explained as it should be."""
    return [key for key in PATH_MEASURES if re.fullmatch(re.sub(r"{(\w+)}", _words, key), measure)]


def _words(placeholder: re.Match[str]) -> str:
    return f"({WORDS[placeholder[1]]})"
