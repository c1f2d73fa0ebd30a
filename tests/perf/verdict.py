"""Figures beside their bars, for the scripts of ``make perf``."""

import os
from dataclasses import dataclass, field


@dataclass
class Verdict:
    """Prints each figure as it comes, and remembers whether all bars were met."""

    missed: list[str] = field(default_factory=list)

    def at_most(self, name: str, figure: float, bar: float, unit: str) -> None:
        """The figure should not be above its bar."""
        self._say(name, figure, "≤", bar, unit, figure <= bar)

    def at_least(self, name: str, figure: float, bar: float, unit: str) -> None:
        """The figure should not be below its bar."""
        self._say(name, figure, "≥", bar, unit, figure >= bar)

    def only(self, name: str, figure: float, unit: str) -> None:
        """A figure without a bar."""
        print(f"      {name}: {figure:.2f} {unit}", flush=True)

    def end(self) -> int:
        """Say what was missed and how busy the machine was; the exit status."""
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        met = f"{len(self.missed)} bars missed" if self.missed else "all bars met"
        print(f"{met}; load {load} on {os.cpu_count()} cores")
        return 1 if self.missed else 0

    def _say(self, name: str, figure: float, sign: str, bar: float, unit: str, met: bool) -> None:
        print(f"{'ok   ' if met else 'MISS '} {name}: {figure:.2f} {unit} (bar {sign} {bar:g} {unit})", flush=True)
        if not met:
            self.missed.append(name)
