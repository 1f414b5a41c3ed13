// Labelling. An annotation is kept in this browser until the server says that it is on its disk; it is sent again, under
// the same id, until then.

import { show } from "/text.js";

const PAUSE = 120_000; // ms without a sign of life after which the time does not count
const LONGEST_SECONDS = 86_400; // that the server takes for one pair
const TOO_QUICK = 250; // ms in which nobody reads two responses: a key pressed twice
const PATIENCE = 15_000; // ms after which a request counts as lost
const LONGEST_WAIT = 8_000; // ms between two tries
const LOOK_AGAIN = 4_000; // ms between looks for the next batch
const FINAL = new Set([400, 404, 409, 413, 415]); // no second try will change these
const UNSAVED = "bgpm:unsaved:";

const byId = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let annotator = "";
let state = null; // what the server said last
let current = null; // the pair on the screen
let queue = []; // the pairs after it
let heard = 0; // states accepted so far
let unsaved = []; // what the server has not confirmed, whoever said it: {key, path, body}
let past = []; // annotations of this visit: {id, question}
let refused = []; // what the server will not take: texts
let notices = new Map(); // what it says of annotations that it kept, and of how many
let takenBack = new Set(); // ids
let more = false; // whether to be given pairs that need no further annotation
let raw = false;
let sending = false;
let trouble = "";
let count = 0;
let scale = 0; // steps that the buttons on the screen have
let steps = {}; // by key, what it says: [choice, strength]

// ---- time: only what passes between signs of life that are not too far apart

let active = 0;
let shownAt = 0;
let lastSign = 0;

function sign() {
  const now = performance.now();
  if (document.visibilityState === "visible" && now - lastSign < PAUSE) active += now - lastSign;
  lastSign = now;
}

function startClock() {
  active = 0;
  shownAt = lastSign = performance.now();
}

for (const event of ["pointermove", "pointerdown", "keydown", "scroll", "wheel", "touchmove"]) {
  addEventListener(event, sign, { passive: true, capture: true });
}
document.addEventListener("visibilitychange", () => {
  // what passed while the page was hidden does not count
  if (document.visibilityState === "visible") lastSign = performance.now();
  else if (performance.now() - lastSign < PAUSE) active += performance.now() - lastSign;
});

// ---- the server

class Refusal extends Error {}

async function ask(path, body) {
  const request = { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" };
  if (body) Object.assign(request, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const reply = await fetch(path, request);
  if (reply.ok) return reply.json();
  const text = await reply.text();
  let why = text.trim();
  if ((reply.headers.get("Content-Type") ?? "").startsWith("application/json")) why = JSON.parse(text).error;
  throw FINAL.has(reply.status) ? new Refusal(why) : new Error(why);
}

function reason(error) {
  return error instanceof TypeError || error.name === "TimeoutError" ? "the server cannot be reached" : error.message;
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function send(path, body) {
  count += 1;
  const key = `${UNSAVED}${annotator}:${String(Date.now()).padStart(15, "0")}-${String(count).padStart(6, "0")}`;
  const item = { key, path, body: { ...body, annotator } };
  unsaved.push(item);
  flush();
  try {
    localStorage.setItem(key, JSON.stringify(item));
  } catch (error) {
    if (!(error instanceof DOMException)) throw error; // storage full or forbidden: only a reload could lose the annotation
  }
}

function recall() {
  const known = new Set(unsaved.map((item) => item.key));
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(UNSAVED) && !known.has(key)).sort();
  unsaved.push(...keys.map((key) => JSON.parse(localStorage.getItem(key))));
  flush();
}

function mine(item) {
  return item.body.annotator === annotator;
}

function forget(item) {
  localStorage.removeItem(item.key);
  unsaved = unsaved.filter((other) => other !== item);
}

async function flush() {
  if (sending) return;
  sending = true;
  let wait = 500;
  while (unsaved.length) {
    const item = unsaved[0];
    try {
      const reply = await ask(item.path, { ...item.body, more });
      forget(item);
      trouble = "";
      wait = 500;
      if (reply.notice) notices.set(reply.notice, (notices.get(reply.notice) ?? 0) + 1);
      if (!mine(item)) {
        paint(); // somebody else sits here now, or nobody
        continue;
      }
      if (reply.question?.pair_id && reply.question.pair_id !== current?.pair_id && !answered(reply.question.pair_id)) {
        if (current) queue.unshift(current);
        current = reply.question;
        present();
      }
      if (reply.notice && current && !reply.state.queue.some(isCurrent)) current = null; // it came from the batch of before
      accept(reply.state);
    } catch (error) {
      if (error instanceof Refusal) {
        forget(item);
        const what = item.path === "/api/undo" ? "Undo" : "An annotation";
        refused.push(`${what}${mine(item) ? "" : ` of ${item.body.annotator}`}: ${error.message}`);
        if (annotator) refresh();
        else paint();
      } else {
        trouble = reason(error);
        paint();
        await sleep(wait);
        wait = Math.min(2 * wait, LONGEST_WAIT);
      }
    }
  }
  sending = false;
  paint();
}

async function refresh() {
  const [before, name] = [heard, annotator];
  try {
    const reply = await ask(`/api/state?annotator=${encodeURIComponent(name)}${more ? "&more=1" : ""}`);
    if (name !== annotator) return; // somebody else sits here now
    if (heard === before) accept(reply); // what an annotation's own reply said meanwhile is newer
    if (!unsaved.length) trouble = "";
  } catch (error) {
    if (name !== annotator) return;
    trouble = reason(error);
  }
  paint();
}

function isCurrent(question) {
  return question.pair_id === current.pair_id && question.texts === current.texts;
}

function answered(pairId) {
  return unsaved.some((item) => mine(item) && item.path === "/api/answer" && item.body.pair_id === pairId);
}

function accept(latest) {
  heard += 1;
  state = latest;
  queue = state.queue.filter((q) => q.pair_id !== current?.pair_id && !answered(q.pair_id));
  if (!current) next();
  paint();
}

// ---- what a person does

function choose(choice, strength) {
  if (!current || performance.now() - shownAt < TOO_QUICK) return;
  sign();
  const id = newId();
  const seconds = Math.min(Math.round(active) / 1000, LONGEST_SECONDS);
  const body = { id, pair_id: current.pair_id, choice, shown: current.shown, texts: current.texts, seconds };
  if (strength) body.strength = strength;
  const flags = flagged();
  if (flags.length) body.flags = flags;
  const note = byId("note").value.trim();
  past.push({ id, question: current });
  current = null;
  send("/api/answer", note ? { ...body, note } : body);
  next();
  paint();
}

function undo() {
  let target = past.pop();
  if (!target && state?.last && !takenBack.has(state.last.id)) target = { id: state.last.id };
  if (!target) return;
  takenBack.add(target.id);
  if (target.question) {
    if (current) queue.unshift(current);
    current = target.question;
    present();
  }
  send("/api/undo", { id: target.id });
  paint();
}

function next() {
  current = queue.shift() ?? null;
  if (current) present();
}

function flagged() {
  return [...document.querySelectorAll("[data-flag][aria-pressed=true]")].map((button) => button.dataset.flag);
}

function toggleFlag(button) {
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  byId("note-box").open = true;
}

// ---- what a person sees

const STRENGTHS = { 2: [""], 4: ["much", "clear"], 7: ["much", "clear", "slight"] };
const HOW = { "": "is better", much: "much better", clear: "better", slight: "slightly better" };

function paintChoices() {
  if (!state?.scale || scale === state.scale) return;
  scale = state.scale;
  const given = STRENGTHS[scale];
  const tie = scale === 7 ? ["4", "T", "0"] : ["T", "0"];
  const left = given.map((strength, n) => [[String(n + 1)], "left", strength, `Response 1 ${HOW[strength]}`]);
  const right = given.map((strength, n) => [[String(scale - n)], "right", strength, `Response 2 ${HOW[strength]}`]);
  const all = [...left, [tie, "tie", "", "Tie"], [["B"], "both_bad", "", "Both bad"], ...right.reverse()];
  steps = {};
  byId("choices").classList.toggle("many", scale > 2);
  byId("choices").replaceChildren(
    ...all.map(([keys, choice, strength, words]) => {
      for (const key of keys) steps[key.toLowerCase()] = [choice, strength];
      const button = document.createElement("button");
      button.type = "button";
      button.className = ["left", "right"].includes(choice) ? "choice" : "choice tie";
      button.dataset.choice = choice;
      button.dataset.strength = strength;
      button.setAttribute("aria-keyshortcuts", keys.join(" "));
      const key = document.createElement("kbd");
      key.textContent = keys[0];
      const label = document.createElement("span");
      label.textContent = words;
      button.append(key, label);
      return button;
    }),
  );
}

function present() {
  const conversation = current.turns.length > 1 || current.turns[0]?.role !== "user";
  byId("turns").replaceChildren(
    ...current.turns.map((turn) => {
      const node = document.createElement("article");
      node.className = "turn";
      const name = document.createElement("h2");
      name.textContent = conversation ? turn.role : "Prompt";
      const body = document.createElement("div");
      body.className = "body";
      body.dir = "auto";
      show(body, turn.content, raw);
      node.append(name, body);
      return node;
    }),
  );
  show(byId("left").querySelector(".body"), current.left, raw);
  show(byId("right").querySelector(".body"), current.right, raw);
  byId("note").value = "";
  byId("note-box").open = false;
  for (const button of document.querySelectorAll("[data-flag]")) button.setAttribute("aria-pressed", "false");
  scrollTo(0, 0);
  startClock();
  paint();
  byId("question").focus({ preventScroll: true });
}

function text(id, value) {
  const node = byId(id);
  if (node.textContent !== value) node.textContent = value; // a screen reader speaks what changes
}

function paint() {
  const working = Boolean(annotator && current);
  byId("name-form").hidden = Boolean(annotator);
  byId("who").hidden = !annotator;
  text("who-name", annotator);
  byId("work").hidden = byId("actions").hidden = !working;
  byId("rest").hidden = !annotator || working || !(state || trouble);
  if (state?.batch) {
    const pending = unsaved.filter((item) => mine(item) && item.path === "/api/answer").length;
    byId("progress").max = state.total;
    byId("progress").value = state.finished;
    text("question", `Pair ${state.mine + pending + 1}: which response is better?`);
    const people = state.people > 1 ? `, ${state.people} people each` : "";
    const kept = state.reserve ? ", kept for the rounds that ask for them" : "";
    text("where", `${state.batch}: ${state.finished} of ${state.total} finished${people}${kept}`);
  }
  paintChoices();
  paintRun();
  if (!byId("rest").hidden) paintRest();
  byId("undo").disabled = byId("undo-last").hidden = !past.length && !(state?.last && !takenBack.has(state.last.id));
  byId("raw").setAttribute("aria-pressed", String(raw));
  byId("refused").hidden = !refused.length;
  byId("refused-list").replaceChildren(
    ...refused.map((why) => {
      const item = document.createElement("li");
      item.textContent = why;
      return item;
    }),
  );
  byId("notice").hidden = !notices.size;
  const said = [...notices].map(([words, times]) => (times > 1 ? `${words} (${times} annotations)` : words));
  text("notice-text", said.join(" "));
  paintStatus();
}

async function readGuidelines() {
  try {
    const { text: guidelines } = await ask("/api/guidelines");
    byId("guidelines-box").hidden = byId("show-guidelines").hidden = !guidelines;
    show(byId("guidelines"), guidelines, false);
  } catch (error) {
    trouble = reason(error);
    paint();
  }
}

function toggleGuidelines() {
  if (byId("guidelines-box").hidden) return;
  byId("guidelines-box").open = !byId("guidelines-box").open;
  if (byId("guidelines-box").open) scrollTo(0, 0);
}

function paintRun() {
  const run = state?.run;
  const shows = Boolean(annotator && run && (["running", "busy", "failed"].includes(run.phase) || (run.phase === "idle" && state.reserve)));
  byId("run").hidden = !shows;
  if (!shows) return;
  const failed = run.phase === "failed";
  byId("run").classList.toggle("failed", failed);
  byId("retry").hidden = !failed;
  byId("run-bar").hidden = failed;
  if (run.total) {
    byId("run-bar").max = run.total;
    byId("run-bar").value = run.done;
  } else {
    byId("run-bar").removeAttribute("value"); // how far is not known yet
  }
  const step = run.total ? ` (step ${run.done + 1} of ${run.total})` : "";
  const words = {
    idle: "The next round begins in a moment.",
    running: `The next round is being prepared${step}: ${run.does}.`,
    busy: "Another dvc works in this folder. The round goes on when it has ended.",
    failed: `The round failed: ${run.error}`,
  };
  text("run-text", words[run.phase]);
}

function rest() {
  const why = `${trouble}. Trying again.`;
  if (unsaved.length) {
    const words = trouble ? `${unsaved.length} not saved yet: ${why}` : "Keep this page open until they are saved.";
    return ["Saving your last annotations", words];
  }
  if (!state) return ["No pair can be shown", why];
  const open = state.batch ? state.total - state.finished : 0;
  const next = "the next batch shows up here by itself.";
  const then = state.heldout ? "every round is measured on them." : `the loop goes on, and ${next}`;
  const [title, words] = state.run && !open
    ? resting(state.run)
    : !state.batch && state.changed
    ? ["The batch was changed", `${state.changed} is not the batch any more that was asked for. Once dvc repro has run, ${next}`]
    : !state.batch
    ? ["Nothing waits for a label", `dvc repro goes on with the labels that are there; ${next}`]
    : open
      ? ["You have annotated every pair that needed you", `${open} of ${state.total} pairs wait for somebody else.`]
      : ["This batch is finished", `Run dvc repro: ${then}`];
  return [title, trouble ? why : words];
}

function resting(run) {
  if (run.phase === "finished") return ["The last round is through", "Thank you. The tab Campaign shows what came out."];
  if (run.phase === "failed") return ["The next round waits for help", "Your annotations are saved. The sentence above says what is wrong."];
  return ["The next round is being prepared", "The next batch shows up here by itself."];
}

function paintRest() {
  const [title, words] = rest();
  text("rest-title", title);
  text("rest-text", words);
  byId("agreement").replaceChildren(
    ...(state?.agreement?.with ?? []).map((one) => {
      const item = document.createElement("li");
      const kappa = one.kappa === null ? "not defined" : one.kappa.toFixed(2);
      item.textContent = `You and ${one.name} agree on ${Math.round(100 * one.raw)}% of ${one.pairs} pairs (Cohen's kappa ${kappa}).`;
      return item;
    }),
  );
  byId("more").hidden = more || !state?.extra || unsaved.length > 0;
  text("more", `Give second opinions on ${state?.extra ?? 0} pairs`);
}

function paintStatus() {
  const waiting = unsaved.length;
  const how = trouble ? `: ${trouble}. Trying again` : "";
  const saved = !state?.mine ? "" : state.mine === 1 ? "1 annotation saved" : `${state.mine} annotations saved`;
  text("status", waiting ? `${waiting} not saved yet${how}` : trouble ? `${trouble}. Trying again` : saved);
  byId("status").classList.toggle("trouble", Boolean(trouble));
  byId("left-over").hidden = !waiting;
  text("left-over", waiting ? `${waiting} not saved yet${how}. Keep this page open until they are.` : "");
}

// ---- wiring

// as the server counts people: see bgpm/annotations/names.py
const INKLESS = /(?!\s)[\p{Cc}\p{Cf}\p{Variation_Selector}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0]/gu;

function spelling(name) {
  return name.replace(INKLESS, "").trim().split(/\s+/u).join(" ").normalize("NFC");
}

function enter(given) {
  const name = spelling(given);
  annotator = name;
  state = current = null;
  queue = [];
  past = [];
  more = false;
  trouble = "";
  if (name) {
    sessionStorage.setItem("bgpm:name", name);
    localStorage.setItem("bgpm:name", name);
    refresh();
  } else {
    sessionStorage.removeItem("bgpm:name");
  }
  recall();
  paint();
  if (!name) byId("name").focus();
}

byId("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = byId("name").value;
  if (spelling(name)) enter(name);
});
byId("change").addEventListener("click", () => enter(""));
byId("undo").addEventListener("click", undo);
byId("undo-last").addEventListener("click", undo);
byId("raw").addEventListener("click", toggleRaw);
byId("dismiss").addEventListener("click", () => {
  refused = [];
  paint();
});
byId("dismiss-notice").addEventListener("click", () => {
  notices = new Map();
  paint();
});
byId("show-guidelines").addEventListener("click", toggleGuidelines);
byId("retry").addEventListener("click", async () => {
  try {
    accept((await ask("/api/retry", { annotator, more })).state);
  } catch (error) {
    trouble = reason(error);
    paint();
  }
});
byId("more").addEventListener("click", () => {
  more = true;
  refresh();
});
byId("actions").addEventListener("click", (event) => {
  const button = event.target.closest("[data-choice]");
  if (button) choose(button.dataset.choice, button.dataset.strength);
});
for (const button of document.querySelectorAll("[data-flag]")) button.addEventListener("click", () => toggleFlag(button));

function toggleRaw() {
  raw = !raw;
  if (!current) return;
  const turns = byId("turns").querySelectorAll(".body");
  current.turns.forEach((turn, n) => show(turns[n], turn.content, raw));
  show(byId("left").querySelector(".body"), current.left, raw);
  show(byId("right").querySelector(".body"), current.right, raw);
  paint();
}

const ABSTAIN = { s: "skip", c: "cannot_judge" };
const FLAGS = { x: "unsafe", w: "wrong_language" };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !annotator) return;
  if (event.target.closest("input, textarea")) return;
  const key = event.key.toLowerCase();
  if (key in steps) choose(...steps[key]);
  else if (key in ABSTAIN) choose(ABSTAIN[key]);
  else if (key in FLAGS && current) toggleFlag(document.querySelector(`[data-flag=${FLAGS[key]}]`));
  else if (key === "u") undo();
  else if (key === "r") toggleRaw();
  else if (key === "g") toggleGuidelines();
  else return;
  event.preventDefault();
});

addEventListener("online", flush);
setInterval(() => {
  if (annotator && !unsaved.length && (!current || trouble || (state?.run && state.reserve))) refresh();
}, LOOK_AGAIN);

byId("name").value = localStorage.getItem("bgpm:name") ?? "";
enter(sessionStorage.getItem("bgpm:name") ?? "");
readGuidelines();
