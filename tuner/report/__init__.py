"""The report of a sweep: `write_report` writes one HTML page, `save_picture` its figures as one PNG file."""

from tuner.report.page import save_picture, write_report

__all__ = ["save_picture", "write_report"]
