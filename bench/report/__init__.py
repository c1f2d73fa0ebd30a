"""Boards and records for people: tables in a terminal, and one page that works offline."""

from bench.report.differences import print_differences
from bench.report.page import write_page
from bench.report.terminal import print_boards, show

__all__ = ["print_boards", "print_differences", "show", "write_page"]
