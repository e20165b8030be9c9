"""Figures of a study: one specification each, for the page, where it can be hovered, and for PNG and SVG.

theme       colours, light and dark; what every figure looks like
records     the numbers of a study as flat records, the data of its figures
by_row      one row for each model: mean, interval, seeds, the paper's value
columns     a line for each row over what its columns stand for: length, position
over        lines over a number: slots, steps, seconds; curves of training
slots       a slot memory over time
heat        a score for each task at each length
gap         the difference of two models, seed by seed
search      a search of settings, and quality over cost
pictures    the figures of a study, rendered and saved
"""

from unimatrix.lab.charts.by_row import draw_metric, draw_panels
from unimatrix.lab.charts.columns import draw_over_columns
from unimatrix.lab.charts.gap import draw_gap
from unimatrix.lab.charts.heat import draw_heat_map
from unimatrix.lab.charts.over import draw_curves, draw_over, draw_training_length
from unimatrix.lab.charts.pictures import Picture, pictures, render, save_drawing, save_figures, specification
from unimatrix.lab.charts.search import draw_over_cost, draw_search
from unimatrix.lab.charts.slots import draw_slots
from unimatrix.lab.charts.theme import DARK, LIGHT, Drawing, Palette

__all__ = [
    "DARK",
    "LIGHT",
    "Drawing",
    "Palette",
    "Picture",
    "draw_curves",
    "draw_gap",
    "draw_heat_map",
    "draw_metric",
    "draw_over",
    "draw_over_columns",
    "draw_over_cost",
    "draw_panels",
    "draw_search",
    "draw_slots",
    "draw_training_length",
    "pictures",
    "render",
    "save_drawing",
    "save_figures",
    "specification",
]
