"""What a record and a board's index say, and what can be wrong with them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1
STATUSES = ("ok", "skipped", "unsupported", "diverged", "failed", "oom", "timeout", "interrupted")
Status = Literal["ok", "skipped", "unsupported", "diverged", "failed", "oom", "timeout", "interrupted"]
TENSORS = "artifacts/tensors.safetensors"  # in a cell's folder: everything that its metrics need
FINISHED = ("ok", "skipped")  # a record with one of these is never run again unasked


class DamagedRecord(Exception):
    """A record or its values cannot be read, or do not have the digest they should."""


class StoreError(Exception):
    """The store cannot be used as asked; the user can mend it, and it is shown without a traceback.

    Args:
        message: where, what was expected, what was found.
        hint: what to do, shown on a line of its own.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  {hint}" if hint else message)


class StoreFull(StoreError):
    """There is no space left; nothing half-written stays behind."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Reading(_Data):
    """One metric of one cell. ``value`` is None unless ``status`` is ok; the card is copied from the metric."""

    stem: str  # the metric's registered name
    metric: str  # its name on the boards, referee filled in
    metric_version: int = 1
    score_id: str
    status: Literal["ok", "undefined", "unsupported", "failed"]
    error: str = ""  # why there is no value, one line
    value: float | None = None
    unit: str
    better: Literal["higher", "lower", "neither"]
    decimals: int = 4
    per: Literal["image", "class", "set"]
    resample: Literal["image", "class", "none"]
    n_expected: int | None = None
    n_scored: int | None = None
    n_reference: int | None = None
    values: str | None = None  # name in values.safetensors: (n,) float64 one a unit, NaN = none; the value is its mean
    replicates: str | None = None  # name there: (R,) float64, indices shared between all cells with the same n
    metric_sha256: str = ""
    reference_sha256: str = ""
    seconds: float = 0.0


class Identity(_Data):
    """What the cell is, in the words of the boards."""

    track: str
    dataset: str
    split: str
    subject: str
    method: str
    condition: str
    variant: str
    method_version: int
    seed: int


class Cost(_Data):
    """What the cell took. ``wall_s`` is the method alone; seconds of metrics stand in the readings."""

    wall_s: float | None = None
    gpu_s: float | None = None
    gpu_peak_mib: float | None = None
    forward_passes: int | None = None
    backward_passes: int | None = None
    n_images: int | None = None


class Record(_Data):
    """Everything a board, a page or a reader may want to know of one cell.

    ``conditions`` and ``provenance`` are flat and use the column names of ``results.csv``.
    """

    schema_number: int = Field(SCHEMA, alias="schema")
    key: str
    identity: Identity
    settings: dict[str, Any]  # the method's settings, defaults included
    spec: dict[str, Any]  # all that the key hashes
    status: Status
    error: str = ""  # first line, at most 200 characters
    readings: tuple[Reading, ...] = ()
    cost: Cost = Cost()
    conditions: dict[str, Any] = {}  # img_size, batch_size, precision, deterministic, gpu_name, torch, …
    provenance: dict[str, Any] = {}  # weights_sha256, data_sha256, code_sha, run_id, started_utc, host, …
    notes: dict[str, Any] = {}  # whatever else the cell measured: curves, gate, referee, traceback
    is_reference: bool = False  # shows real images: not ranked unless the suite says so
    digests: dict[str, str] = {}  # file name in the cell's folder → sha256

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class IndexedCell(_Data):
    """One cell that a suite plans, whether it has been run or not."""

    key: str
    identity: Identity
    is_reference: bool = False


class RowName(_Data):
    """A row of a track's board, in the words of the boards."""

    dataset: str = ""  # an older index names none: its board has one alone
    subject: str
    condition: str
    method: str
    variant: str


class Gain(_Data):
    """A metric that a verdict asks to gain, and which way a gain goes: its card's way when left out."""

    metric: str  # stem
    better: Literal["higher", "lower"] | None = None


class Guard(_Data):
    """A metric that a verdict allows to fall, in its good direction, by no more than the margin."""

    metric: str  # stem
    margin: float  # at most 0


class VerdictRule(_Data):
    """When the first row of a pair is said to buy something: a metric of every group gains, and the guard is kept."""

    gains: dict[str, tuple[Gain, ...]]  # name of the group → its metrics
    guard: Guard
    across: int  # data sets that have to agree for a verdict across them


class Claim(_Data):
    """A sentence of the suite and the pairs of rows that answer it: the first of each is expected to be better."""

    claim: str
    source: str = ""
    track: str
    metrics: tuple[str, ...]  # stems
    margin: float = 0.0  # holds when the interval of the difference, in the good direction, lies above
    control: str | None = None  # method whose value, on the same subject and condition, is taken off each side
    pairs: tuple[tuple[RowName, RowName], ...]
    verdict: VerdictRule | None = None  # then ``metrics`` are all that it reads, and each pair gets one


class SuiteIndex(_Data):
    """The cells of one board, in the order of the plan. What is planned and has no record is visibly missing."""

    schema_number: int = Field(SCHEMA, alias="schema")
    suite: str
    profile: str
    suite_version: str  # semver of the protocol
    protocol: int
    board: str  # see ``board_name``
    primary: dict[str, str]  # track → stem of the metric that ranks it
    cells: tuple[IndexedCell, ...]
    rank_references: bool = False  # rows that show real images are ranked too
    claims: tuple[Claim, ...] = ()
    track_notes: dict[str, tuple[str, ...]] = {}  # track → lines that its board shows
    notes: dict[str, Any] = {}

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


def board_name(suite: str, profile: str) -> str:
    """What the board of a suite and profile is called: the suite's own name for profile ``cpu``."""
    return suite if profile == "cpu" else f"{suite}_{profile}"
