"""Reports: run directories in; tables, pictures, a page, Markdown, JSON and CSV out."""

from convmixer.report.collect import collect
from convmixer.report.write import csv_text, json_text, write_report

__all__ = ["collect", "csv_text", "json_text", "write_report"]
