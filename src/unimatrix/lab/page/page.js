"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const { shared, whole: { specs, datasets }, config } = JSON.parse(byId("figures").textContent);

  // what stands in several places is kept once; here it is whole again, and nobody else's: Vega writes into it
  const whole = (part) => {
    if (Array.isArray(part)) return part.map(whole);
    if (!part || typeof part !== "object") return part;
    if ("$" in part) return whole(shared[part.$]);
    return Object.fromEntries(Object.entries(part).map(([name, inner]) => [name, whole(inner)]));
  };
  // records of columns, in which null is nothing there
  const records = ({ rows, columns }) => {
    const found = Array.from({ length: rows }, () => ({}));
    for (const [name, column] of Object.entries(columns)) {
      const value = Array.isArray(column) ? (row) => column[row] : (row) => column.of[column.at?.[row] ?? 0];
      found.forEach((record, row) => { if (value(row) !== null) record[name] = value(row); });
    }
    return found;
  };

  // the small drawings in cells: thousandths of the column's scale
  const x = (place) => (4 + 0.092 * place).toFixed(1);
  for (const cell of all("[data-at]")) {
    const [interval, mean, seeds, exact, printed] = cell.dataset.at.split(";").map((at) => at.split(" ").filter(Boolean).map(x));
    cell.innerHTML = `<svg class="spark" viewBox="0 0 100 14" aria-hidden="true"><path class="scale" d="M2 7H98"/>${[
      interval.length ? `<path class="interval" d="M${interval[0]} 7H${interval[1]}"/>` : "",
      ...seeds.map((at) => `<circle class="seed" cx="${at}" cy="11.5" r="1.1"/>`),
      ...exact.map((at) => `<path class="exact" d="M${at} 3V11"/>`),
      ...mean.map((at) => `<circle class="mean" cx="${at}" cy="7" r="2.6"/>`),
      ...printed.map((at) => `<path class="printed" d="M${at} .2l2.6 2.6-2.6 2.6-2.6-2.6z"/>`),
    ].join("")}</svg>`;
  }

  // the data sets that a specification names: they stand in the page once, whoever draws them
  const named = (part, found = new Set()) => {
    if (part && typeof part === "object") {
      if (typeof part.data?.name === "string") found.add(part.data.name);
      Object.values(part).forEach((inner) => named(inner, found));
    }
    return found;
  };

  // as many names side by side in a legend as there is room for
  const legends = (part, width) => {
    if (!part || typeof part !== "object") return;
    if (part.legend?.columns && part.scale?.domain) {
      const longest = Math.max(...part.scale.domain.map((name) => name.length));
      part.legend.columns = Math.max(1, Math.min(Math.floor(width / (7 * longest + 50)), part.scale.domain.length));
    }
    Object.values(part).forEach((inner) => legends(inner, width));
  };

  // a specification for a place of that width; several views share it, or stand below each other
  const fitted = (spec, width) => {
    const fit = whole(spec);
    legends(fit, width);
    const { margin = 0, least = 0, panel = Infinity } = fit.usermeta ?? {};
    const room = Math.max(width, least) - margin;
    fit.datasets = Object.fromEntries([...named(fit)].map((name) => [name, records(whole(datasets[name]))]));
    if (fit.facet) {
      fit.columns = Math.max(1, Math.floor(room / panel));
      fit.spec.width = Math.floor(room / fit.columns) - 32;
    } else if (fit.vconcat) {
      fit.vconcat.forEach((view) => { view.width = room; });
    } else if (typeof fit.width === "number") {
      fit.width = room; // others have the size of what they hold
    }
    return fit;
  };

  // Vega, Vega-Lite and vega-embed, packed to a third; asked for before the first figure, and once
  const unpacked = async (packed) => {
    const bytes = Uint8Array.from(atob(packed), (one) => one.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  let library;
  const drawing = () => library ??= (async () => {
    const script = document.createElement("script");
    script.textContent = await unpacked(byId("library").textContent);
    document.head.append(script);
  })();

  const drawn = new WeakMap();
  const draw = async (place, name) => {
    const width = place.clientWidth;
    if (!width || drawn.get(place) === width) return;
    drawn.set(place, width);
    const options = {
      mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, config,
      // a dialog lies above all else: the words of its drawing have to be in it
      tooltip: { theme: "custom", disableDefaultStyle: true, id: place.dataset.tooltip ?? "vg-tooltip-element" },
      logLevel: 1, // errors alone: a layer may have nothing to draw, such as intervals of one seed
    };
    const inner = document.createElement("div");
    inner.setAttribute("aria-hidden", "true"); // its place says what it is of, the table has its numbers
    place.replaceChildren(inner);
    try {
      await drawing();
    } catch { // a browser from before 2023
      place.textContent = "This browser cannot draw the figures; one from 2023 or later can. Where the page was made they lie beside it.";
      return;
    }
    await vegaEmbed(inner, fitted(specs[name], width), options);
    // what scrolls can be reached by the keyboard
    if (place.scrollWidth > place.clientWidth) place.tabIndex = 0;
    else place.removeAttribute("tabindex");
  };
  const pause = () => new Promise((resolve) => setTimeout(resolve, 0));
  let running = 0;
  const drawAll = async () => {
    const run = ++running;
    delete document.body.dataset.drawn;
    for (const figure of all("figure")) {
      if (run !== running) return;
      await draw(figure.querySelector(".drawing"), figure.dataset.figure);
      await pause();
    }
    document.body.dataset.drawn = "all";
  };

  // larger, in a dialog of its own
  const large = byId("large");
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".enlarge");
    if (!button) return;
    const figure = button.closest("figure");
    byId("large-title").textContent = figure.querySelector("h3, h4").textContent;
    large.showModal();
    const place = large.querySelector(".drawing");
    drawn.delete(place);
    await draw(place, figure.dataset.figure);
  });
  byId("close").addEventListener("click", () => large.close());

  // light and dark: what was chosen here, else what the system says
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = byId("theme");
  const kept = (value) => {
    try {
      if (value) localStorage.setItem("theme", value);
      return localStorage.getItem("theme");
    } catch { return null; } // a page in a mail may keep nothing
  };
  const show = (chosen) => {
    if (chosen) document.documentElement.dataset.theme = chosen;
    const now = chosen ?? (dark.matches ? "dark" : "light");
    theme.textContent = now === "dark" ? "Light" : "Dark";
    theme.setAttribute("aria-label", now === "dark" ? "Light colours" : "Dark colours");
  };
  theme.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
    const next = now === "dark" ? "light" : "dark";
    kept(next);
    show(next);
  });
  dark.addEventListener("change", () => show(document.documentElement.dataset.theme ?? null));
  show(kept());

  // on a phone each study begins as its question and its answer; what is looked for or linked to unfolds
  const narrow = matchMedia("(max-width: 40rem)");
  const fold = (folded, of = "") => all(`${of}details.whole`).forEach((one) => { one.open = !folded; });
  narrow.addEventListener("change", () => { if (!narrow.matches) fold(false); });
  document.addEventListener("toggle", (event) => { if (event.target.matches("details.whole")) drawAll(); }, true);
  if (narrow.matches) fold(true);

  // filter and search: a study is shown where something of it is
  const search = byId("search");
  // without what is drawn: it would be found only once it was drawn
  const words = (element) => [...element.children].filter((part) => !part.matches(".drawing")).map((part) => part.textContent).join(" ").toLowerCase();
  // a row is of the last group before it: rows of two groups may have one name
  const groups = new Map();
  for (const body of all("tbody")) {
    let group = null;
    for (const row of body.rows) {
      if (row.matches(".group")) group = row;
      else if (group) groups.set(row, group);
    }
  }
  const select = () => {
    const outcome = document.querySelector("input[name=outcome]:checked").value;
    const query = search.value.trim().toLowerCase();
    if (outcome) document.body.dataset.outcome = outcome;
    else delete document.body.dataset.outcome;
    let items = 0, studies = 0, ofPaper = 0;
    for (const study of all(".study")) {
      const whole = query && words(study.querySelector("header")).includes(query);
      let here = 0;
      for (const item of all(".item", study)) {
        const group = groups.get(item);
        const said = (group ? words(group) : "") + words(item);
        const wanted = (!outcome || item.dataset.outcome === outcome) && (!query || whole || said.includes(query));
        item.hidden = !wanted;
        here += wanted ? 1 : 0;
      }
      const shown = new Set([...groups].filter(([row]) => !row.hidden).map(([, group]) => group));
      for (const group of all("tr.group", study)) group.hidden = !shown.has(group);
      const table = study.querySelector(".scroll");
      if (table) table.hidden = !all("tr.item:not([hidden])", table).length;
      for (const heading of all("h3", study)) {
        if (heading.nextElementSibling?.closest(".claims, p")) heading.hidden = !all(".claim:not([hidden])", study).length;
      }
      study.hidden = Boolean(outcome || (query && !whole)) && !here; // one that was not measured has no items
      if (study.id === "claims") { // what the studies' claims are evidence for, and no study
        ofPaper = here;
        continue;
      }
      studies += study.hidden ? 0 : 1;
      items += here;
    }
    const what = outcome ? "verdicts" : "rows, verdicts and figures";
    const inStudies = `${items} ${what} in ${studies} ${studies === 1 ? "study" : "studies"}`;
    const found = byId("claims") ? `${ofPaper} of the paper's claims; ${inStudies}` : inStudies;
    byId("found").textContent = outcome || query ? found : "";
    if (narrow.matches) fold(!outcome && !query, ".study ");
    drawAll();
  };
  search.addEventListener("input", select);
  all("input[name=outcome]").forEach((input) => input.addEventListener("change", select));
  all(".score button").forEach((button) => button.addEventListener("click", () => {
    document.querySelector(`input[name=outcome][value="${button.dataset.outcome}"]`).checked = true;
    select();
    byId("studies").scrollIntoView();
  }));

  // a link into what is filtered away or folded shows it again
  const unfold = (hash) => {
    let target = null;
    try {
      target = byId(decodeURIComponent(hash.slice(1)));
    } catch { /* "#50%" is no address of this page */ }
    if (!target) return;
    const away = target.closest("[hidden], body[data-outcome] .more");
    if (away) {
      search.value = "";
      document.querySelector("input[name=outcome][value='']").checked = true;
      select();
    }
    const folded = target.closest("section")?.querySelector("details.whole:not([open])");
    if (folded) folded.open = true;
    if (away || folded) target.scrollIntoView();
  };
  addEventListener("hashchange", () => unfold(location.hash));
  unfold(location.hash);

  // the navigation: open and closed on a phone, and where one is
  const menu = byId("menu");
  menu.addEventListener("click", () => menu.setAttribute("aria-expanded", menu.getAttribute("aria-expanded") !== "true"));
  all(".studies a").forEach((link) => link.addEventListener("click", () => {
    menu.setAttribute("aria-expanded", "false");
    unfold(link.hash); // also where one is there already
  }));
  const watched = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      all(".studies a").forEach((link) => link.toggleAttribute("aria-current", link.hash === `#${entry.target.id}`));
      all(".studies a[aria-current]").forEach((link) => link.setAttribute("aria-current", "true"));
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  all(".study, #method").forEach((section) => watched.observe(section));

  let wait = 0;
  addEventListener("resize", () => { clearTimeout(wait); wait = setTimeout(drawAll, 200); });
  addEventListener("beforeprint", () => all("details").forEach((one) => { one.open = true; }));
  drawAll();
})();
