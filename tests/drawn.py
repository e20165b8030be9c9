"""What a picture of a study draws, read from its specification, for tests of figures."""

import json
import xml.etree.ElementTree as ElementTree

from unimatrix.lab.charts import DARK, LIGHT, pictures, render, specification


def spec_of(study, runs, name):
    """The specification of one of a study's pictures."""
    (picture,) = (picture for picture in pictures(study, runs) if picture.name == name)
    drawing = picture.draw()
    assert drawing is not None
    return specification(drawing)


def records_of(study, runs, name):
    """All records that a picture draws."""
    spec = spec_of(study, runs, name)
    return [record for records in spec["datasets"].values() for record in records]


def values_of(study, runs, name, *, column):
    """What a figure of rows shows of a column: kind of point -> label of the row -> values."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records_of(study, runs, name):
        if record["column"] == column and record["kind"] != "name":
            found.setdefault(record["kind"], {}).setdefault(record["label"], []).append(record["value"])
    return found


def check_pictures(study, runs):
    """Every figure of a study renders, in a palette's colours; without runs there is none."""
    figures = [picture for picture in pictures(study, runs) if not picture.name.endswith("-curves")]
    assert len(figures) == len(study.figures)
    for number, picture in enumerate(figures):
        drawing = picture.draw()
        assert drawing is not None
        palette = (LIGHT, DARK)[number % 2]
        svg = render(drawing, palette=palette, form="svg")
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert palette.page.encode() in svg
        assert b"var(--" not in svg
    assert {picture.draw() for picture in pictures(study, {})} == {None}


def whole(part, shared):
    """What page.js makes of a part that is kept once."""
    if isinstance(part, list):
        return [whole(inner, shared) for inner in part]
    if not isinstance(part, dict):
        return part
    return (
        whole(shared[part["$"]], shared)
        if "$" in part
        else {name: whole(inner, shared) for name, inner in part.items()}
    )


def rows_of(found):
    """What page.js makes of columns."""
    places = range(found["rows"])
    columns = {}
    for name, column in found["columns"].items():
        if isinstance(column, dict):
            column = [column["of"][at] for at in column.get("at", [0] * len(places))]
        columns[name] = column
    return [{name: column[at] for name, column in columns.items() if column[at] is not None} for at in places]


def figures_of(page):
    """What is kept for the figures: specs, datasets."""
    start = page.index('id="figures">') + len('id="figures">')
    kept = json.loads(page[start : page.index("</script>", start)])
    found = whole(kept["whole"], kept["shared"])
    return found | {"datasets": {name: rows_of(data) for name, data in found["datasets"].items()}}
