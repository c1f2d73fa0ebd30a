"""What one cell left behind, and where it lies. The only module that both towers know; it never imports torch.

<store>/cells/<key>/record.json         written last, then the folder is renamed: it exists = the cell is complete
                    values.safetensors  per-image values and replicates; record.json holds its digest
                    artifacts/          tensors.safetensors, contact_sheet.png, log.txt
<store>/subjects/<key>/                 trained weights, shared by all suites
<store>/features/<key>/                 reference features
<store>/suites/<board>/index.json       the cells of one suite and profile
<store>/damaged/                        what was set aside because it could not be read
<store>/staging/, replaced/             cells on their way in and out; what a killed process left is for `gc`
"""

from bench.record.files import write_atomic
from bench.record.models import (
    FINISHED,
    SCHEMA,
    STATUSES,
    TENSORS,
    Claim,
    Cost,
    DamagedRecord,
    Gain,
    Guard,
    Identity,
    IndexedCell,
    Reading,
    Record,
    RowName,
    Status,
    StoreError,
    StoreFull,
    SuiteIndex,
    VerdictRule,
    board_name,
)
from bench.record.store import Leftover, Problem, Store

__all__ = [
    "FINISHED",
    "SCHEMA",
    "STATUSES",
    "TENSORS",
    "Claim",
    "Cost",
    "DamagedRecord",
    "Gain",
    "Guard",
    "Identity",
    "IndexedCell",
    "Leftover",
    "Problem",
    "Reading",
    "Record",
    "RowName",
    "Status",
    "Store",
    "StoreError",
    "StoreFull",
    "SuiteIndex",
    "VerdictRule",
    "board_name",
    "write_atomic",
]
