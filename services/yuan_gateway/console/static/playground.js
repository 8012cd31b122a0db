// The playground: a chat that is streamed, each token with how likely it was. And the serving load, asked for again
// and again.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const { Chart, make, one, say } = window.yuanConsole;
  const proof = one("meta[name=console-proof]").content;

  const form = one("#play");
  if (form) play(form);
  const load = one("#load");
  if (load) watch(load);

  function play(form) {
    const words = JSON.parse(form.dataset.words);
    const talk = one("#talk");
    const send = one("#send");
    const stop = one("#stop");
    const speed = one("#speed");
    const turns = [];
    let running;

    for (const range of form.querySelectorAll("input[type=range]")) {
      const show = () => { one("output", range.parentElement).textContent = range.value; };
      range.addEventListener("input", show);
      show();
    }
    one("#clear").addEventListener("click", () => { if (running) running.abort(); turns.length = 0; talk.replaceChildren(); speed.textContent = ""; form.message.focus(); });
    stop.addEventListener("click", () => { if (running) running.abort(); });
    form.message.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
    });
    form.addEventListener("submit", (event) => { event.preventDefault(); if (!running) ask(); });

    // --- how likely each token was
    const hint = make("div");
    hint.id = "hint";
    hint.hidden = true;
    document.body.append(hint);
    function explain(token) {
      hint.replaceChildren();
      const table = make("table");
      for (const { token: text, logprob } of token.top) {
        const row = make("tr");
        row.append(make("td", JSON.stringify(text)), make("td", `${(100 * Math.exp(logprob)).toFixed(1)}%`));
        table.append(row);
      }
      hint.append(make("div", `${JSON.stringify(token.text)} · ${words.likely} ${(100 * Math.exp(token.logprob)).toFixed(1)}%`), table);
      hint.hidden = false;
      const box = token.element.getBoundingClientRect();
      hint.style.left = `${Math.max(8, Math.min(box.left, innerWidth - hint.offsetWidth - 8))}px`;
      const below = box.bottom + 6;
      hint.style.top = `${below + hint.offsetHeight < innerHeight ? below : Math.max(8, box.top - hint.offsetHeight - 6)}px`;
    }
    const tokens = new WeakMap();
    const of = (event) => event.target instanceof Element && tokens.get(event.target);
    talk.addEventListener("mouseover", (event) => { const token = of(event); if (token) explain(token); });
    talk.addEventListener("mouseout", () => { hint.hidden = true; });
    talk.addEventListener("focusin", (event) => { const token = of(event); if (token) explain(token); });
    talk.addEventListener("focusout", () => { hint.hidden = true; });
    // One token of an answer is in the order of the Tab key; arrows lead from one to the next.
    talk.addEventListener("keydown", (event) => {
      const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
      const next = step && tokens.has(event.target) && event.target[step];
      if (next) { event.preventDefault(); event.target.tabIndex = -1; next.tabIndex = 0; next.focus(); }
    });
    const tone = (logprob) => { const p = Math.exp(logprob); return p < 0.1 ? "p0" : p < 0.4 ? "p1" : p < 0.8 ? "p2" : "p3"; };
    function colours() { for (const token of talk.querySelectorAll(".tok")) token.classList.toggle(token.dataset.tone, form.colour.checked); }
    form.colour.addEventListener("change", colours);

    async function ask() {
      const message = form.message.value;
      turns.push({ role: "user", content: message });
      talk.append(make("div", message, "turn user"));
      const answer = make("div", "", "turn model");
      talk.append(answer);
      talk.scrollTop = talk.scrollHeight;
      form.message.value = "";
      running = new AbortController();
      send.disabled = true;
      stop.hidden = false;
      const number = (name) => Number(form[name].value);
      const body = {
        model: form.model.value, messages: turns, stream: true, logprobs: true, top_logprobs: 5,
        temperature: number("temperature"), top_p: number("top_p"), top_k: number("top_k"),
        repetition_penalty: number("repetition_penalty"), max_tokens: number("max_tokens"),
      };
      if (form.seed.value !== "") body.seed = number("seed");
      let text = "";
      let count = 0;
      let pending = [];
      let stopped = false;
      const begun = performance.now();
      const decoder = new TextDecoder();
      function token(entry) {
        pending.push(...(entry.bytes || []));
        // A character may be in several tokens: they are shown as one.
        let piece;
        try { piece = new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(pending)); } catch { if (pending.length < 8) return; piece = "\uFFFD"; }
        pending = [];
        const element = make("span", piece, "tok");
        element.dataset.tone = tone(entry.logprob);
        if (form.colour.checked) element.classList.add(element.dataset.tone);
        element.tabIndex = answer.children.length ? -1 : 0;
        tokens.set(element, { element, text: piece, logprob: entry.logprob, top: entry.top_logprobs });
        answer.append(element);
      }
      try {
        const reply = await fetch(form.dataset.url, {
          method: "POST", signal: running.signal, body: JSON.stringify(body),
          headers: { "content-type": "application/json", accept: "text/event-stream, application/json", "x-console-proof": proof },
        });
        if (reply.redirected) { location.reload(); return; }
        if (!reply.ok) throw new Error(await told(reply));
        const reader = reply.body.getReader();
        let rest = "";
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          rest += decoder.decode(value, { stream: true });
          const events = rest.split("\n\n");
          rest = events.pop();
          // Who has scrolled back to read stays there.
          const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;
          for (const event of events) {
            const data = event.replace(/^data: /, "");
            if (data === "[DONE]") continue;
            const chunk = JSON.parse(data);
            if (chunk.error) throw new Error(chunk.error.message);
            for (const choice of chunk.choices) {
              text += choice.delta.content || "";
              for (const entry of (choice.logprobs && choice.logprobs.content) || []) { count += 1; token(entry); }
            }
            if (atEnd) talk.scrollTop = talk.scrollHeight;
            speed.textContent = words.speed.replace("{n}", count).replace("{rate}", (count / Math.max(0.001, (performance.now() - begun) / 1000)).toFixed(1));
          }
        }
      } catch (error) {
        if (error.name === "AbortError") stopped = true;
        else { answer.append(make("p", error.message, "problem")); }
      } finally {
        running = undefined;
        send.disabled = false;
        stop.hidden = true;
        if (stopped) speed.textContent = `${words.stopped} · ${speed.textContent}`;
        if (text) turns.push({ role: "assistant", content: text });
        else turns.pop();
        form.message.focus();
      }
    }
  }

  async function told(reply) {
    try { const body = await reply.json(); return body.error ? body.error.message : reply.statusText; } catch { return `${reply.status} ${reply.statusText}`; }
  }

  // --- load -------------------------------------------------------------------------------------------------------
  function watch(section) {
    const words = JSON.parse(section.dataset.words);
    const host = one("#charts");
    const gauges = one("#gauges");
    const problem = one("#load-problem");
    const charts = new Map();
    const before = new Map();
    const KEPT = 300;

    const chart = (name, title) => {
      if (!charts.has(name)) charts.set(name, new Chart(host, title, words));
      return charts.get(name);
    };
    async function look() {
      if (document.hidden) return;
      let found;
      try {
        const reply = await fetch(section.dataset.url, { headers: { accept: "application/json" } });
        if (reply.redirected || !reply.ok) { location.reload(); return; }
        found = await reply.json();
      } catch { say(document.body.dataset.lost); return; }
      problem.hidden = !found.problem;
      problem.textContent = found.problem;
      one("#no-load").hidden = Boolean(found.problem || found.models.length);
      const now = Date.now() / 1000;
      gauges.replaceChildren(...found.models.map((model) => {
        const card = make("section", undefined, "card");
        card.append(make("h3", model.model));
        const facts = make("dl", undefined, "facts");
        for (const [name, value] of [
          ["running", `${model.running} ${words.of} ${model.max_batch}`], ["waiting", `${model.waiting} ${words.of} ${model.max_waiting}`],
          ["kv", `${(100 * model.kv).toFixed(1)}%`], ["blocks", `${model.used_blocks} ${words.of} ${model.total_blocks}`],
          ["generated", model.generated.toLocaleString()], ["read", model.read.toLocaleString()],
        ]) {
          const fact = make("div");
          fact.append(make("dt", words[name]), make("dd", value));
          facts.append(fact);
        }
        card.append(facts);
        return card;
      }));
      found.models.forEach((model, index) => {
        const many = found.models.length > 1 ? `${model.model} · ` : "";
        const tone = (2 * index) % 6;
        chart("requests", words.requests).add(`${model.model} running`, many + words.running, tone, false, now, model.running);
        chart("requests", words.requests).add(`${model.model} waiting`, many + words.waiting, tone + 1, true, now, model.waiting);
        chart("kv", `${words.kv}, %`).add(model.model, many + words.kv, tone, false, now, 100 * model.kv);
        const last = before.get(model.model);
        before.set(model.model, { now, generated: model.generated, read: model.read });
        if (last && now > last.now && model.generated >= last.generated) {
          const rate = (name) => (model[name] - last[name]) / (now - last.now);
          chart("tokens", words.tokens).add(`${model.model} generated`, many + words.generated, tone, false, now, rate("generated"));
          chart("tokens", words.tokens).add(`${model.model} read`, many + words.read, tone + 1, true, now, Math.max(0, rate("read")));
        }
      });
      for (const each of charts.values()) {
        for (const { points } of each.series.values()) while (points.size > KEPT) points.delete(points.keys().next().value);
        each.draw();
      }
    }
    look();
    setInterval(look, 2000);
  }
});
