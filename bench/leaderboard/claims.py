"""What a suite claims, and what its records answer: one line a compared pair of rows, with a paired interval.

Nothing is corrected for the number of comparisons: the boards say how many there are.
"""

from typing import Literal

import pandas as pd

from bench.leaderboard.comparisons import Finding, Row, asked_columns, findings, number_columns
from bench.leaderboard.lines import Sheet
from bench.leaderboard.schema import CLAIM_KINDS, VERDICT_KINDS, table
from bench.leaderboard.verdicts import verdict_rows

Verdict = Literal["holds", "fails", "unclear", "no value"]


def claims_frame(sheet: Sheet) -> pd.DataFrame | None:
    """The rows of ``claims.csv`` in the order of the suite; None where it claims nothing."""
    claims = sheet.index.claims
    if not claims:
        return None
    rows = [
        {"suite_version": sheet.index.suite_version} | row
        for claim, found in zip(claims, findings(sheet), strict=True)
        for row in (map(_row, found) if claim.verdict is None else verdict_rows(claim.verdict, found))
    ]
    has_verdicts = any(claim.verdict is not None for claim in claims)
    return table(rows, {**CLAIM_KINDS, **VERDICT_KINDS} if has_verdicts else CLAIM_KINDS)


def verdict(low: float, high: float, better: str, margin: float) -> Verdict:
    """Whether the interval of the difference, turned so that larger is better, lies above the margin or below it."""
    if better == "lower":
        low, high = -high, -low
    return "holds" if low > margin else "fails" if high < margin else "unclear"


def _row(one: Finding) -> Row:
    margin = one.asked.claim.margin
    row = asked_columns(one.asked) | {"margin": margin} | number_columns(one)
    if one.difference is None:
        return row | {"verdict": "no value"}
    if row["better"] == "neither":
        why = "the metric has no better direction"
        return row | {"verdict": "unclear", "reason": "; ".join(filter(None, (row["reason"], why)))}
    if one.ends is None:
        return row | {"verdict": "unclear"}
    return row | {"verdict": verdict(one.ends.low, one.ends.high, row["better"], margin)}
