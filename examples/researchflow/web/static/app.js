"use strict";

const $ = (id) => document.getElementById(id);

// Tokens live in this tab only: {name: token}, and the name selected.
let tokens = JSON.parse(sessionStorage.getItem("tokens") || "{}");
let selected = sessionStorage.getItem("selected") || "";
const token = () => tokens[selected] || "";

function showTokens() {
  const options = ["", ...Object.keys(tokens).sort()].map((name) => new Option(name || "none", name, false, name === selected));
  $("token-select").replaceChildren(...options);
}

function selectToken(name) {
  selected = name;
  sessionStorage.setItem("tokens", JSON.stringify(tokens));
  sessionStorage.setItem("selected", selected);
  showTokens();
  refresh();
  reconnect();
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("token-name").value.trim();
  const text = $("token-text").value.replace(/\s+/g, "").replace(/^Bearer/i, "");
  if (!name || !text) return;
  tokens[name] = text;
  $("token-form").reset();
  selectToken(name);
});
$("token-select").addEventListener("change", () => selectToken($("token-select").value));
$("token-forget").addEventListener("click", () => {
  delete tokens[selected];
  selectToken("");
});

// call returns the JSON answer, or throws what the mesh or the service said.
async function call(method, path, body) {
  const headers = {};
  if (token()) headers.Authorization = "Bearer " + token();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  let json = null;
  try { json = JSON.parse(text); } catch { /* a proxy answers in plain text */ }
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${(json && json.error) || text.slice(0, 200)}`);
  return json;
}

function problem(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
}

function cell(row, ...content) {
  row.insertCell().append(...content);
}

function jobRow(job) {
  const row = document.createElement("tr");
  row.className = job.state;
  cell(row, job.id);
  cell(row, job.title);
  cell(row, job.error ? `${job.state}: ${job.error}` : job.state);
  const bar = document.createElement("progress");
  bar.max = 100;
  bar.value = job.progress;
  cell(row, bar, ` ${job.progress}%`);
  cell(row, job.worker ? `${job.worker} (${job.version})` : "");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Delete";
  button.addEventListener("click", () => act(() => call("DELETE", "/api/jobs/" + encodeURIComponent(job.id))));
  cell(row, button);
  return row;
}

let timer = 0;
let round = 0; // only the newest refresh may draw and plan the next

async function refresh() {
  const mine = ++round;
  clearTimeout(timer);
  let wait = 3000;
  try {
    const jobs = await call("GET", "/api/jobs");
    if (mine !== round) return;
    $("jobs").replaceChildren(...jobs.map(jobRow));
    if (jobs.some((job) => job.state === "queued" || job.state === "running")) wait = 500;
    if ($("problem").dataset.from === "refresh") problem(null);
  } catch (error) {
    if (mine !== round) return;
    $("jobs").replaceChildren();
    $("problem").dataset.from = "refresh";
    problem(error);
  }
  timer = setTimeout(refresh, wait);
}

// act runs what a user asked for and shows how it went.
async function act(f) {
  try {
    await f();
    problem(null);
  } catch (error) {
    $("problem").dataset.from = "act";
    problem(error);
  }
  refresh();
}

$("job-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const job = { title: $("job-title").value };
  if ($("job-steps").value) job.steps = Number($("job-steps").value);
  act(async () => {
    await call("POST", "/api/jobs", job);
    $("job-title").value = "";
  });
});

function show(answer) {
  $("answer").hidden = false;
  $("answer").textContent = JSON.stringify(answer, null, 2);
}
$("query").addEventListener("click", () => act(async () =>
  show(await call("POST", "/graphql", { query: "{ jobs { id title state progress } }" }))));
$("stats").addEventListener("click", () => act(async () => show(await call("GET", "/api/admin/stats"))));

// The shared notes: the last message wins. While one of our own is under way,
// those of others are older than it and will be overwritten by its echo.
const notes = $("notes");
let socket = null;
let pending = [];
let retry = 0;

function reconnect() {
  clearTimeout(retry);
  if (socket) {
    socket.onclose = socket.onmessage = null;
    socket.close();
  }
  pending = [];
  // A browser cannot set headers on a WebSocket; access_token is where the
  // mesh looks for a token in a query.
  const query = new URLSearchParams({ room: "main" });
  if (token()) query.set("access_token", token());
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/ws?${query}`);
  $("collab-state").textContent = "connecting";
  socket.onopen = () => { $("collab-state").textContent = "connected"; };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    $("collab-state").textContent = `connected, change ${message.seq} by ${message.from}`;
    if (pending.length && message.text === pending[0]) {
      pending.shift();
    } else if (!pending.length && notes.value !== message.text) {
      const { selectionStart, selectionEnd } = notes;
      notes.value = message.text;
      notes.setSelectionRange(selectionStart, selectionEnd);
    }
  };
  socket.onclose = () => {
    $("collab-state").textContent = "not connected, trying again";
    retry = setTimeout(reconnect, 2000);
  };
}

notes.addEventListener("input", () => {
  if (socket.readyState !== WebSocket.OPEN) return;
  pending.push(notes.value);
  socket.send(notes.value);
});

showTokens();
refresh();
reconnect();
