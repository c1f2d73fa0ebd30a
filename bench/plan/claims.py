"""Claims of a suite: sentences that its boards answer, by comparing rows of one track pair by pair."""

from collections.abc import Collection, Iterable
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from bench import registry
from bench.contract import SetupError, Unsupported


class Row(NamedTuple):
    """A row of a track's board."""

    subject: str
    condition: str
    method: str
    variant: str


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Line = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_in_one_line)]
Lines = Annotated[list[Line], BeforeValidator(_as_list)]
Names = Annotated[list[str], BeforeValidator(_as_list)]


class Side(BaseModel):
    """One side of a pair. What it does not name is equal on both sides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str | None = None
    condition: str | None = None
    method: str | None = None
    variant: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """What it names."""
        return self.model_dump(exclude_none=True)


class ClaimSpec(BaseModel):
    """One claim. Every pair of rows that its pairs and filters let through is a comparison of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    claim: Line = Field(min_length=1)  # one sentence, as its source makes it
    source: Line = ""
    track: str
    metric: Names = Field(min_length=1)  # stems
    # It holds when the interval of (of - against), turned so that larger is better, lies above the margin.
    margin: float = Field(default=0.0, allow_inf_nan=False)
    pairs: list[tuple[Side, Side]] = Field(min_length=1)  # [of, against]
    subjects: Names | None = None  # only rows of these, as the next three; all when left out
    conditions: Names | None = None
    methods: Names | None = None
    variants: Names | None = None
    control: str | None = None  # a method whose value on the same subject and condition is taken off each side

    def compared(self, rows: Collection[Row]) -> list[tuple[Row, Row]]:
        """All (of, against) among the track's rows, in the order of the pairs, then of the rows."""
        kept = [row for row in rows if self._keeps(row)]
        found = [both for pair in self.pairs for both in _matches(pair, kept)]
        return list(dict.fromkeys(found))

    def control_of(self, row: Row) -> Row:
        """The row of the control that belongs to ``row``."""
        return row._replace(method=self.control or "", variant="default")

    def check(self, rows: Collection[Row]) -> None:
        """Every name stands in some row of the track, every pair compares something, every control is run.

        Raises:
            SetupError: it is not so.
        """
        for stem in self.metric:
            registry.entry("metric", stem)
        for field, names in self._named():
            known = list(dict.fromkeys(getattr(row, field) for row in rows))
            for name in names:
                if name not in known:
                    raise registry.unknown(f"{field} of the {self.track} track of this suite", name, known)
        for number, pair in enumerate(self.pairs, start=1):
            if not self.model_copy(update={"pairs": [pair]}).compared(rows):
                raise SetupError(
                    f"claim {self.claim!r}: its pair {number} compares nothing",
                    "what a side does not name is equal on both sides: some row of the track has to fit each",
                )
        if self.control is not None:
            for row in dict.fromkeys(row for pair in self.compared(rows) for row in pair):
                if self.control_of(row) not in rows:
                    place = " · ".join(filter(None, (row.subject, row.condition)))
                    raise SetupError(
                        f"claim {self.claim!r}: its control {self.control} is not run on {place}",
                        f"add it to the {self.track} track, or leave the control out",
                    )

    def check_metrics(self) -> None:
        """The metrics belong to the track and have a better direction. Their cards are loaded for it.

        Raises:
            SetupError: it is not so.
        """
        for stem in self.metric:
            try:
                card = registry.metric_card(stem)
            except Unsupported:  # its rows will say why there is no value
                continue
            if self.track not in card.tracks:
                raise SetupError(
                    f"claim {self.claim!r}: metric {stem} does not belong to the {self.track} track", "leave it out"
                )
            if card.better == "neither":
                raise SetupError(f"claim {self.claim!r}: metric {stem} has no better direction", "name another one")

    def _keeps(self, row: Row) -> bool:
        filters = (self.subjects, self.conditions, self.methods, self.variants)
        chosen = all(names is None or value in names for value, names in zip(row, filters, strict=True))
        return chosen and (self.control is None or row != self.control_of(row))

    def _named(self) -> Iterable[tuple[str, Iterable[str]]]:
        """Every name of a row's field that stands anywhere in the claim."""
        for pair in self.pairs:
            for side in pair:
                yield from ((field, [name]) for field, name in side.named.items())
        filters = (self.subjects, self.conditions, self.methods, self.variants)
        yield from zip(Row._fields, (names or () for names in filters), strict=True)
        yield "method", [self.control] if self.control is not None else []


def _matches(pair: tuple[Side, Side], rows: Iterable[Row]) -> Iterable[tuple[Row, Row]]:
    """Both rows are there and differ. What only one side names is named on both."""
    of, against = (side.named for side in pair)
    known = dict.fromkeys(rows)
    for row in known:
        other = row._replace(**against)
        fits = row == row._replace(**(against | of))
        if fits and other != row and other in known:
            yield row, other
