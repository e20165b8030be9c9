"""Speed and memory, measured: interleaved candidates, medians, ratios inside one run, JSON and a plot."""
