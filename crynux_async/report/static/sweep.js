"use strict";
(() => {
let ending = new AbortController();
let openJobs = new Set();
let isBrushed = () => false;
let dispose = () => {};
function start() {
  const signal = ending.signal;
  const data = JSON.parse(document.getElementById("data").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const rows = [...document.querySelectorAll("#trials tbody tr")];
  const rowOf = new Map(rows.map((row) => [Number(row.dataset.trial), row]));
  const charts = [];
  let brushed = null;
  isBrushed = () => brushed !== null;
  dispose = () => charts.forEach(({ chart }) => chart.dispose());

  // Table: search, filter, sort.
  const search = document.getElementById("search"), filter = document.getElementById("filter");
  const trialOf = new Map(data.trials.map((trial) => [trial.number, trial]));
  const opened = new Map();
  const textOf = (row) => `${row.textContent} ${trialOf.get(Number(row.dataset.trial)).facts.flat().join(" ")}`.toLowerCase();
  const texts = new Map(rows.map((row) => [row, textOf(row)]));
  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const number = Number(row.dataset.trial);
      const fits = words.every((word) => texts.get(row).includes(word))
        && (!filter.value || row.dataset.state === filter.value) && (!brushed || brushed.has(number));
      row.hidden = !fits;
      if (opened.has(row)) opened.get(row).hidden = !fits;
      shown += fits;
    }
    document.getElementById("count").value = `${shown} of ${rows.length}`;
  }
  function valueOf(row, column) {
    const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent.trim();
    return text === "" || text === "–" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  }
  function sortBy(column, direction) {
    const order = (a, b) => {
      const [x, y] = [valueOf(a, column), valueOf(b, column)];
      if (x === null || y === null) return (x === null) - (y === null);
      const step = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return direction * step;
    };
    const sorted = [...rows].sort(order);
    document.querySelector("#trials tbody").append(...sorted.flatMap((row) => opened.has(row) ? [row, opened.get(row)] : [row]));
  }
  const headings = [...document.querySelectorAll("#trials thead th")];
  headings.forEach((heading, column) => {
    if (heading.textContent.trim() === "strength") return;
    let button = heading.querySelector("button");
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
    }
    button.addEventListener("click", () => {
      const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      sortBy(column, direction);
    }, { signal });
    const sorted = heading.getAttribute("aria-sort");
    if (sorted) sortBy(column, sorted === "ascending" ? 1 : -1);
  });
  // A trial opens its job.
  function openJob(row) {
    const detail = document.createElement("tr"), cell = document.createElement("td"), list = document.createElement("dl");
    detail.className = "detail";
    cell.colSpan = headings.length;
    list.className = "facts";
    for (const [name, fact] of trialOf.get(Number(row.dataset.trial)).facts) {
      const term = document.createElement("dt"), description = document.createElement("dd");
      term.textContent = name;
      description.textContent = fact;
      list.append(term, description);
    }
    cell.append(list);
    detail.append(cell);
    row.after(detail);
    opened.set(row, detail);
  }
  document.querySelector("#trials tbody").addEventListener("click", (event) => {
    const button = event.target.closest("button.job");
    if (!button) return;
    const row = button.closest("tr");
    if (opened.has(row)) { opened.get(row).remove(); opened.delete(row); } else openJob(row);
    button.setAttribute("aria-expanded", String(opened.has(row)));
    openJobs = new Set([...opened.keys()].map((each) => each.dataset.trial));
  }, { signal });
  for (const row of rows) {
    if (!openJobs.has(row.dataset.trial)) continue;
    openJob(row);
    row.querySelector("button.job").setAttribute("aria-expanded", "true");
  }

  search.addEventListener("input", show, { signal });
  filter.addEventListener("change", show, { signal });
  document.querySelector(".tools").hidden = false;
  show();

  // A trial under the pointer or the focus is lit wherever it stands.
  let lit = null;
  function light(number) {
    if (number === lit) return;
    for (const element of document.querySelectorAll(".lit")) element.classList.remove("lit");
    lit = number;
    if (number === null) { charts.forEach(({ chart }) => chart.dispatchAction({ type: "downplay" })); return; }
    for (const element of document.querySelectorAll(`[data-trial="${number}"]`)) element.classList.add("lit");
    charts.forEach(({ chart, indexOf }) => {
      chart.dispatchAction({ type: "downplay" });
      const dataIndex = indexOf.get(number);
      if (dataIndex !== undefined) chart.dispatchAction({ type: "highlight", seriesIndex: 0, dataIndex });
    });
  }
  for (const kind of ["pointerover", "focusin"]) {
    document.addEventListener(kind, (event) => {
      const marked = event.target.closest?.("[data-trial]");
      if (marked) light(Number(marked.dataset.trial));
    }, { signal });
  }

  // Pictures open large.
  const dialog = document.getElementById("large");
  for (const button of document.querySelectorAll(".pictures button")) {
    button.addEventListener("click", () => {
      const small = button.querySelector("img"), large = dialog.querySelector("img");
      large.src = small.src;
      large.alt = small.alt;
      dialog.querySelector("p").textContent = small.alt;
      dialog.showModal();
    }, { signal });
  }

  // Plots.
  const models = data.trials.filter((trial) => trial.state === "done");
  const shade = (trial) => trial.verdict === "diverged" || trial.verdict === "damaged" ? colour("--warm") : colour("--accent");
  const style = () => ({ textStyle: { fontFamily: "system-ui, sans-serif", color: colour("--soft") }, animation: false });
  const result = data.objective ? ["objective", data.objective] : ["norm", "‖BA‖"];
  const measures = [["minutes", "minutes"], result].filter(([key]) => models.some((trial) => trial[key] !== null));
  const isNumber = (name) => models.every((trial) => typeof (trial.params[name] ?? 0) === "number");
  const distinct = (name) => [...new Set(valuesOf(name))];
  const inOrder = (values) => values.every((value) => typeof value === "number") ? values.sort((a, b) => a - b) : values;
  const spread = (values) => Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) >= 50;
  const valuesOf = (name) => models.map((trial) => trial.params[name]).filter((value) => value !== undefined && value !== null);
  function axisType(name) {
    // A few values stand evenly spaced: ranks of 4, 8 and 64 would crowd at one end.
    if (!isNumber(name) || distinct(name).length <= 8) return "category";
    return spread(valuesOf(name)) ? "log" : "value";
  }
  function make(id, indexOf, options) {
    const element = typeof id === "string" ? document.getElementById(id) : id;
    // Lines as elements are sharp in print; beyond a few hundred they make the page slow to open.
    const chart = echarts.init(element, null, { renderer: models.length > 200 ? "canvas" : "svg" });
    const entry = { chart, indexOf, options };
    chart.setOption(options());
    chart.on("mouseover", (event) => { if (event.data?.number ?? event.data?.trial) light(event.data.number ?? event.data.trial); });
    charts.push(entry);
    return chart;
  }
  const indexOf = new Map(models.map((trial, index) => [trial.number, index]));
  function parallel() {
    const axes = data.parameters.map((name) => ({ name, type: axisType(name), of: (trial) => trial.params[name] ?? null }))
      .concat(measures.map(([key, name]) => ({ name, type: "value", of: (trial) => trial[key] })));
    return {
      ...style(),
      parallel: { left: 50, right: 60, top: 40, bottom: 24 },
      parallelAxis: axes.map((axis, dim) => ({
        dim, name: axis.name, type: axis.type, scale: true, nameTextStyle: { color: colour("--ink"), fontWeight: 600 },
        axisLine: { lineStyle: { color: colour("--line") } }, axisTick: { show: false },
        axisLabel: { color: colour("--soft"), hideOverlap: true, textBorderColor: colour("--card"), textBorderWidth: 4 },
        areaSelectStyle: { color: colour("--accent"), opacity: .2, borderColor: colour("--accent") },
        ...(axis.type === "category" ? { data: inOrder(distinct(axis.name)).map(String) } : {}),
      })),
      series: [{
        type: "parallel", smooth: false, inactiveOpacity: .06, activeOpacity: .75,
        lineStyle: { width: 1.6, opacity: .55 }, emphasis: { lineStyle: { width: 3.5, opacity: 1 } },
        data: models.map((trial) => ({
          number: trial.number, lineStyle: { color: shade(trial) },
          value: axes.map((axis) => axis.type === "category" ? String(axis.of(trial) ?? "–") : axis.of(trial)),
        })),
      }],
    };
  }
  function when() {
    const sent = data.trials.filter((trial) => trial.sent !== null), until = data.written;
    const tint = (trial) => trial.state === "failed" || trial.state === "unconfirmed" ? colour("--warm") : colour("--accent");
    const bar = (_, api) => {
      const [left, y] = api.coord([api.value(0), api.value(2)]), [right] = api.coord([api.value(1), api.value(2)]);
      const height = Math.max(1.5, Math.min(9, api.size([0, 1])[1] * .7));
      const done = api.value(3), children = [{ type: "rect", shape: { x: left, y: y - height / 2, width: Math.max(1, right - left), height, r: height / 3 }, style: { fill: api.visual("color"), opacity: .75 } }];
      if (done > 0) children.push({ type: "circle", shape: { cx: api.coord([done, 0])[0], cy: y, r: Math.max(1.5, height / 2) }, style: { fill: colour("--good") } });
      return { type: "group", children };
    };
    return {
      ...style(),
      grid: { left: 46, right: 18, top: 8, bottom: 30 },
      xAxis: { type: "time", axisLabel: { color: colour("--soft"), hideOverlap: true }, axisLine: { lineStyle: { color: colour("--line") } }, splitLine: { show: true, lineStyle: { color: colour("--line") } } },
      yAxis: { type: "value", inverse: true, min: 0, max: data.trials.length + 1, minInterval: 1, axisLabel: { color: colour("--soft"), formatter: (value) => value > 0 && value <= data.trials.length ? value : "" }, splitLine: { show: false } },
      series: [{
        type: "custom", renderItem: bar, encode: { x: [0, 1, 3], y: 2 },
        data: sent.map((trial) => ({ number: trial.number, value: [trial.sent, trial.noticed ?? until, trial.number, trial.stored ?? NaN], itemStyle: { color: tint(trial) } })),
      }],
    };
  }
  if (document.getElementById("when")) make("when", new Map(), when);
  if (!document.getElementById("parallel")) { follow(); return; }
  const chart = make("parallel", indexOf, parallel);
  chart.on("axisareaselected", () => {
    const series = chart.getModel().getSeriesByIndex(0);
    const kept = series.getRawIndicesByActiveState("active");
    const none = series.getRawIndicesByActiveState("inactive").length === 0;
    brushed = none ? null : new Set(kept.map((index) => models[index].number));
    show();
    if (none) document.dispatchEvent(new Event("page:free"));
  });
  const measure = measures.at(-1);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  function meansByValue(points, place, order) {
    const groups = new Map();
    for (const trial of points) groups.set(place(trial), [...(groups.get(place(trial)) ?? []), trial[measure[0]]]);
    return order.filter((x) => groups.has(x)).map((x) => [x, mean(groups.get(x))]);
  }
  function meansByBin(points, place) {
    // Each mean stands for as many models: through single ones the line would only join the dots.
    const sorted = [...points].sort((a, b) => place(a) - place(b)), bins = Math.min(8, Math.max(1, Math.floor(sorted.length / 3)));
    return Array.from({ length: bins }, (_, bin) => {
      const group = sorted.slice(Math.floor(bin * sorted.length / bins), Math.floor((bin + 1) * sorted.length / bins));
      return [place(group[Math.floor(group.length / 2)]), mean(group.map((trial) => trial[measure[0]]))];
    });
  }
  document.getElementById("effects").replaceChildren();
  if (measure) {
    for (const name of data.parameters) {
      const box = document.createElement("div");
      box.className = "plot";
      box.setAttribute("role", "img");
      box.setAttribute("aria-label", `${measure[1]} by ${name}; the same figures stand in the table below`);
      document.getElementById("effects").append(box);
      const type = axisType(name);
      const points = models.filter((trial) => trial[measure[0]] !== null && trial.params[name] !== undefined);
      const order = inOrder(distinct(name)).map(String);
      const place = (trial) => type === "category" ? String(trial.params[name]) : trial.params[name];
      make(box, new Map(points.map((trial, index) => [trial.number, index])), () => {
        const means = type === "category" ? meansByValue(points, place, order) : meansByBin(points, place);
        const axis = { nameTextStyle: { color: colour("--ink"), fontWeight: 600 }, axisLabel: { color: colour("--soft"), hideOverlap: true }, splitLine: { show: false }, axisLine: { lineStyle: { color: colour("--line") } } };
        return {
          ...style(),
          grid: { left: 46, right: 14, top: 14, bottom: 44 },
          xAxis: { ...axis, type, name, nameLocation: "middle", nameGap: 26, scale: true, ...(type === "category" ? { data: order } : {}) },
          yAxis: { ...axis, type: "value", scale: true, splitLine: { lineStyle: { color: colour("--line") } } },
          series: [
            { type: "scatter", symbolSize: 7, itemStyle: { opacity: .6 }, emphasis: { itemStyle: { opacity: 1, borderColor: colour("--ink"), borderWidth: 2 } }, data: points.map((trial) => ({ number: trial.number, value: [place(trial), trial[measure[0]]], itemStyle: { color: shade(trial) } })) },
            { type: "line", symbol: "none", silent: true, lineStyle: { color: colour("--soft"), width: 1.2 }, data: means },
          ],
        };
      });
    }
  }
  follow();
  function follow() {
    for (const kind of ["resize", "beforeprint"]) addEventListener(kind, () => charts.forEach(({ chart }) => chart.resize()), { signal });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(({ chart, options }) => chart.setOption(options(), true)), { signal });
  }
}
// On a page that goes on: anew whenever it has changed, but not under the hands of whoever drags along an axis.
document.addEventListener("page:before", (event) => { if (isBrushed()) event.preventDefault(); });
document.addEventListener("page:after", () => {
  ending.abort();
  dispose();
  ending = new AbortController();
  start();
});
start();
})();
