"""The report of a plan: one HTML file that needs no network and no fonts, and that can be read without its script."""

from cutset.codegen.report.material import Material, read_material
from cutset.codegen.report.page import render_report, write_plain_report, write_report

__all__ = ["Material", "read_material", "render_report", "write_plain_report", "write_report"]
