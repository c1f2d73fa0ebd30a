"""Boards and records for people: tables in a terminal, and pages that work offline."""

from bench.report.differences import print_comparison, print_judgement
from bench.report.site import write_page, write_site
from bench.report.terminal import print_boards, show

__all__ = [
    "print_boards",
    "print_comparison",
    "print_judgement",
    "show",
    "write_page",
    "write_site",
]
