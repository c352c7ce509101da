"""Verdicts -> sections -> report.md, report.html, figures and tables."""
