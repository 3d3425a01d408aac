"""The report of a plan: one HTML file that needs no network, no fonts and no JavaScript."""

from cutset.codegen.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
