// What the pages do in the browser beside htmx: live curves, events and logs of one stream, questions before what
// cannot be undone, and a line when the gateway is silent. No text of the stack's is ever put in as HTML.
"use strict";
(() => {
  const one = (selector, within) => (within || document).querySelector(selector);
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };

  // --- lines that pass --------------------------------------------------------------------------------------------
  let passing;
  function say(text) {
    const toast = one("#toast");
    toast.textContent = text;
    toast.hidden = false;
    clearTimeout(passing);
    passing = setTimeout(() => { toast.hidden = true; }, 5000);
  }
  document.addEventListener("htmx:sendError", () => say(document.body.dataset.lost));
  document.addEventListener("htmx:responseError", (event) => {
    const page = new DOMParser().parseFromString(event.detail.xhr.responseText || "", "text/html");
    const problem = one(".problem", page);
    say(problem ? problem.textContent : document.body.dataset.lost);
  });
  // A part that refreshes itself leaves alone what somebody is reading in it.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const by = event.detail.elt;
    const refresh = event.detail.requestConfig.triggeringEvent;
    const selected = String(window.getSelection());
    if (!refresh && selected && by.contains(window.getSelection().anchorNode)) event.preventDefault();
  });
  const opened = new Set();
  document.addEventListener("htmx:beforeSwap", (event) => {
    opened.clear();
    for (const details of event.detail.target.querySelectorAll("details")) {
      const summary = one("summary[id]", details);
      if (summary) opened.add(`${summary.id}:${details.open}`);
    }
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const entry of opened) {
      const [id, open] = entry.split(":");
      const summary = document.getElementById(id);
      if (summary && summary.parentElement.tagName === "DETAILS") summary.parentElement.open = open === "true";
    }
  });

  // --- questions --------------------------------------------------------------------------------------------------
  document.addEventListener("htmx:confirm", (event) => {
    if (!event.detail.question) return;
    event.preventDefault();
    const dialog = one("#ask");
    one("p", dialog).textContent = event.detail.question;
    dialog.returnValue = "no";
    dialog.onclose = () => { if (dialog.returnValue === "yes") event.detail.issueRequest(true); };
    dialog.showModal();
  });

  // --- curves -----------------------------------------------------------------------------------------------------
  const FIRST = ["loss", "learning_rate", "tokens_per_second", "memory_gib", "gradient_norm", "mfu"];
  const ABOVE = { validation_loss: "loss" };
  const HIDDEN = new Set(["seconds_left"]);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
    return value.toLocaleString(document.documentElement.lang, { maximumSignificantDigits: 5 });
  };
  const axis = (value) => {
    const size = Math.abs(value);
    if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
    if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
    if (size && size < 1e-3) return value.toExponential(0);
    return String(+value.toPrecision(4));
  };

  const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString(document.documentElement.lang, { hourCycle: "h23" });
  const MOST_RECENT = 60;

  class Chart {
    constructor(host, title, words) {
      this.series = new Map();
      this.words = words;
      this.log = false;
      this.box = make("section", undefined, "chart");
      const head = make("h3", title);
      const button = make("button", words.log || "log");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        this.log = !this.log;
        button.setAttribute("aria-pressed", String(this.log));
        this.rebuild();
      });
      if (words.log) head.append(button);
      this.place = make("div");
      this.box.append(head, this.place);
      host.append(this.box);
      new ResizeObserver(() => this.fit()).observe(this.box);
    }
    add(key, label, tone, dashed, at, value) {
      if (!this.series.has(key)) {
        this.series.set(key, { label, tone, dashed, points: new Map() });
        this.stale = true;
      }
      this.series.get(key).points.set(at, value);
      this.changed = true;
    }
    data() {
      const steps = new Set();
      for (const { points } of this.series.values()) for (const at of points.keys()) steps.add(at);
      const at = [...steps].sort((a, b) => a - b);
      return [at, ...[...this.series.values()].map(({ points }) => at.map((x) => {
        const value = points.get(x);
        return value === undefined || (this.log && value <= 0) ? (value === undefined ? undefined : null) : value;
      }))];
    }
    width() { return Math.max(200, this.box.clientWidth - 30); }
    rebuild() {
      if (this.plot) this.plot.destroy();
      const lines = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      const one = [...this.series.values()].every(({ points }) => points.size < 2);
      this.plot = new uPlot({
        width: this.width(), height: 210, padding: [10, 12, 0, 0],
        scales: this.words.time
          ? { x: { time: true, range: (_, least, most) => [Math.min(least, most - MOST_RECENT), most] }, y: { range: (_, least, most) => [0, Math.max(1, 1.1 * most)] } }
          : { x: { time: false }, y: this.log ? { distr: 3 } : {} },
        axes: [{ ...lines, size: 28, space: this.words.time ? 80 : 50, values: this.words.time ? (_, values) => values.map(clock) : undefined }, { ...lines, size: 54, values: (_, values) => values.map((v) => v === null ? "" : axis(v)) }],
        cursor: { y: false },
        legend: { live: true },
        series: [
          this.words.time ? { label: this.words.time, value: (_, v) => v === null ? "–" : clock(v) } : { label: this.words.step, value: (_, v) => v === null ? "–" : String(v) },
          ...[...this.series.values()].map(({ label, tone, dashed }) => ({
            label, stroke: colour(`--s${tone}`), width: 1.8, spanGaps: true, dash: dashed ? [5, 4] : undefined,
            points: { show: dashed || one, size: 5, fill: colour(`--s${tone}`) }, value: (_, v) => short(v),
          })),
        ],
      }, this.data(), this.place);
      this.stale = this.changed = false;
    }
    draw() {
      if (this.stale || !this.plot) this.rebuild();
      else if (this.changed) { this.plot.setData(this.data()); this.changed = false; }
    }
    fit() { if (this.plot && this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: 210 }); }
  }

  const charts = new Map();
  const repaint = () => { for (const chart of charts.values()) if (chart.plot) chart.rebuild(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  // --- the stream of a page ---------------------------------------------------------------------------------------
  const MOST_LINES = 5000;
  const MOST_EVENTS = 200;
  function live(section) {
    const jobs = section.dataset.jobs.split(" ");
    const words = JSON.parse(section.dataset.words);
    const host = one("#charts", section);
    const log = one("#log", section);
    const events = one("#events", section);
    const search = one("#log-search", section);
    const hide = (id) => { const element = one(id, section); if (element) element.hidden = true; };
    let source;
    let over = false;

    const matches = (line) => !search.value || line.textContent.toLowerCase().includes(search.value.toLowerCase());
    if (search) search.addEventListener("input", () => { for (const line of log.children) line.hidden = !matches(line); });

    function reset() {
      for (const chart of charts.values()) { if (chart.plot) chart.plot.destroy(); chart.box.remove(); }
      charts.clear();
      if (log) log.replaceChildren();
      if (events) events.replaceChildren();
    }
    function measured(item) {
      hide("#no-curves");
      for (const [name, value] of Object.entries(item.values)) {
        if (HIDDEN.has(name)) continue;
        const panel = ABOVE[name] || name;
        const key = item.step ? `${item.step}: ${panel}` : panel;
        if (!charts.has(key)) charts.set(key, new Chart(host, `${item.step ? `${item.step} · ` : ""}${words[panel] || panel}`, words));
        const number = jobs.indexOf(item.job);
        const label = jobs.length > 1 ? (panel === name ? item.job : `${item.job} · ${words[name] || name}`) : words[name] || name;
        charts.get(key).add(`${item.job} ${name}`, label, jobs.length > 1 ? number : (panel === name ? 0 : 1), panel !== name, item.at, value);
      }
    }
    function ordered() {
      const rank = (key) => { const index = FIRST.indexOf(key.split(": ").pop()); return index < 0 ? FIRST.length : index; };
      const keys = [...charts.keys()].sort((a, b) => rank(a) - rank(b));
      keys.forEach((key, index) => {
        const box = charts.get(key).box;
        if (host.children[index] !== box) host.insertBefore(box, host.children[index] || null);
      });
    }
    function happened(text, level) {
      hide("#no-events");
      events.prepend(make("li", text, level));
      while (events.children.length > MOST_EVENTS) events.lastElementChild.remove();
    }
    function printed(items) {
      hide("#no-log");
      const lines = document.createDocumentFragment();
      for (const item of items) {
        const line = make("div");
        if (item.kind === "skipped") { line.className = "skipped"; line.textContent = words.skipped.replace("{n}", item.lines); }
        else {
          line.append(make("span", `${item.source}${item.attempt ? ` #${item.attempt}` : ""} `, "from"), item.text);
        }
        line.hidden = !matches(line);
        lines.append(line);
      }
      log.append(lines);
      while (log.children.length > MOST_LINES) log.firstElementChild.remove();
      if (one("#log-follow", section).checked) log.scrollTop = log.scrollHeight;
    }
    function take(items) {
      const before = charts.size;
      for (const item of items) {
        const step = item.step ? `${item.step}: ` : "";
        if (item.kind === "metrics" && host) measured(item);
        else if (item.kind === "problem") say(item.text);
        else if (events && item.kind === "message") happened(step + item.text, item.level);
        else if (events && item.kind === "checkpoint") happened(`${step}${words.checkpoint} ${item.at}`, "");
      }
      if (log) { const lines = items.filter((item) => item.kind === "log" || item.kind === "skipped"); if (lines.length) printed(lines); }
      if (charts.size !== before) ordered();
      for (const chart of charts.values()) chart.draw();
    }
    function open() {
      if (source || over) return;
      source = new EventSource(section.dataset.stream);
      source.addEventListener("reset", reset);
      source.addEventListener("end", () => { over = true; source.close(); });
      source.onerror = () => { if (!over) say(document.body.dataset.lost); };
      source.onmessage = (event) => take(JSON.parse(event.data));
    }
    // A browser has six connections to a server: a page that nobody sees gives its own back.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) { if (source) source.close(); source = undefined; } else open();
    });
    window.addEventListener("pagehide", () => { if (source) source.close(); });
    open();
  }

  document.addEventListener("DOMContentLoaded", () => {
    const section = one("#live");
    if (section) live(section);
    document.addEventListener("keydown", (event) => {
      const menu = one(".menu[open]");
      if (event.key === "Escape" && menu) { menu.open = false; one("summary", menu).focus(); }
    });
  });
  window.yuanConsole = { Chart, make, one, say };
})();
