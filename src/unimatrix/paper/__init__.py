"""Every table, figure and claim of the paper: trained, measured, judged and reported by one command."""
