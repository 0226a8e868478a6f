"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { methods, regions, metrics, cases } = data;
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  let metric = 0; // its place among the metrics
  let column = null; // {method, region, down}: what a header sorts by, instead of the chosen order

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element && name !== "list") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  function number(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    const counted = ["lesions", "components"].includes(metrics[metric].unit) && Number.isInteger(value);
    return value.toFixed(counted ? 0 : size < 10 ? 3 : size < 1000 ? 1 : 0).replace(/^-/, "−");
  }
  const p = (value) => (value === null ? "–" : value < 0.001 ? "< 0.001" : value.toFixed(3));
  const dot = (index) => make("span", { className: "dot", style: `background:var(--m${index % 8})` });
  /** A method's dot and name, which may be broken where its parts end, so that a narrow table need not be wide. */
  function named(index) {
    const [first, ...others] = methods[index].match(/[^_-]*[_-]?/g).filter(Boolean);
    return [make("span", { className: "start" }, dot(index), first), ...others.flatMap((part) => [make("wbr"), part])];
  }
  const swatch = (region) => make("span", { className: "swatch", style: `background:${region.colour}` });
  const valueOf = (one, method, region) => {
    const values = one.methods[method].values[region];
    return values === null ? null : values[metric];
  };
  /** How bad a value is: larger is worse; a value that is not defined is the worst. */
  function badness(value) {
    if (value === null) return Infinity;
    const better = metrics[metric].better;
    return better === "higher" ? -value : better === "lower" ? value : Math.abs(value);
  }

  // ---- summary and plots ---------------------------------------------------------------------------------------

  function showSummary() {
    const described = metrics[metric];
    const wished = { higher: "Higher is better.", lower: "Lower is better.", zero: "Nearer to zero is better." };
    $("meaning").textContent = `${described.meaning}${described.unit ? ` In ${described.unit}.` : ""} ${wished[described.better]}`;
    const heads = ["Method", "Region", "Cases", "Mean", "95 % CI", "SD", "Median", "Quartiles", "Range", "Worst case"];
    const body = make("tbody");
    data.summary.filter((row) => row.metric === described.key).forEach((row) => {
      const index = methods.indexOf(row.method);
      const ends = (low, high) => (low === null ? "–" : `${number(low)} to ${number(high)}`);
      const worst = cases.findIndex((one) => one.id === row.worst[0]);
      const link = worst < 0 ? "–" : make("a", { href: `#case-${worst}` }, cases[worst].id);
      const count = row.undefined ? `${row.count} (+ ${row.undefined} not defined)` : `${row.count}`;
      body.append(make("tr", {}, make("th", { scope: "row" }, ...named(index)), words(row.region), cell(count),
        cell(number(row.mean)), cell(ends(row.ci_low, row.ci_high)), cell(number(row.sd)), cell(number(row.median)),
        cell(ends(row.quartile_1, row.quartile_3)), cell(ends(row.minimum, row.maximum)), cell(link)));
    });
    $("summary").replaceChildren(headRow(heads), body);
    showComparisons(described);
    showPlots(described);
  }

  const cell = (content) => make("td", {}, content);
  const words = (content) => make("td", { className: "words-cell" }, content);
  const headRow = (names) => make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col", className: name === "Region" ? "words-cell" : "" }, name))));

  function showComparisons(described) {
    const rows = data.comparisons.filter((row) => row.metric === described.key);
    if (!rows.length) return $("compared").replaceChildren();
    const heads = ["Compared", "Region", "Patients", "First better", "Second better", "Median difference", "p (Wilcoxon)", "p (Holm)", "Effect size"];
    const body = make("tbody");
    rows.forEach((row) => body.append(make("tr", {},
      make("th", { scope: "row" }, ...named(methods.indexOf(row.first)), " − ", ...named(methods.indexOf(row.second))),
      words(row.region), cell(`${row.count}`), cell(`${row.better_first}`), cell(`${row.better_second}`),
      cell(number(row.median_difference)), cell(p(row.p_value)), cell(p(row.p_holm)),
      cell(row.effect_size === null ? "–" : row.effect_size.toFixed(2).replace("-", "−")))));
    const table = make("table", { className: "numbers" }, headRow(heads), body);
    $("compared").replaceChildren(make("h3", {}, "Paired comparison"),
      make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Paired comparison" }, table));
  }

  function showPlots(described) {
    document.querySelectorAll(".plots").forEach((place) => {
      const kind = place.dataset.chart;
      if (kind === "volumes" && place.childElementCount) return;
      const wanted = [...document.querySelectorAll(`script[data-chart="${kind}"]`)]
        .filter((plot) => !plot.dataset.metric || plot.dataset.metric === described.key);
      place.replaceChildren(...wanted.map((plot) => {
        const which = plot.dataset.which ? make("span", { className: "quiet" }, ` · ${plot.dataset.which}`) : null;
        const figure = make("figure", {}, make("figcaption", {}, plot.dataset.region, which));
        figure.insertAdjacentHTML("beforeend", plot.textContent);
        return figure;
      }));
      if (!wanted.length && kind !== "differences") place.append(make("p", { className: "quiet" }, "No case has a value."));
      const frame = place.closest("[data-needs]");
      if (frame) frame.classList.toggle("hidden", !wanted.length);
    });
  }

  // ---- cases ---------------------------------------------------------------------------------------------------

  const table = $("table");
  const rows = cases.map(buildCase);
  const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (entry.isIntersecting) fill(entry.target);
    else if (entry.target.childElementCount) empty(entry.target);
  }), { rootMargin: "900px 0px" });

  function buildCase(one, place) {
    const button = make("button", { type: "button", className: "case-button", "aria-expanded": "false" }, one.id);
    const name = make("th", { scope: "row" }, button);
    if (one.patient) name.append(make("span", { className: "quiet" }, ` ${one.patient}`));
    if (one.notes.length) name.append(make("span", { className: "chip", title: one.notes.join(" ") }, "note"));
    const line = make("tr", { className: "case" }, name);
    const body = make("tbody", { id: `case-${place}` }, line);
    button.addEventListener("click", () => open(place, !rows[place].open));
    return { one, place, body, line, button, open: false, detail: null };
  }

  function open(place, wanted) {
    const row = rows[place];
    if (row.open === wanted) return;
    row.open = wanted;
    row.button.setAttribute("aria-expanded", String(wanted));
    if (wanted) {
      const content = make("div", { className: "detail-body waiting" });
      content.dataset.place = place;
      row.detail = make("tr", { className: "detail" }, make("td", { colSpan: 2 + methods.length * regions.length }, content));
      row.body.append(row.detail);
      seen.observe(content);
    } else {
      seen.unobserve(row.detail.querySelector(".detail-body"));
      row.detail.remove();
      row.detail = null;
    }
  }

  function fill(content) {
    if (content.childElementCount) return;
    const place = Number(content.dataset.place);
    const { one } = rows[place];
    const said = [...one.notes, ...one.methods.flatMap((found, index) =>
      [found.problem, ...found.notes].filter(Boolean).map((text) => (methods.length > 1 ? `${methods[index]}: ${text}` : text)))];
    content.append(...said.map((text) => make("p", { className: "quiet" }, text)));
    const source = $(`picture-${place}`);
    if (source) content.append(...picture(JSON.parse(source.textContent)));
    else if (one.methods.some((found) => found.status === "evaluated")) content.append(make("p", { className: "quiet" }, "Evaluated without a picture."));
    if (one.ml) content.append(everyNumber(one));
    content.classList.remove("waiting");
    content.style.minHeight = "";
  }

  /** What is far from the window goes, and leaves a gap of its height. */
  function empty(content) {
    if (content.querySelector("details[open]")) return;
    content.style.minHeight = `${content.offsetHeight}px`;
    content.replaceChildren();
  }

  function everyNumber(one) {
    const details = make("details", {}, make("summary", {}, "All numbers of this case"));
    details.addEventListener("toggle", () => {
      if (details.childElementCount > 1) return;
      const columns = methods.flatMap((_, m) => regions.map((_region, r) => [m, r]));
      const body = make("tbody");
      const kept = metric;
      const line = (title, read) => body.append(make("tr", {}, make("th", { scope: "row" }, title), ...columns.map(([m, r]) => cell(read(m, r)))));
      line("Reference volume [ml]", (_m, r) => number(one.ml[r]));
      line("Predicted volume [ml]", (m, r) => number(one.methods[m].ml[r]));
      metrics.forEach((described, index) => {
        metric = index; // `number` and `valueOf` follow it
        line(described.unit ? `${described.title} [${described.unit}]` : described.title, (m, r) => number(valueOf(one, m, r)));
      });
      metric = kept;
      const heads = columns.map(([m, r]) => (methods.length > 1 ? `${methods[m]} · ${regions[r].name}` : regions[r].name));
      details.append(make("div", { className: "scroll", tabIndex: 0 }, make("table", { className: "numbers" }, headRow(["", ...heads]), body)));
    });
    return details;
  }

  // ---- pictures ------------------------------------------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";
  function draw(tag, attributes, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function picture(drawn) {
    const names = methods.filter((name) => drawn.planes[0].predictions[name]);
    return names.flatMap((name) => {
      const planes = make("div", { className: "planes" }, ...drawn.planes.map((plane) => planeOf(plane, name)));
      const index = methods.indexOf(name);
      return methods.length > 1 ? [make("div", { className: "method-name" }, dot(index), name), planes] : [planes];
    });
  }

  function planeOf(plane, name) {
    const [width, height] = plane.size_mm;
    const transform = `scale(${width / plane.grid[0] / 2} ${height / plane.grid[1] / 2})`;
    const fills = draw("g", { class: "fill", transform, "fill-rule": "evenodd" });
    const outlines = draw("g", { class: "ref", transform });
    regions.forEach((region, index) => {
      const area = plane.predictions[name][region.name];
      const line = plane.reference[region.name];
      if (area) fills.append(draw("path", { class: `r${index}`, d: area, fill: region.colour }));
      if (line) outlines.append(draw("g", { class: `r${index}` }, draw("path", { class: "halo", d: line }), draw("path", { class: "line", d: line, stroke: region.colour })));
    });
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${plane.position}, ${name}: prediction as area, reference as outline` });
    if (plane.grey) svg.append(draw("image", { href: `data:image/webp;base64,${plane.grey}`, width, height, preserveAspectRatio: "none" }));
    svg.append(fills, outlines, ...letters(plane.letters, width, height));
    const frame = make("div", { className: "plane", tabIndex: 0, role: "button", style: `--grow:${width};--aspect:${width / height}` }, svg, make("span", { className: "where" }, plane.position));
    frame.setAttribute("aria-label", `Enlarge ${plane.position}, ${name}`);
    return frame;
  }

  function letters([left, right, up, down], width, height) {
    const size = Math.min(7, 0.07 * Math.min(width, height));
    const place = (text, x, y, anchor) => {
      const element = draw("text", { class: "letters", x, y, "text-anchor": anchor, "font-size": size });
      element.textContent = text;
      return element;
    };
    const gap = 0.3 * size;
    return [place(left, gap, height / 2, "start"), place(right, width - gap, height / 2, "end"),
      place(up, width / 2, size + gap, "middle"), place(down, width / 2, height - 1.4 * gap, "middle")];
  }

  function enlarge(frame) {
    const copy = frame.cloneNode(true);
    copy.removeAttribute("tabindex");
    copy.removeAttribute("role");
    $("large").lastElementChild.replaceChildren(copy);
    $("large").showModal();
  }

  // ---- values, order, choice -----------------------------------------------------------------------------------

  function showValues() {
    const described = metrics[metric];
    const bounded = described.lowest === 0 && described.highest === 1;
    for (const row of rows) {
      while (row.line.childElementCount > 1) row.line.lastElementChild.remove();
      row.one.methods.forEach((found, m) => {
        if (found.status !== "evaluated") {
          row.line.append(make("td", { className: "status", colSpan: regions.length, title: found.problem }, found.status));
          return;
        }
        regions.forEach((_, r) => {
          const value = valueOf(row.one, m, r);
          const shown = make("td", {}, number(value));
          if (value === null) shown.title = "not defined";
          else if (bounded) {
            shown.className = "share";
            shown.style.setProperty("--share", value);
          }
          row.line.append(shown);
        });
      });
      row.line.append(make("td", { className: "filler" }));
    }
  }

  function showHead() {
    const groups = make("tr", {}, make("th", { scope: "col", rowSpan: methods.length > 1 ? 2 : 1, "aria-sort": "none" }, sorter("Case", "id", -1)));
    const names = methods.length > 1 ? make("tr") : groups;
    methods.forEach((_name, m) => {
      if (methods.length > 1) groups.append(make("th", { scope: "colgroup", colSpan: regions.length }, ...named(m)));
      regions.forEach((region, r) => names.append(make("th", { scope: "col", "aria-sort": "none" }, sorter(region.name, m, r))));
    });
    groups.append(make("td", { className: "filler", rowSpan: methods.length > 1 ? 2 : 1 }));
    table.tHead.replaceChildren(...new Set([groups, names]));
  }

  function sorter(name, method, region) {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      const same = column && column.method === method && column.region === region;
      column = { method, region, up: same ? !column.up : true };
      table.tHead.querySelectorAll("[aria-sort]").forEach((head) => head.setAttribute("aria-sort", "none"));
      button.parentElement.setAttribute("aria-sort", column.up ? "ascending" : "descending");
      arrange();
    });
    return button;
  }

  const compareIds = (one, other) => one.one.id.localeCompare(other.one.id, undefined, { numeric: true });

  function keyOf(row) {
    if (column && column.method !== "id") {
      const value = valueOf(row.one, column.method, column.region);
      return value === null ? Infinity : column.up ? value : -value;
    }
    const found = row.one.methods.map((_, m) => regions.map((_region, r) => valueOf(row.one, m, r)));
    if ($("order").value === "apart") {
      const spread = regions.map((_, r) => found.map((values) => values[r]).filter((value) => value !== null))
        .map((values) => (values.length > 1 ? Math.max(...values) - Math.min(...values) : 0));
      return -Math.max(...spread);
    }
    if (row.one.methods.some((method) => method.status !== "evaluated")) return -Infinity;
    const bad = found.flat().map(badness);
    return bad.includes(Infinity) ? -Number.MAX_VALUE : -bad.reduce((sum, value) => sum + value, 0) / bad.length;
  }

  function arrange() {
    const byId = column ? column.method === "id" : $("order").value === "id";
    const keys = new Map(rows.map((row) => [row, byId ? 0 : keyOf(row)]));
    const ordered = [...rows].sort((one, other) => {
      const [first, second] = [keys.get(one), keys.get(other)];
      return first === second ? compareIds(one, other) : first < second ? -1 : 1;
    });
    if (byId && column && !column.up) ordered.reverse();
    const words = $("find").value.trim().toLowerCase();
    const wanted = ordered.filter((row) => chosen(row.one, words));
    table.replaceChildren(table.tHead, ...wanted.map((row) => row.body));
    $("count").textContent = `${wanted.length} of ${cases.length} cases`;
  }

  function chosen(one, words) {
    if (words && !one.id.toLowerCase().includes(words) && !one.patient.toLowerCase().includes(words)) return false;
    const which = $("which").value;
    if (which === "all") return true;
    if (which === "problems") return one.methods.some((method) => method.status !== "evaluated");
    if (which === "noted") return one.notes.length > 0 || one.methods.some((method) => method.notes.length > 0);
    if (which === "empty") return one.ml !== null && one.ml.some((value) => value === 0);
    return !one.methods.some((method) => method.status !== "evaluated") && worstShare(one) < Number(which);
  }
  const worstShare = (one) => Math.min(...one.methods.flatMap((method) => method.values.map((values) => (values === null || values[metric] === null ? 1 : values[metric]))));

  function showChoices() {
    const described = metrics[metric];
    const kept = $("which").value;
    const choices = [["all", "all cases"], ["problems", "not evaluated"], ["noted", "with notes"], ["empty", "a region empty in the reference"]];
    if (described.lowest === 0 && described.highest === 1) [0.9, 0.8, 0.7, 0.5].forEach((limit) => choices.push([String(limit), `${described.title} below ${limit} anywhere`]));
    $("which").replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
    if (choices.some(([value]) => value === kept)) $("which").value = kept;
  }

  // ---- beginning, and what users do ----------------------------------------------------------------------------

  function showMetric() {
    showSummary();
    showValues();
    showChoices();
    arrange();
  }

  $("metric").append(...metrics.map((described, index) => make("option", { value: index }, described.unit ? `${described.title} [${described.unit}]` : described.title)));
  $("order").append(make("option", { value: "worst" }, "worst first"), make("option", { value: "id" }, "case id"));
  if (methods.length > 1) $("order").append(make("option", { value: "apart" }, "methods farthest apart"));
  if (methods.length > 1) $("legend").append(...methods.map((name, index) => make("span", {}, dot(index), name)));
  regions.forEach((region, index) => {
    const box = make("input", { type: "checkbox", checked: true });
    box.dataset.layer = `r${index}`;
    $("regions").append(make("label", {}, box, " ", swatch(region), ` ${region.name}`));
  });

  $("metric").addEventListener("change", (event) => { metric = Number(event.target.value); showMetric(); });
  $("find").addEventListener("input", arrange);
  $("which").addEventListener("change", arrange);
  $("order").addEventListener("change", () => {
    column = null;
    table.tHead.querySelectorAll("[aria-sort]").forEach((head) => head.setAttribute("aria-sort", "none"));
    arrange();
  });
  $("layers").addEventListener("change", (event) => {
    const { layer } = event.target.dataset;
    if (layer) document.body.classList.toggle(`hide-${layer}`, !event.target.checked);
    else rows.forEach((row) => open(row.place, event.target.checked));
  });
  table.addEventListener("click", (event) => {
    const frame = event.target.closest(".plane");
    if (frame) enlarge(frame);
  });
  table.addEventListener("keydown", (event) => {
    if (event.target.matches(".plane") && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      enlarge(event.target);
    }
    if (!event.target.matches(".case-button") || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
    event.preventDefault();
    const body = event.target.closest("tbody");
    const next = event.key === "ArrowDown" ? body.nextElementSibling : body.previousElementSibling;
    const button = next && next.querySelector(".case-button");
    if (button) {
      button.focus({ preventScroll: true });
      next.scrollIntoView({ block: "start" });
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input[type=search], select")) return;
    event.preventDefault();
    $("find").focus();
    $("find").scrollIntoView({ block: "center" });
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#case-"]');
    if (!link) return;
    event.preventDefault(); // the browser would take the focus away
    reach(link.getAttribute("href").slice(6));
  });

  /** A case that is filtered out comes back when a link leads to it. */
  function reach(place) {
    const row = rows[Number(place)];
    if (!row.body.isConnected) {
      $("find").value = "";
      $("which").value = "all";
      arrange();
    }
    open(row.place, true);
    location.hash = `case-${row.place}`;
    row.body.scrollIntoView({ block: "start" });
    row.button.focus({ preventScroll: true });
  }

  const themes = ["system", "light", "dark"];
  $("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme || "system") + 1) % themes.length];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    $("theme").firstElementChild.textContent = next;
  });

  if (!$("picture-0") && !document.querySelector('[id^="picture-"]')) {
    $("layers").classList.add("hidden");
    $("pictures").checked = false;
  }
  showHead();
  showMetric();
  if ($("pictures").checked) rows.forEach((row) => open(row.place, true));
  if (/^#case-\d+$/.test(location.hash) && rows[location.hash.slice(6)]) reach(location.hash.slice(6));
  root.dataset.ready = String(Math.round(performance.now()));
})();
