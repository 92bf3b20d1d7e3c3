"use strict";

// What a person says goes into an outbox in the browser's storage first, and leaves it when the server has it on record:
// a closed tab, a server that ended or a lost connection only delays it. The server writes nothing twice under one id.

const name = decodeURIComponent(location.pathname.split("/")[2] || "");
const place = id => document.getElementById(id);
const AHEAD = 12, GRID = 50, FEW = 40, MANY = 20, WINDOW_MS = 180000, RETRY_MS = 300, TROUBLE_MS = 2000, AGAIN_MS = 3000;
const RESERVED = "uxbsg";
const KEYS = [..."1234567890", ..."abcdefghijklmnopqrstuvwxyz"].filter(key => !RESERVED.includes(key));

let OUTBOX = "";           // what keys of messages begin with: of this store and name
let token = "", mode = new URLSearchParams(location.search).get("mode") || "unsure";
let state = null;          // the newest answer of the server
let queue = [];            // what is still to be labelled, the next one first
let asked = false, ended = false, again = false, grid = false;
let drawn = [];            // the grid that is on the screen: {item, seen}
let visible = null;        // the item whose picture is on the screen: nothing is said of another one
let said = [];             // what this tab said, the newest last: {id, items}
let times = [];            // when, for labels a minute
const skipped = new Set(), handled = new Set(), wrong = new Set();
const pictures = new Map();  // key -> a promise of an <img> or of a reason why there is none

// A row of one audit is another item than the same row of the next one, or of none.
const keyOf = item => `${item.version}/${item.audit ?? ""}/${item.part}/${item.row}`;
const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, "0")).join("");
const wait = ms => new Promise(done => setTimeout(done, ms));
const percent = share => `${(100 * share).toFixed(1)} %`;

function element(kind, text, parent) {
  const made = document.createElement(kind);
  made.textContent = text;
  parent?.append(made);
  return made;
}

function complain(text) {
  place("problem").textContent = text;
  place("problem").hidden = !text;
}

async function answerOf(url, options) {
  // Repeats until the server answers: it may be started again just now.
  for (let tries = 0; ; tries++) {
    try {
      const answer = await fetch(url, options);
      if (tries > 3) complain("");
      return answer;
    } catch {
      if (tries === 3) complain("The server does not answer. What you said is kept in this browser, and sent when it does.");
      await wait(RETRY_MS);
    }
  }
}

async function json(url, options) {
  const answer = await answerOf(url, options);
  if (!answer.ok) throw new Error(await reasonOf(answer));
  return answer.json();
}

async function reasonOf(answer) {
  // Of the page's server, or of what stands before it: a guard, or a proxy with pages of its own.
  const text = await answer.text().catch(() => ""), kind = answer.headers.get("content-type") || "";
  if (kind.startsWith("text/plain") && text) return text.trim();
  try {
    const { detail } = JSON.parse(text);
    return typeof detail === "string" ? detail : JSON.stringify(detail);
  } catch {
    return `the answer is ${answer.status} ${answer.statusText}`.trim();
  }
}

const askForSession = () => json("/api/session", { method: "POST" });

// --- the outbox

// Each message has a key of its own, so that tabs can't write over each other's. A tab sends its own, and those that were
// there when it was opened: they may be another tab's, which sends them, too, and both are one word to the server.
const inOutbox = () => Object.keys(localStorage).filter(key => key.startsWith(OUTBOX)).sort();
const toSend = new Set();
const outbox = () => inOutbox().filter(key => toSend.has(key));
let sent = 0;

function send(kind, body) {
  const key = `${OUTBOX}${String(Date.now()).padStart(15, "0")}-${String(sent++).padStart(6, "0")}-${body.id}`;
  toSend.add(key);
  localStorage.setItem(key, JSON.stringify({ kind, body }));
  flush();
}

let flushing = false;
async function flush() {
  if (flushing) return;
  flushing = true;
  let troubled = false;
  try {
    for (let key = outbox()[0]; key; key = outbox()[0]) {
      const first = JSON.parse(localStorage.getItem(key));
      const headers = { "Content-Type": "application/json", "X-Lookbook-Token": token };
      const url = `/api/tables/${encodeURIComponent(name)}/${first.kind}`;
      const answer = await answerOf(url, { method: "POST", headers, body: JSON.stringify(first.body) });
      const why = answer.ok ? "" : await reasonOf(answer);
      const stale = answer.status === 403 && why === "stale token";
      if (!answer.ok && answer.status !== 422) {  // it may pass: the message stays until it is on record, or refused
        const trouble = stale ? await renewToken() : why;
        if (trouble) {
          complain(answer.status === 403 && !stale
            ? `Refused, so it is not on record: ${why}. This browser keeps what you said, and sends it when that is mended.`
            : `Not on record yet: ${trouble}`);
          troubled = true;
          await wait(TROUBLE_MS);
        }
        continue;
      }
      if (troubled) complain("");
      troubled = false;
      localStorage.removeItem(key);
      toSend.delete(key);
      const found = await answer.json().catch(() => ({}));
      if (!answer.ok) {
        refused(first, why);
      } else if (found.progress) {
        Object.assign(state, { progress: found.progress, production: found.production || state.production });
        addClasses(found.progress.new_classes);
        tell();
      }
    }
  } finally {
    flushing = false;
  }
}

async function renewToken() {
  try {
    token = (await askForSession()).token;
  } catch (error) {
    return error.message;
  }
}

function refused(message, why) {
  complain(why);
  const mine = said.findIndex(each => each.id === message.body.id);
  if (mine >= 0) putBack(said.splice(mine, 1)[0].items);
}

function addClasses(names) {
  const more = names.filter(each => !state.classes.includes(each));
  if (more.length) {
    state.classes.push(...more);
    drawClasses();
  }
}

// --- what is shown

async function load() {
  // What was put off, and what the server has not heard yet, it shows again: that many more are asked for.
  const unheard = outbox().flatMap(key => JSON.parse(localStorage.getItem(key)).body.said || []).length;
  const count = Math.min(100 + skipped.size + unheard, 1000);
  const found = await json(`/api/tables/${encodeURIComponent(name)}?mode=${encodeURIComponent(mode)}&count=${count}`);
  const isNew = !state || state.version !== found.version || state.audit !== found.audit;
  if (isNew) queue = [];
  state = found;
  if (isNew) {
    drawModes();
    drawClasses();
  }
  const there = new Set(queue.map(keyOf));
  const fresh = found.items.filter(each => !there.has(keyOf(each)) && !handled.has(keyOf(each)) && !skipped.has(keyOf(each)));
  queue.push(...fresh);
  ended = found.items.length < count;
  if (isNew || grid) show();
}

async function more() {
  if (asked || ended || queue.length >= FEW) return;
  asked = true;
  try {
    const empty = queue.length === 0;
    await load();
    asked = false;
    if (empty && queue.length) show();
    if (!queue.length && !ended) setTimeout(more, RETRY_MS);
    if (empty && ended) show();
  } catch (error) {
    asked = false;
    complain(error.message);
    if (!queue.length) askAgain();
  }
}

function askAgain() {
  // Nothing is left, but a new table or audit may come while the page stays open.
  if (again) return;
  again = true;
  setTimeout(() => {
    again = ended = false;
    more();
  }, AGAIN_MS);
}

function picture(item, size) {
  const key = `${keyOf(item)}?size=${size}`;
  if (!pictures.has(key)) pictures.set(key, fetched(item, size, key));
  if (pictures.size > 300) pictures.delete(pictures.keys().next().value);
  return pictures.get(key);
}

async function fetched(item, size, key) {
  const url = `/api/tables/${encodeURIComponent(name)}/${item.version}/pictures/${item.part}/${item.row}?size=${size}`;
  for (;;) {
    const answer = await answerOf(url);
    try {
      if (!answer.ok) {
        setTimeout(() => pictures.delete(key), TROUBLE_MS);  // its folder may come back
        return element("p", await reasonOf(answer));
      }
      const image = new Image(), source = URL.createObjectURL(await answer.blob());
      image.alt = item.path;
      image.src = source;
      await image.decode();
      URL.revokeObjectURL(source);
      return image;
    } catch {
      await wait(RETRY_MS);  // the server ended while it answered
    }
  }
}

function show() {
  place("one").hidden = grid;
  place("grid").hidden = !grid;
  place("view").firstChild.textContent = grid ? "One by one " : "Grid ";
  if (grid) showGrid(); else showOne();
  tell();
  if (!queue.length && ended) askAgain(); else more();
}

function showOne() {
  const item = queue[0];
  for (const each of ["accept", "none", "bad", "skip"]) place(each).disabled = !item;
  place("likely").replaceChildren();
  if (!item) {
    place("picture").replaceChildren(element("p", asked || !ended ? "Loading ..." : `Nothing is left to label here.${skipped.size ? " What you put off comes back when the page is loaded again." : ""}`));
    place("what").textContent = "";
    return;
  }
  const waiting = setTimeout(() => {
    visible = null;
    place("picture").replaceChildren();
  }, 150);
  picture(item, "whole").then(shown => {
    clearTimeout(waiting);
    if (queue[0] !== item || grid) return;
    visible = item;
    place("picture").replaceChildren(shown);
    const seen = shown.tagName === "IMG";
    for (const each of ["accept", "none"]) place(each).disabled = !seen || (each === "accept" && !item.label);
    for (const each of place("classes").children) each.disabled = !seen;
  });
  place("what").textContent = item.error ? `${item.path} (${item.error})` : item.path;
  place("likely").textContent = item.likely.map(([label, share]) => `${label} ${percent(share)}`).join(" · ");
  for (const each of place("classes").children) each.classList.toggle("said", each.dataset.label === item.label);
  for (const each of queue.slice(1, AHEAD)) picture(each, "whole");
}

function showGrid() {
  // What was taken back may be of an earlier table, or audit: one message is about one of them.
  const items = queue.filter(each => each.label && each.version === queue[0].version && each.audit === queue[0].audit).slice(0, GRID);
  drawn = items.map(item => ({ item, seen: false }));
  place("pictures").replaceChildren(...drawn.map(entry => {
    const { item } = entry;
    const button = document.createElement("button");
    button.type = "button";
    button.title = item.path;
    button.setAttribute("aria-pressed", wrong.has(keyOf(item)));
    button.classList.toggle("wrong", wrong.has(keyOf(item)));
    button.onclick = () => {
      if (!wrong.delete(keyOf(item))) wrong.add(keyOf(item));
      button.classList.toggle("wrong", wrong.has(keyOf(item)));
      button.setAttribute("aria-pressed", wrong.has(keyOf(item)));
    };
    picture(item, "small").then(shown => {
      button.prepend(shown);
      entry.seen = shown.tagName === "IMG";
    });
    element("span", item.label, button);
    return button;
  }));
}

function drawModes() {
  const modes = [["unsure", "the least certain"]];
  if (state.has_audit) modes.push(["audit", "the audit"]);
  for (const each of ["0-0.5", "0.5-0.7", "0.7-0.9", "0.9-1"]) modes.push([`confidence:${each}`, `confidence ${each}`]);
  for (const each of state.known) modes.push([`class:${each}`, `called ${each}`]);
  for (const each of Object.keys(state.errors)) modes.push([`error:${each}`, `error ${each}`]);
  if (!modes.some(([value]) => value === mode)) modes.push([mode, mode]);
  place("mode").replaceChildren(...modes.map(([value, text]) => Object.assign(element("option", text), { value })));
  place("mode").value = mode;
}

function drawClasses() {
  place("classes").classList.toggle("many", state.classes.length > MANY);
  place("classes").replaceChildren(...state.classes.map((label, index) => {
    const button = element("button", `${label} `);
    button.type = "button";
    button.dataset.label = label;
    button.onclick = () => say("class", label);
    if (KEYS[index]) element("kbd", KEYS[index], button);
    return button;
  }));
}

function tell() {
  if (!state) return;
  const { labelled, right, corrected, none, bad, new_classes } = state.progress;
  const recent = times.filter(each => each > Date.now() - WINDOW_MS);
  const minutes = recent.length > 1 ? Math.max((Date.now() - recent[0]) / 60000, 1 / 60) : 0;
  const unsent = outbox().length;
  place("done").textContent = `${labelled} labelled, ${times.length} of them now${minutes ? `, ${Math.round(recent.length / minutes)} a minute` : ""}${unsent > 3 ? `; ${unsent} not sent yet` : ""}`;
  place("next").textContent = `The next retraining with --labels ${name} has ${right} that the model named rightly, ${corrected} corrected; ${none + bad} are left out${new_classes.length ? `; new classes: ${new_classes.join(", ")}` : ""}.`;
  const found = state.production;
  place("audit").textContent = found ? `Audit of ${found.table}: ${judgement(found)}.` : "";
  place("table").textContent = `${state.table}, ${state.rows.toLocaleString("en")} rows, of ${state.folder}`;
}

function judgement(found) {
  const { accuracy, learned, compared, test_accuracy } = found;
  if (!accuracy) return `${found.labelled} of ${found.drawn} labelled; how many are right is told when all are`;
  return [
    `${percent(accuracy.value)} right (95 % interval ${percent(accuracy.low)} to ${percent(accuracy.high)}), ${found.labelled} of ${found.drawn} labelled`,
    ...(learned === null ? ["pictures that the model has learned from may be among them"] : []),
    ...(learned ? [`not counted: ${compared ? "about " : ""}${learned} more rows of ${compared ? "pictures" : "files"} that the model has learned from`] : []),
    ...(learned !== null && !compared ? ["other files of pictures that it has learned from may be among them"] : []),
    ...(test_accuracy === null ? [] : [`on the test images ${percent(test_accuracy)}`]),
  ].join("; ");
}

// --- what a person says

const kindOfMode = () => mode.split(":")[0];

function say(verdict, label = null, isNew = false) {
  const item = queue[0];
  if (!item || item !== visible || (verdict !== "bad" && place("picture").firstChild.tagName !== "IMG")) return;
  queue.shift();
  write([item], [{ part: item.part, row: item.row, verdict, label, new: isNew }]);
}

function write(items, rows) {
  const id = newId();
  for (const each of items) {
    handled.add(keyOf(each));
    times.push(Date.now());
  }
  said.push({ id, items });
  send("labels", { id, version: items[0].version, chosen: kindOfMode(), audit: items[0].audit, said: rows });
  complain("");
  show();
}

function acceptAll() {
  const items = drawn.filter(({ item, seen }) => seen && !wrong.has(keyOf(item)) && queue.includes(item)).map(each => each.item);
  const left = queue.filter(each => wrong.has(keyOf(each)));
  if (!items.length) return;
  queue = queue.filter(each => !items.includes(each));
  write(items, items.map(each => ({ part: each.part, row: each.row, verdict: "class", label: each.label, new: false })));
  if (left.length) {  // those that were clicked come next, one by one
    queue = [...left, ...queue.filter(each => !left.includes(each))];
    wrong.clear();
    grid = false;
    show();
  }
}

function undo() {
  const last = said.pop();
  if (!last) return;
  send("undo", { id: newId(), undone: last.id });
  putBack(last.items);
}

function putBack(items) {
  for (const each of items) {
    handled.delete(keyOf(each));
    times.pop();
  }
  queue.unshift(...items);
  show();
}

function skip() {
  const item = queue.shift();
  if (item) skipped.add(keyOf(item));
  show();
}

function matching() {
  const wanted = place("find").value.trim().toLowerCase();
  return wanted ? state.classes.filter(each => each.toLowerCase().includes(wanted)) : [];
}

function look() {
  const found = new Set(matching()), wanted = place("find").value.trim();
  for (const each of place("classes").children) each.hidden = wanted !== "" && !found.has(each.dataset.label);
  place("add").hidden = !wanted || state.classes.includes(wanted);
  place("add").textContent = `Add the new class "${wanted}"`;
}

function leaveFind() {
  place("find").value = "";
  place("find").blur();
  look();
}

place("accept").onclick = () => queue[0]?.label && say("class", queue[0].label);
place("none").onclick = () => say("none");
place("bad").onclick = () => say("bad");
place("skip").onclick = skip;
place("undo").onclick = place("undo-all").onclick = undo;
place("accept-all").onclick = acceptAll;
place("view").onclick = () => { grid = !grid; show(); };
place("mode").onchange = () => { location.search = `?mode=${encodeURIComponent(place("mode").value)}`; };
place("find").oninput = look;
place("add").onclick = () => {
  const wanted = place("find").value.trim();
  leaveFind();
  say("class", wanted, true);
};
document.addEventListener("keydown", event => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !state || !name) return;
  if (event.target === place("find")) {
    if (event.key === "Escape") leaveFind();
    if (event.key === "Enter" && matching().length === 1) {
      const [label] = matching();
      leaveFind();
      say("class", label);
    }
    return;
  }
  if (event.target.tagName === "SELECT" || (event.key === "Enter" && event.target.matches?.("button:focus-visible"))) return;
  const actions = grid
    ? { Enter: acceptAll, u: undo, g: place("view").onclick }
    : { Enter: place("accept").onclick, u: undo, x: place("none").onclick, b: place("bad").onclick, s: skip,
        g: place("view").onclick, "/": () => place("find").focus() };
  const index = grid ? -1 : KEYS.indexOf(event.key);
  const action = actions[event.key] || (index >= 0 && state.classes[index] && (() => say("class", state.classes[index])));
  if (action) {
    event.preventDefault();
    document.activeElement?.blur();
    action();
  }
});

document.addEventListener("click", event => {
  if (event.detail && event.target.tagName !== "INPUT") document.activeElement?.blur();  // by a mouse: keys are the page's
});

async function start() {
  place("name").textContent = name;
  if (!name) {
    for (const each of ["mode", "view"]) place(each).hidden = true;
    document.querySelector("header label").hidden = true;
    const names = await json("/api/names");
    place("names").hidden = false;
    for (const each of names) {
      const link = element("a", each.name, element("li", "", place("names")));
      link.href = `/review/${encodeURIComponent(each.name)}`;
    }
    if (!names.length) complain("There is no table of predictions yet: lookbook score FOLDER makes one.");
    return;
  }
  document.title = `${name}: review`;
  const session = await askForSession();
  token = session.token;
  OUTBOX = `lookbook-outbox-${session.store}-${name}-`;
  for (const key of inOutbox()) {
    toSend.add(key);
    const { version, audit, said: rows } = JSON.parse(localStorage.getItem(key)).body;
    for (const each of rows || []) handled.add(keyOf({ version, audit, ...each })).add(keyOf({ version, ...each }));
  }
  asked = true;
  try {
    await load();
  } catch (error) {
    if (mode === "unsure") throw error;
    mode = "unsure";
    await load();
    complain(error.message);
  }
  asked = false;
  show();
  flush();
}

start().catch(error => complain(error.message));
