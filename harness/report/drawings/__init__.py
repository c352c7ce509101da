"""One file per kind of drawing; `harness.report.figures` names them all."""
