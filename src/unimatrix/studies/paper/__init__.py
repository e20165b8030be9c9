"""The paper: its tables, figures and claims, each beside the recipe that measures it."""
