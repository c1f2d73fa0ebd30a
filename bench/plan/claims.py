"""Claims of a suite: sentences that its boards answer, by comparing rows of one track pair by pair."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from bench import registry
from bench.contract import SetupError, Unsupported
from bench.plan.verdicts import VerdictSpec


class Row(NamedTuple):
    """A row of a track's board."""

    dataset: str
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
    """One side of a pair. What it does not name is equal on both sides, the data set always."""

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
    metric: Names = Field(default=[], min_length=1)  # stems
    verdict: VerdictSpec | None = None  # instead of metrics: a rule over several, one pair of rows a data set
    # It holds when the interval of (of - against), turned so that larger is better, lies above the margin.
    margin: float = Field(default=0.0, allow_inf_nan=False)
    pairs: list[tuple[Side, Side]] = Field(min_length=1)  # [of, against]
    datasets: Names | None = None  # only rows of these, as the next four; all when left out
    subjects: Names | None = None
    conditions: Names | None = None
    methods: Names | None = None
    variants: Names | None = None
    control: str | None = None  # a method whose value on the same subject and condition is taken off each side

    @property
    def stems(self) -> list[str]:
        """All metrics that it reads."""
        return self.metric if self.verdict is None else self.verdict.stems

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
        self._check_form()
        for stem in self.stems:
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
        if self.verdict is not None:
            self._check_one_pair_a_data_set(rows)
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
        directed = set() if self.verdict is None else self.verdict.directed
        for stem in self.stems:
            try:
                card = registry.metric_card(stem)
            except Unsupported:  # its rows will say why there is no value
                continue
            if self.track not in card.tracks:
                raise SetupError(
                    f"claim {self.claim!r}: metric {stem} does not belong to the {self.track} track", "leave it out"
                )
            if card.better == "neither" and stem not in directed:
                raise SetupError(
                    f"claim {self.claim!r}: metric {stem} has no better direction",
                    f"name another one, or as a gain of a verdict {{metric: {stem}, better: higher}}",
                )

    def _check_form(self) -> None:
        """Metrics or a verdict, and no metric twice in a verdict: its gains would not be independent."""
        if self.verdict is None:
            if not self.metric:
                raise SetupError(f"claim {self.claim!r} names no metric", "name one, or a verdict with gains and guard")
            return
        if self.model_fields_set & {"metric", "margin", "control"}:
            raise SetupError(
                f"claim {self.claim!r} has a verdict: it takes no metric, margin or control beside it",
                "write two claims, or leave them out",
            )
        twice = [stem for stem, count in Counter(self.verdict.stems).items() if count > 1]
        if twice:
            raise SetupError(f"claim {self.claim!r}: its verdict names {twice[0]} twice", "name each metric once")

    def _check_one_pair_a_data_set(self, rows: Collection[Row]) -> None:
        for dataset, count in Counter(of.dataset for of, _ in self.compared(rows)).items():
            if count > 1:
                raise SetupError(
                    f"claim {self.claim!r}: its verdict compares {count} pairs of rows on {dataset}, it takes one",
                    "name subject, method and variant, or write one claim a device",
                )

    @property
    def _filters(self) -> tuple[list[str] | None, ...]:
        """Of each field of a row, the names that it may have."""
        return (self.datasets, self.subjects, self.conditions, self.methods, self.variants)

    def _keeps(self, row: Row) -> bool:
        chosen = all(names is None or value in names for value, names in zip(row, self._filters, strict=True))
        return chosen and (self.control is None or row != self.control_of(row))

    def _named(self) -> Iterable[tuple[str, Iterable[str]]]:
        """Every name of a row's field that stands anywhere in the claim."""
        for pair in self.pairs:
            for side in pair:
                yield from ((field, [name]) for field, name in side.named.items())
        yield from zip(Row._fields, (names or () for names in self._filters), strict=True)
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
