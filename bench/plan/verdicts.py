"""When a device is said to buy something: gains in several metrics at once, at no great loss in another one.

The general form of the rule in section 7.2 of the specification of network inversion [our choice]. How it is judged
stands in ``bench/leaderboard/verdicts.py``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_mapping(value: Any) -> Any:
    return {"metric": value} if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | Mapping) else value


class GainSpec(_Strict):
    """A metric that may gain: its stem, or ``{metric: …, better: …}`` where its card's direction is not the one."""

    metric: str
    better: Literal["higher", "lower"] | None = None


class GuardSpec(_Strict):
    """A metric that may not fall, in its card's good direction, by more than the margin."""

    metric: str
    margin: float = Field(le=0, allow_inf_nan=False)


GroupName = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^\w[\w .\-]*$")]
Gains = Annotated[
    list[Annotated[GainSpec, BeforeValidator(_as_mapping)]], Field(min_length=1), BeforeValidator(_as_list)
]


class VerdictSpec(_Strict):
    """The rule of one claim."""

    gains: dict[GroupName, Gains] = Field(min_length=1)  # one metric of each group has to gain
    guard: GuardSpec
    across: int = Field(default=3, ge=2)  # data sets that have to agree for a verdict across them

    @property
    def stems(self) -> list[str]:
        """All metrics that it reads, the guard's last."""
        return [*(gain.metric for gains in self.gains.values() for gain in gains), self.guard.metric]

    @property
    def directed(self) -> set[str]:
        """Those whose direction the rule itself says."""
        return {gain.metric for gains in self.gains.values() for gain in gains if gain.better}
