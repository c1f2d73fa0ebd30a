"""The boards as pages: one static folder that opens from disk and needs nothing from elsewhere."""

from bench.report.site.pages import write_page, write_site

__all__ = ["write_page", "write_site"]
