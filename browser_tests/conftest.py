"""Pages in a real browser: Debian's chromium, driven by playwright. `make test-browser` runs these tests.

They lie outside of the other tests, so that nothing is left out in silence where there is no browser: here
its absence is an error.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_results import make_result
from playwright.sync_api import Browser, Page, sync_playwright

from unimatrix.lab.claims import Verdict
from unimatrix.lab.committed import COMMITTED, committed_rows
from unimatrix.lab.look import read_trace
from unimatrix.lab.newest import newest, on_each_text
from unimatrix.lab.page import render_report
from unimatrix.lab.results import Result
from unimatrix.lab.words import Summary, summarise
from unimatrix.studies.catalogue import ALL
from unimatrix.studies.paper.claims import PAPER

EVIL = "</script><img src=x onerror=\"document.title='taken'\"><b>"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's chromium, without a window."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.fail("no chromium: `make test-browser` installs Debian's")
    with sync_playwright() as playwright:
        # as root chromium runs without its sandbox alone
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


def summaries(rows: list[Result]) -> list[Summary]:
    """Every study on its newest rows."""
    found = []
    for study in (told for one in ALL.values() for told in on_each_text(one, rows)):
        samples = newest(study, rows)
        traced = None if study.inspection is None else read_trace(COMMITTED, study.inspection, samples)
        found.append(summarise(study, samples, traced=traced))
    return found


@dataclasses.dataclass(frozen=True)
class HostileClaim:
    """A claim that would break out of the page."""

    statement: str = EVIL
    source: str = EVIL
    judges: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()

    def judge(self, _samples: object) -> Verdict:
        return Verdict(outcome="reproduced", seeds=None, details=(EVIL,))


def hostile() -> list[Summary]:
    """Table 1 on rows made by hand, of one seed, every word of it hostile."""
    study = ALL["table1"]
    rows = tuple(dataclasses.replace(row, label=EVIL, group=EVIL) for row in study.trained)
    figures = tuple(dataclasses.replace(one, title=EVIL, caption=EVIL) for one in study.figures)
    study = dataclasses.replace(
        study,
        title=EVIL,
        question=EVIL,
        answer=lambda _: EVIL,
        rows=rows,
        figures=figures,
        claims=(HostileClaim(),),
        protocol=(EVIL,),
    )
    runs = {
        name: {7: make_result(name, 7, 5.0 + number / 100, git_commit=EVIL)}
        for number, name in enumerate(study.names)
    }
    return [summarise(study, runs)]


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by name: of the committed rows, of one seed of some studies, of none, of hostile words."""
    rows = committed_rows()
    few = [row for row in rows if row.seed == 7 and row.experiment.startswith(("table1", "recall."))]
    made = {
        "committed": summaries(rows),
        "one-seed": summaries(few),
        "empty": summaries([]),
        "hostile": hostile(),
    }
    out = tmp_path_factory.mktemp("pages")
    for name, found in made.items():
        (out / f"{name}.html").write_text(render_report(found, PAPER), encoding="utf-8")
    return {name: out / f"{name}.html" for name in made}


class Opened:
    """A page in the browser, with everything that it complained of."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda said: self.complaints.append(said.text) if said.type != "log" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda asked: self.requests.append(asked.url))
        page.goto(path.as_uri())
        self.drawn()

    def drawn(self) -> None:
        """Wait until every figure is drawn."""
        self.page.wait_for_function("document.body.dataset.drawn === 'all'", timeout=60_000)

    def visible(self, selector: str) -> int:
        """How many elements are to be seen."""
        return self.page.locator(selector).locator("visible=true").count()


@pytest.fixture
def opened(browser: Browser, pages: dict[str, Path]):
    """opened(name, width=1400, dark=False, before=a script to run first).

    At the end no page may have complained or asked the net.
    """
    found: list[Opened] = []
    contexts = []

    def open_page(name: str, *, width: int = 1400, dark: bool = False, before: str = "") -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        context.add_init_script(before)
        contexts.append(context)
        found.append(Opened(context.new_page(), pages[name]))
        return found[-1]

    yield open_page
    for one in found:
        assert one.complaints == []
        assert all(url.startswith("file:") for url in one.requests)
    for context in contexts:
        context.close()
