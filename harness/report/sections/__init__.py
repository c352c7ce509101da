"""One file per section of the report; `harness.report.section.find_sections` walks this package."""
