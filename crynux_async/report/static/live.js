"use strict";
(() => {
  const page = document.body.dataset, main = document.getElementById("main"), status = document.getElementById("live");
  // What the server calls now, whatever the clock of this machine says.
  let ahead = Date.parse(page.now) - Date.now();

  // Moments as people say them; the exact ones stay as titles.
  function words(seconds) {
    if (seconds < 60) return `${seconds} s`;
    const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
    if (hours < 1) return `${minutes} min ${String(seconds % 60).padStart(2, "0")} s`;
    return hours < 48 ? `${hours} h ${String(minutes % 60).padStart(2, "0")} min` : `${Math.floor(hours / 24)} d`;
  }
  const spoken = {
    in: (past) => past >= 0 ? "now" : `in ${words(-past)}`,
    since: (past) => words(Math.max(0, past)),
    ago: (past) => past < 1 ? "now" : `${past < 60 ? words(past) : words(past).replace(/ \d\d s$/, "")} ago`,
  };
  function tick() {
    const now = Date.now() + ahead;
    for (const time of document.querySelectorAll("time[class]")) {
      const at = Date.parse(time.dateTime), said = spoken[time.className](Math.round((now - at) / 1000));
      if (time.textContent !== said) time.textContent = said;
      if (!time.title) time.title = new Date(at).toLocaleString();
    }
    for (const ring of document.querySelectorAll("[data-until]")) {
      const left = Math.max(0, Date.parse(ring.dataset.until) - now) / 1000, whole = Number(ring.dataset.whole);
      ring.setAttribute("stroke-dasharray", `${(100 * (1 - Math.min(1, left / whole))).toFixed(1)} 100`);
    }
  }

  // A new page in the place of the old one: what is the same stays, with its focus and its selection.
  const keyOf = (node) => node.nodeType !== 1 ? ""
    : node.id || node.dataset.key || node.dataset.trial || node.getAttribute("aria-labelledby") || "";
  const kept = new Set(["open", "title", "aria-expanded"]);
  function morph(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
    if (old.nodeType !== 1) { if (old.data !== fresh.data) old.data = fresh.data; return; }
    if ("kept" in old.dataset || old.isEqualNode(fresh)) return;
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !kept.has(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) === value) continue;
      if (name === "datetime") old.removeAttribute("title");
      old.setAttribute(name, value);
    }
    morphChildren(old, fresh);
  }
  function morphChildren(old, fresh) {
    const named = new Map([...old.children].filter(keyOf).map((child) => [keyOf(child), child]));
    let next = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const key = keyOf(wanted);
      let have = key ? named.get(key) : next;
      if (have && (have.nodeName !== wanted.nodeName || keyOf(have) !== key)) have = null;
      named.delete(key);
      if (!have) { old.insertBefore(wanted, next); continue; }
      if (have === next) next = next.nextSibling; else old.insertBefore(have, next);
      morph(have, wanted);
    }
    while (next) { const gone = next; next = gone.nextSibling; gone.remove(); }
  }

  let held = null;
  function show(event) {
    const news = JSON.parse(event.data);
    // A newer server may have another script.
    if (news.assets !== page.assets) { location.reload(); return; }
    ahead = Date.parse(news.now) - Date.now();
    page.version = event.lastEventId;
    held = news;
    put();
  }
  function put() {
    // Whoever is at work on the page, such as with a brush on a plot, may ask for it to be left alone for now.
    if (!held || !document.dispatchEvent(new CustomEvent("page:before", { cancelable: true }))) return;
    const fresh = document.createElement("main"), focused = document.activeElement;
    fresh.innerHTML = held.main;
    document.title = held.title;
    held = null;
    morphChildren(main, fresh);
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    tick();
    document.dispatchEvent(new Event("page:after"));
  }
  document.addEventListener("page:free", put);

  // The stream, which comes back by itself; a page that nobody sees needs none.
  let source = null, again = 0;
  function say(word, mark) {
    if (status.textContent !== word) status.textContent = word;
    status.className = mark;
  }
  function listen() {
    clearTimeout(again);
    if (source || document.hidden) return;
    const address = new URL(page.stream, location.href);
    address.searchParams.set("have", page.version);
    source = new EventSource(address);
    source.addEventListener("open", () => say("live", "on"));
    source.addEventListener("page", show);
    source.addEventListener("error", () => {
      say("reconnecting", "off");
      if (source.readyState === EventSource.CLOSED) { hush(); ask(); }
    });
  }
  function hush() {
    source?.close();
    source = null;
  }
  async function ask() {
    // The stream was refused, and does not say why.
    const answer = await fetch(location.href, { method: "HEAD" }).catch(() => null);
    if (answer && (answer.status === 401 || answer.status === 403)) { say("signed out: load the page again", "off"); return; }
    if (answer && answer.status === 404) { say("not there any more", "off"); return; }
    again = setTimeout(listen, 3000);
  }
  document.addEventListener("visibilitychange", () => { if (document.hidden) hush(); else listen(); });
  addEventListener("pagehide", hush);
  addEventListener("pageshow", listen);

  tick();
  setInterval(tick, 1000);
  listen();
})();
