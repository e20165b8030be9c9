"""report.html: one self-contained page for each results file, and the figures beside it.

Everything is inside (styles, scripts, specifications, data), so that it can be mailed, archived and read
offline. The drawing library stands in it once, packed, and so does whatever figures share.

page.html.jinja    what it says     page.css    how it looks, light and dark     page.js    what it does
packed             what its figures are made of, short
"""

import base64
import functools
import gzip
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain, count
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from unimatrix.lab.answers import NOT_MEASURED
from unimatrix.lab.charts import DARK, LIGHT, Picture, pictures, save_figures, specification, theme
from unimatrix.lab.charts.pictures import VEGA_LITE
from unimatrix.lab.claims import OUTCOMES, Outcome
from unimatrix.lab.page import packed
from unimatrix.lab.paper import JudgedClaim, Paper
from unimatrix.lab.results import naming
from unimatrix.lab.words import (
    HOW_TO_READ_CLAIMS,
    RULE,
    SCOPE,
    SHOWN,
    TERMS,
    Cell,
    Line,
    Summary,
    how_to_read,
)

PICK = "Tap a name in the legend to see it alone."
MOST_FINDINGS = 3
MOST_DETAILS = 5  # of a verdict, before the rest is folded away


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A picture that has something to show, by the id that its specification is kept under.

    wide: it needs the whole width of the page.
    """

    id: str
    title: str
    caption: str
    wide: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A study on the page.

    rows: its lines with the name that each is linked by. terms: the words that first stand here. own: how it
    was measured, without what it shares with others. explains: it is the first to show numbers.
    """

    id: str
    summary: Summary
    rows: tuple[tuple[str, Line], ...]
    figures: tuple[Drawn, ...]
    terms: Mapping[str, str]
    own: tuple[str, ...]
    explains: bool

    @property
    def answer(self) -> str:
        """The study's answer; nothing where it gives none to what has run."""
        if self.summary.waits:
            return NOT_MEASURED
        said = self.summary.study.answer(self.summary.samples)
        return "" if said == NOT_MEASURED else said

    @property
    def scales(self) -> tuple[tuple[float, float], ...]:
        """For each column the least and the greatest number that is drawn in its cells."""
        columns = zip(*(line.cells for line in self.summary.lines), strict=True)
        found = [[number for cell in cells for number in cell.numbers] for cells in columns]
        return tuple((min(numbers), max(numbers)) if numbers else (0.0, 0.0) for numbers in found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What the first screen shows of a study: its question, its answer, one figure."""

    section: Section
    figure: Drawn | None


def slug(text: str) -> str:
    """A name as a part of an address: letters, digits, points and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "unnamed"


def shared_cautions(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """The cautions of all studies, each once; behind those that are not everyone's stand their studies.

    Beside studies that have run, one that waits has nothing to be cautious of, as a drawing alone has not.
    """
    summaries = [summary for summary in summaries if summary.study.trained]
    summaries = [summary for summary in summaries if not summary.waits] or summaries
    said = _said_by(summaries, lambda summary: summary.cautions)
    everyone = len(summaries)
    return tuple(
        caution if len(names) == everyone else f"{caution} ({'; '.join(dict.fromkeys(names))})"
        for caution, names in said.items()
    )


def shared_protocol(summaries: Sequence[Summary]) -> dict[str, list[str]]:
    """What several studies say alike of how they were measured: the sentence, and whose it is."""
    summaries = [summary for summary in summaries if not summary.waits]
    said = _said_by(summaries, lambda summary: summary.study.protocol)
    return {sentence: names for sentence, names in said.items() if len(names) > 1}


def _said_by(summaries: Sequence[Summary], sentences: Any) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {}
    for summary in summaries:
        for sentence in dict.fromkeys(sentences(summary)):
            said.setdefault(sentence, []).append(_unmarked(summary.study.short))
    return said


def _unmarked(name: str) -> str:
    """A study's name without what its own heading says and a list would repeat."""
    return name.replace(" (not in the paper)", "")


def drawn_interval(cell: Cell, scale: tuple[float, float]) -> str:
    """What the small drawing of a cell shows, on its column's scale in thousandths: page.js draws it.

    "low high;mean;each seed;exact;the paper's value"; nothing between semicolons is nothing there, and a cell
    that has nothing to draw is "".
    """
    low, high = scale
    if not cell.numbers or high <= low:
        return ""
    interval = cell.interval
    several = interval is not None and interval.n > 1
    drawn: tuple[tuple[float | None, ...], ...] = (
        (interval.low, interval.high) if interval and several else (),
        (interval.mean,) if interval else (),
        cell.values if several else (),
        (cell.exact,),
        (cell.printed,),
    )
    return ";".join(
        " ".join(f"{1000 * (value - low) / (high - low):.0f}" for value in values if value is not None)
        for values in drawn
    )


@functools.cache
def _drawing_library() -> str:
    """The scripts of Vega, Vega-Lite and vega-embed: packed by gzip, in base64, which page.js unpacks."""
    # its declared types know nothing of the default, all three
    scripts = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # pyright: ignore[reportCallIssue]
    return base64.b64encode(gzip.compress(scripts.encode(), mtime=0)).decode()


def _sections(
    summaries: Sequence[Summary], specs: dict[str, Any], datasets: dict[str, Any]
) -> tuple[Section, ...]:
    shared, ids = shared_protocol(summaries), _ids(summaries)
    first = next((one.study.name for one in summaries if one.lines and not one.waits), "")
    explained: set[str] = set()
    sections = []
    for summary in summaries:
        figures = []
        for picture in _pictures(summary):
            drawing = picture.draw()
            if drawing is None:
                continue
            spec = specification(drawing)
            found = _with_shown_told(spec.pop("datasets", {}), summary)
            datasets |= {name: packed.columns(records) for name, records in found.items()}
            specs[picture.name] = spec
            wide = (
                bool({"least", "panel", "wide"} & spec.get("usermeta", {}).keys())
                or not {"width", "usermeta"} & spec.keys()
            )
            caption = f"{picture.caption} {PICK}" if theme.PICKED in str(spec) else picture.caption
            figures.append(Drawn(id=picture.name, title=picture.title, caption=caption, wide=wide))
        words = " ".join([summary.study.title, *(column.title for column in summary.study.columns)])
        new = () if summary.waits else [term for term in TERMS if term in words and term not in explained]
        terms = {term: TERMS[term] for term in new}
        explained |= terms.keys()
        sections.append(
            Section(
                id=ids[summary.study.name],
                summary=summary,
                rows=_linked(summary, ids[summary.study.name]),
                figures=tuple(figures),
                terms=terms,
                own=tuple(sentence for sentence in summary.study.protocol if sentence not in shared),
                explains=summary.study.name == first,
            )
        )
    return tuple(sections)


def _with_shown_told(datasets: Mapping[str, Any], summary: Summary) -> dict[str, Any]:
    """The same data; where a run is pointed at that was not trained here, it says so."""
    folders = {run.folder for name in summary.shown for run in summary.samples.get(name, {}).values()}

    def told(record: Any) -> Any:
        here = isinstance(record, dict) and record.get("run") in folders
        return record | {"run": f"{record['run']} ({SHOWN})"} if here else record

    return {name: [told(record) for record in records] for name, records in datasets.items()}


def _ids(summaries: Sequence[Summary]) -> dict[str, str]:
    """Study -> what its section is linked by: names of texts may differ in what an address leaves out."""
    names = [summary.study.name for summary in summaries]
    return dict(zip(names, _all_different(map(slug, names)), strict=True))


def _linked(summary: Summary, study: str) -> tuple[tuple[str, Line], ...]:
    """The lines with names to link them by; study: that of the section."""
    names = _all_different(f"{study}--{slug(line.name)}" for line in summary.lines)
    return tuple(zip(names, summary.lines, strict=True))


def _all_different(names: Iterable[str]) -> Iterator[str]:
    """The same with a number behind each that was there before."""
    taken: set[str] = set()
    for name in names:
        numbered = (f"{name}-{number}" for number in count(2))
        found = next(one for one in chain([name], numbered) if one not in taken)
        taken.add(found)
        yield found


def _pictures(summary: Summary) -> tuple[Picture, ...]:
    return pictures(summary.study, summary.samples, traced=summary.traced)


def _findings(sections: Sequence[Section], chosen: Mapping[str, str]) -> tuple[Finding, ...]:
    """What stands on the first screen: what the paper chooses, else the first studies that have a figure."""
    sections = [section for section in sections if not section.summary.waits]
    wanted = [section for name in chosen for section in sections if section.summary.study.name == name]
    others = [section for section in sections if section.figures and section not in wanted]
    found = []
    for section in (wanted + others)[:MOST_FINDINGS]:
        name = chosen.get(section.summary.study.name)
        figures = [figure for figure in section.figures if figure.id == name] or list(section.figures)
        found.append(Finding(section=section, figure=next(iter(figures), None)))
    return tuple(found)


def _short_names(summaries: Sequence[Summary]) -> dict[str, str]:
    """Study -> what it is called in the navigation: its short name, where no other has the same."""
    shorts = [summary.study.short for summary in summaries]
    names = {
        summary.study.name: summary.study.short
        if shorts.count(summary.study.short) == 1
        else summary.study.title
        for summary in summaries
    }
    return {study: _unmarked(name) for study, name in names.items()}


def _score(claims: Sequence[JudgedClaim], outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many of the paper's claims stand how; of the studies' own, where the paper's are not listed."""
    found = [claim.standing for claim in claims] or list(outcomes)
    return {standing: found.count(standing) for standing in dict.fromkeys((*OUTCOMES, *found))}


def _starts(summaries: Sequence[Summary]) -> tuple[int, int]:
    """From how many random starts the models were trained here, least and most; repeats are none."""
    # a study of several texts has several of each name
    counts = [
        len([run for run in summary.samples.get(name, {}).values() if not run.was_measured])
        for summary in summaries
        for name in summary.study.names
        if name not in summary.shown
    ]
    found = [count for count in counts if count]
    return (min(found), max(found)) if found else (0, 0)


def render_report(summaries: Sequence[Summary], paper: Paper) -> str:
    """The whole page as text. All values are escaped; our own scripts and drawings alone are markup."""
    folder = resources.files("unimatrix.lab.page")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["slug"] = slug
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    specs: dict[str, Any] = {}
    datasets: dict[str, Any] = {}
    sections = _sections(summaries, specs, datasets)
    verdicts = [
        (summary.study.name, claim, verdict)
        for summary in summaries
        for claim, verdict in summary.verdicts
        # what waits is no evidence, unless the verdict waits for it
        if claim.judges or not summary.waits
    ]
    claims = paper.judged(verdicts)
    colours = {name: f"light-dark({LIGHT.named[name]}, {DARK.named[name]})" for name in LIGHT.named}
    return environment.from_string((folder / "page.html.jinja").read_text(encoding="utf-8")).render(
        paper=paper,
        sections=sections,
        ids=_ids(summaries),
        findings=_findings(sections, paper.findings),
        cautions=shared_cautions(summaries),
        shared=shared_protocol(summaries),
        claims=claims,
        shorts=_short_names(summaries),
        score=_score(claims, [verdict.outcome for _, _, verdict in verdicts]),
        starts=_starts(summaries),
        any_shown=any(summary.shown for summary in summaries),
        shown=SHOWN,
        outcomes=OUTCOMES,
        drawn_interval=drawn_interval,
        most_details=MOST_DETAILS,
        how_to_read=how_to_read(summaries),
        how_to_read_claims=HOW_TO_READ_CLAIMS,
        rule=RULE,
        scope=SCOPE,
        colours=colours,
        library=_drawing_library() if specs else "",
        figures=packed.shared({"specs": specs, "datasets": datasets})
        | {"config": theme.config(theme.PAGE_FONT)},
        css=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup((folder / "page.js").read_text(encoding="utf-8")),
    )


def write_report(summaries: Iterable[Summary], paper: Paper, out: Path) -> Path:
    """Write OUT/figures/ and OUT/report.html, and return the page's path. An older page is replaced whole.

    Raises:
        OSError: the folder cannot be written.
    """
    summaries = tuple(summaries)
    for summary in summaries:
        save_figures(_pictures(summary), out / "figures")
    page = out / "report.html"
    unfinished = out / "report.html.unfinished"
    with naming(page):
        unfinished.write_text(render_report(summaries, paper), encoding="utf-8")
        os.replace(unfinished, page)
    return page
