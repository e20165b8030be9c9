"""Result rows made by hand."""

from made_results import *  # noqa: F403
