"""The machinery of studies: seeds, results, intervals, claims, verdicts, charts, the page."""
