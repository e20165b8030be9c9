"""What the page of results does: it draws, tells what is pointed at, filters, searches, is light and dark."""

import itertools

import pytest
from axe_playwright_python.sync_playwright import Axe

from unimatrix.studies.catalogue import ALL

PHONE = 390
WIDTHS = pytest.mark.parametrize("width", [1400, 800, PHONE])
NAMES = pytest.mark.parametrize("name", ["committed", "one-seed", "empty", "hostile"])


def test_every_study_is_there_and_every_figure_drawn(opened) -> None:
    page = opened("committed").page
    for study in ALL.values():
        assert page.locator(f".study[id='{study.name}']").count() == 1
        assert page.locator(f"nav a[href='#{study.name}']").count() == 1
    figures = page.locator("figure[data-figure]")
    assert figures.count() > len(ALL)
    for number in range(figures.count()):
        drawing = figures.nth(number).locator(".drawing svg")
        assert drawing.count() == 1
        assert drawing.bounding_box()["height"] > 100
    # no legend leaves names out
    assert not any("entries" in text for text in page.locator("svg .role-legend-label").all_text_contents())


def test_a_browser_that_cannot_unpack_the_drawing_library_says_where_the_figures_are(opened) -> None:
    page = opened("one-seed", before="delete window.DecompressionStream").page
    figures = page.locator("figure[data-figure] .drawing")
    assert figures.count() > 0
    assert set(figures.all_inner_texts()) == {
        "This browser cannot draw the figures; one from 2023 or later can. Where the page was made they lie "
        "beside it."
    }
    assert page.locator("td .spark").count() > 0


def test_a_name_in_a_legend_is_tapped_to_see_it_alone(opened) -> None:
    page = opened("committed").page
    for name in ("table1-curves", "figure3"):
        figure = page.locator(f".study figure[data-figure='{name}']")
        assert "Tap a name" in figure.locator("figcaption").inner_text()
        faint = figure.locator("svg .mark-line path[opacity='0.1111111111111111']")
        figure.locator("svg .role-legend-label text").first.click()
        faint.first.wait_for()
        assert faint.count() < figure.locator("svg .mark-line path").count()


@NAMES
@WIDTHS
def test_nothing_reaches_beyond_the_window(opened, name, width) -> None:
    page = opened(name, width=width).page
    for folded in (True, False):
        if not folded:
            page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1400, 1000, 800, PHONE])
def test_nothing_in_the_head_of_the_navigation_covers_another(opened, width) -> None:
    page = opened("empty", width=width).page
    name, button = (page.locator(found).bounding_box() for found in (".bar .top", "#theme"))
    assert name["x"] + name["width"] < button["x"]
    assert page.evaluate("(one => one.scrollWidth <= one.offsetWidth)(document.querySelector('.bar .top'))")
    assert name["height"] < 40  # one line


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, PHONE])
@NAMES
def test_the_page_is_accessible(opened, name, width, dark) -> None:
    page = opened(name, width=width, dark=dark).page
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    found = Axe().run(page).response["violations"]
    serious = [
        (one["id"], node["target"], node.get("failureSummary"))
        for one in found
        if one["impact"] in ("serious", "critical", "moderate")
        for node in one["nodes"][:3]
    ]
    assert serious == []


def test_pointing_at_a_seed_tells_its_value_its_seed_and_its_run(opened) -> None:
    page = opened("committed").page
    figure = page.locator("#table1 figure[data-figure='figure2']")
    figure.scroll_into_view_if_needed()
    told = page.locator("#vg-tooltip-element.visible")
    texts = []
    points = figure.locator("svg g.mark-symbol path")
    for number in range(points.count()):
        points.nth(number).hover(force=True)
        if told.count():
            texts.append(told.inner_text())
    seeds = [text for text in texts if "seed" in text and "run" in text]
    assert len(seeds) >= 20
    assert any(
        "UniMatrix-Core" in text and "5.1" in text and "table1.unimatrix-core-seed" in text for text in seeds
    )
    assert any("95 % interval" in text and "mean" in text for text in texts)
    assert any("paper" in text and "5.124" in text for text in texts)


def test_an_enlarged_figure_tells_its_values_above_itself(opened) -> None:
    """A dialog lies above all that is not in it."""
    page = opened("committed").page
    page.locator("#table1 figure[data-figure='figure2'] .enlarge").click()
    dialog = page.locator("dialog[open]")
    dialog.locator("svg").first.wait_for()
    points = dialog.locator("svg g.mark-symbol path")
    told = dialog.locator("#large-tooltip.visible")
    for number in range(points.count()):
        points.nth(number).hover(force=True)
        if told.count():
            break
    assert "UniMatrix" in told.inner_text() or "Transformer" in told.inner_text()
    seen = told.evaluate(
        """one => {
            const {left, top, width, height} = one.getBoundingClientRect();
            one.style.pointerEvents = "auto";
            return one.contains(document.elementFromPoint(left + width / 2, top + height / 2));
        }"""
    )
    assert seen


def test_claims_are_filtered_by_verdict(opened) -> None:
    one = opened("committed")
    everything = one.visible(".study .claim")
    tables = one.visible(".study table")
    shown = 0
    for outcome in ("reproduced", "not-reproduced", "undecided"):
        one.page.locator(f"input[name=outcome][value='{outcome}']").check()
        claims = one.visible(".study .claim")
        assert claims == one.visible(f".study .claim[data-outcome='{outcome}']") > 0
        assert one.visible(".study table") == 0
        ours = one.visible("#claims .claim")
        studies = one.page.locator(".study:not(#claims)").locator("visible=true").count()
        assert one.page.locator("#found").inner_text() == (
            f"{ours} of the paper's claims; {claims - ours} verdicts in {studies} studies"
        )
        shown += claims
    one.page.locator("input[name=outcome][value='']").check()
    assert one.visible(".study .claim") == everything
    assert one.visible(".study table") == tables
    others = one.page.locator(".study .claim[data-outcome='open-in-the-paper']").count()
    assert shown + others == everything


def test_the_score_leads_to_the_claims_behind_it(opened) -> None:
    one = opened("committed")
    button = one.page.locator(".score button[data-outcome='not-reproduced']")
    count = int(button.locator("strong").inner_text())
    button.click()
    assert one.page.locator("input[name=outcome][value='not-reproduced']").is_checked()
    assert one.visible("#claims .claim") == count
    assert one.page.locator("#found").inner_text().startswith(f"{count} of the paper's claims; ")


def test_search_finds_rows_claims_and_figures(opened) -> None:
    one = opened("committed")
    one.page.locator("#search").fill("tau = 8")
    assert 0 < one.visible(".study") < len(ALL)
    rows = one.page.locator("tr.item:visible th.name").all_inner_texts()
    assert rows
    assert all("tau = 8" in row for row in rows)
    assert "rows, verdicts and figures" in one.page.locator("#found").inner_text()
    one.page.locator("#search").fill("no such thing")
    assert one.visible(".study") == 0
    assert one.page.locator("#found").inner_text().startswith("0 of the paper's claims; 0 ")
    # what stands in a drawing is not looked through: it is drawn late, or never
    word = "a word that is drawn"
    one.page.locator("figure .drawing").first.evaluate("(place, word) => { place.append(word); }", word)
    one.page.locator("#search").fill(word)
    assert one.visible(".study") == 0
    one.page.locator("#search").fill("")
    one.drawn()
    assert one.visible(".study") == one.page.locator(".study").count()


def test_rows_that_are_found_keep_the_heading_that_tells_them_apart(opened) -> None:
    one = opened("committed")
    heading = one.page.locator("#section5\\.5-throughput tr.group").first.inner_text()
    for query in ("unimatrix-core", heading):
        one.page.locator("#search").fill(query)
        rows = one.page.locator("#section5\\.5-throughput tr:visible").evaluate_all(
            "rows => rows.filter((row) => row.closest('tbody')).map((row) => row.className)"
        )
        assert "group" in rows
        # none without a row of its own
        assert not [pair for pair in itertools.pairwise([*rows, "group"]) if pair == ("group", "group")]


def test_an_address_that_is_none_leaves_the_page_whole(opened) -> None:
    one = opened("committed")
    one.page.goto(one.page.url.split("#")[0] + "#50%")
    one.page.reload()
    one.drawn()
    assert one.page.locator("#table1 figure svg").count() > 0


def test_without_scripts_the_page_has_its_navigation_and_says_where_figures_are(opened, browser) -> None:
    url = opened("committed").page.url
    context = browser.new_context(java_script_enabled=False, viewport={"width": PHONE, "height": 800})
    page = context.new_page()
    page.goto(url)
    assert page.locator("#contents a").first.is_visible()
    assert not page.locator("#search").is_visible()
    said = page.locator("main noscript p")  # which a locator of texts looks past
    assert said.is_visible()
    assert "lie beside it, in figures/" in said.inner_text()
    # nor does the navigation stay in the way
    assert page.evaluate("getComputedStyle(document.querySelector('.bar')).position") == "static"
    context.close()


def ground(page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def ink_of_figure(page) -> str:
    return page.evaluate(
        "getComputedStyle(document.querySelector('#table1 figure svg .mark-text text')).fill"
    )


def test_light_and_dark_follow_the_system_and_the_switch(opened) -> None:
    light, dark = opened("committed").page, opened("committed", dark=True).page
    assert ground(light) != ground(dark)
    assert ink_of_figure(light) != ink_of_figure(dark)
    light.locator("#theme").click()
    assert (ground(light), ink_of_figure(light)) == (ground(dark), ink_of_figure(dark))
    light.reload()
    light.wait_for_function("document.body.dataset.drawn === 'all'")
    assert ground(light) == ground(dark)
    dark.emulate_media(media="print")
    assert ground(dark) == "rgb(255, 255, 255)"


def test_a_printed_page_holds_its_tables_and_figures(opened) -> None:
    page = opened("committed").page
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 720, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= 720


def test_figures_are_enlarged(opened) -> None:
    one = opened("committed", width=PHONE)
    page = one.page
    page.evaluate("location.hash = '#table5'")
    figure = page.locator("#table5 figure[data-figure='table5-inspection']")
    figure.locator("svg").first.wait_for()
    figure.locator(".enlarge").click()
    dialog = page.locator("dialog[open]")
    dialog.locator("svg").first.wait_for()
    assert dialog.locator("h2").inner_text() == "What the memory holds"
    # legible: not shrunk to the window, scrolled in its place
    assert dialog.locator(".drawing > svg, .drawing svg").first.bounding_box()["width"] > 600
    dialog.locator("#close").click()
    assert page.locator("dialog[open]").count() == 0


def test_rows_and_claims_can_be_linked(opened) -> None:
    one = opened("committed")
    link = one.page.locator("tr.item .anchor").first
    address = link.get_attribute("href")
    link.click()
    assert one.page.url.endswith(address)
    assert one.page.locator("tr:target").count() == 1
    # a link into what is filtered away shows it again
    one.page.locator("input[name=outcome][value='undecided']").check()
    one.page.evaluate("location.hash = '#table5'")
    one.page.wait_for_function("!document.body.dataset.outcome")
    assert one.visible("#table5 table") == 1


def test_on_a_phone_a_study_begins_as_its_question_and_its_answer(opened) -> None:
    one = opened("committed", width=PHONE)
    measured = one.page.locator(".study:not(.waits):not(#claims)").count()
    assert one.visible(".study .answer") == measured > 10
    assert one.visible(".study table") == one.visible(".study .claim") == one.visible(".study figure") == 0
    assert one.page.evaluate("document.documentElement.scrollHeight") < 30_000
    one.page.locator("#table3 .whole > summary").click()
    one.page.locator("#table3 figure svg").first.wait_for()
    assert one.visible(".study table") == 1
    # a link to a row and a search unfold what they find
    one.page.evaluate("location.hash = document.querySelector('#table6 tr.item').id")
    one.page.locator("tr:target").wait_for()
    one.page.locator("#menu").click()
    one.page.locator("#search").fill("tau = 8")
    assert one.visible("tr.item") > 0
    one.page.locator("#search").fill("")
    assert one.visible("tr.item") == 0
    # so does what all studies share
    assert one.visible("#method p") == 0
    one.page.evaluate("location.hash = 'rule'")
    one.page.wait_for_function("document.querySelector('#method details').open")
    assert one.visible("#rule") == 1


def test_small_intervals_are_drawn_in_cells(opened) -> None:
    page = opened("committed").page
    cells = page.locator("#table1 [data-at]")
    assert cells.count() == page.locator("#table1 [data-at] svg").count() >= 8
    assert page.locator("#table1 .spark .seed").count() >= 40
    drawn = page.locator("#table1 .spark .interval").first.bounding_box()
    cell = cells.first.locator("svg").bounding_box()
    assert cell["x"] < drawn["x"] < drawn["x"] + drawn["width"] < cell["x"] + cell["width"]


def test_on_a_phone_the_way_back_is_always_there(opened) -> None:
    one = opened("committed", width=PHONE)
    one.page.locator("#table6").scroll_into_view_if_needed()
    assert one.page.locator("#contents").is_hidden()
    one.page.locator("#menu").click()
    one.page.locator("nav a[href='#table3']").click()
    assert one.page.locator("#contents").is_hidden()
    top = one.page.evaluate("document.getElementById('table3').getBoundingClientRect().top")
    assert 0 <= top < 200
    one.page.locator(".bar .top").click()
    one.page.wait_for_function("scrollY === 0")


def test_the_page_fills_a_window_that_changes(opened) -> None:
    one = opened("committed")
    drawing = one.page.locator("#table1 figure[data-figure='figure2'] .drawing svg")
    wide = drawing.bounding_box()["width"]
    one.page.set_viewport_size({"width": PHONE, "height": 800})
    one.page.wait_for_function(
        "document.querySelector(\"#table1 figure[data-figure='figure2'] svg\").clientWidth < 400"
    )
    one.page.wait_for_timeout(500)
    one.drawn()
    assert drawing.bounding_box()["width"] < wide
    assert one.page.evaluate("document.documentElement.scrollWidth") <= PHONE


def test_hostile_words_stay_words(opened) -> None:
    page = opened("hostile").page
    assert page.title() != "taken"
    assert page.locator("main img, main b").count() == 0
    assert "onerror" in page.locator("#table1 h2").inner_text()
