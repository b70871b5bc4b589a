"""Reports: run directories in; tables, figures, a page, Markdown, JSON and CSV out."""

from convmixer.report.write import csv_text, json_text, write_report

__all__ = ["csv_text", "json_text", "write_report"]
