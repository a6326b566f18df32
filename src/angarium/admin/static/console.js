// The console: asks the API every two seconds and shows what it says.
// Everything shown comes from outside, so all of it is put into the page as text (textContent), never as markup.
// The HTML of a mail is shown only in a frame without scripts, origin or network (see showHtml).

const POLL_MS = 2000;
const STORY_MS = 10000;
const OVER = ["delivered", "failed", "expired", "deleted", "unknown"];  // states of what is not queued
const QUEUE_ROWS = 50;
const ARRIVED_ROWS = 100;
const $ = (id) => document.getElementById(id);

let token = sessionStorage.getItem("angarium-token") ?? "";
let previous = null;      // the totals of the last poll, for rates
let chosen = null;        // id of the message in the viewer
let view = "";            // its tab
let linked = { id: "", due: 0 };  // the message that the address names, and when its story is asked for (again)

class NeedsToken extends Error {}

async function ask(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { headers, signal: AbortSignal.timeout(15000) });
  if (response.status === 401) throw new NeedsToken();
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail ?? `${path}: HTTP ${response.status}`);
  }
  return response.json();
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function row(cells, classes = []) {
  const made = element("tr");
  cells.forEach((cell, i) => {
    const td = element("td", undefined, classes[i]);
    td.append(cell);
    made.append(td);
  });
  return made;
}

const number = (n) => n.toLocaleString("en");
const counted = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;

function size(octets) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (octets >= 1024 && i < units.length - 1) { octets /= 1024; i += 1; }
  return `${i && octets < 10 ? octets.toFixed(1) : Math.round(octets)} ${units[i]}`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

// A short time with what can be seen of it.
const span = (seconds) => seconds < 0.9995 ? `${Number((seconds * 1000).toPrecision(3))} ms`
  : seconds < 60 ? `${seconds.toFixed(1)} s` : duration(seconds);

function moment(text) {
  const when = new Date(text);
  if (Number.isNaN(when.getTime())) return text;
  return when.toDateString() === new Date().toDateString() ? when.toLocaleTimeString() : when.toLocaleString();
}

function tile(name, value, more = "") {
  const made = element("li");
  made.append(element("div", name, "name"), element("div", value, "value"), element("div", more, "more"));
  return made;
}

function showStatus(status, summary) {
  document.title = `${status.hostname} · Angarium`;
  $("hostname").textContent = status.hostname;
  $("about").textContent = `version ${status.version} · up ${duration(status.uptime_s)}`;
  $("sandbox-mark").hidden = !status.sandbox;
  const pill = $("accepting");
  pill.textContent = status.accepting ? "accepting mail" : "not accepting mail";
  pill.className = `pill ${status.accepting ? "good" : "bad"}`;
  trouble(status.reasons.join("\n"));

  const now = performance.now();
  const totals = status.totals;
  const rate = (key) => {
    if (!previous || totals[key] < previous.totals[key]) return "";
    const perSecond = (totals[key] - previous.totals[key]) / ((now - previous.at) / 1000);
    return `${perSecond < 10 ? perSecond.toFixed(1) : number(Math.round(perSecond))}/s`;
  };
  $("tiles").replaceChildren(
    tile("Accepted", number(totals.accepted_messages), rate("accepted_messages")),
    tile("Delivered", number(totals.delivered_recipients), rate("delivered_recipients")),
    tile("Deferred", number(totals.deferred_recipients), rate("deferred_recipients")),
    tile("Failed", number(totals.failed_recipients + totals.expired_recipients), `${number(totals.expired_recipients)} expired`),
    tile("Rejected", number(totals.rejections), rate("rejections")),
    tile("Queued", summary ? number(summary.messages) : "?",
      summary?.oldest_s != null ? `oldest ${duration(summary.oldest_s)}` : ""),
    tile("Connections", number(totals.open_connections), `${number(totals.delivery_open_connections)} to next hops`),
  );
  previous = { totals, at: now };

  $("workers").replaceChildren(...status.workers.map((worker) => {
    const said = worker.status;
    const state = !worker.answering ? `does not answer: ${worker.error}`
      : said.accepting ? "accepting mail" : `not accepting: ${said.reason}`;
    return row([
      String(worker.worker),
      element("span", state, `state ${said?.accepting ? "up" : "down"}`),
      said ? String(said.pid) : "",
      said ? said.shards.join(", ") : "",
      said ? duration(said.uptime_s) : "",
    ], ["", "", "number", "", "number"]);
  }));
}

function showQueue(summary, messages) {
  $("queue-count").textContent = `${counted(summary.messages, "message")}, ${counted(summary.recipients, "recipient")}, ${size(summary.octets)}`
    + (summary.messages > messages.length && messages.length ? ` · the oldest ${messages.length} are shown` : "");
  $("states").replaceChildren(...Object.entries(summary.by_state).map(
    ([state, count]) => element("span", `${state.replace("_", " ")} ${number(count)}`, state)));
  $("queue-empty").hidden = messages.length > 0;
  $("queued").replaceChildren(...messages.map((message) => {
    const shown = message.recipients.slice(0, 3).map((r) => `${r.address} (${r.state})`);
    if (message.recipients.length > 3) shown.push(`and ${message.recipients.length - 3} more`);
    const reply = message.recipients.map((r) => r.reply).find((text) => text) ?? "";
    const link = element("a", message.id);
    link.href = `#message=${message.id}`;
    return row([
      link,
      element("span", message.state.replace("_", " "), `state ${message.state}`),
      message.reverse_path || "<>",
      shown.join(", "),
      reply,
      size(message.octets),
      moment(message.received),
    ], ["nowrap", "nowrap", "", "", "", "number", "nowrap"]);
  }));
}

function showArrived(listing) {
  $("sandbox-count").textContent = number(listing.total);
  $("sandbox-empty").hidden = listing.total > 0;
  const focused = document.activeElement?.dataset?.message;
  $("arrived").replaceChildren(...listing.messages.map((message) => {
    const made = row(
      [message.from, message.to, message.subject || "(no subject)", size(message.octets), moment(message.received)],
      ["", "", "", "number", "nowrap"]);
    made.classList.add("choice");
    made.classList.toggle("chosen", message.id === chosen);
    made.dataset.message = message.id;
    made.tabIndex = 0;
    return made;
  }));
  if (focused) document.querySelector(`tr[data-message="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

async function openMessage(id) {
  chosen = id;
  for (const made of $("arrived").children) made.classList.toggle("chosen", made.dataset.message === id);
  let message;
  try {
    message = await ask(`/api/v1/sandbox/messages/${encodeURIComponent(id)}`);
  } catch (error) {
    report(error);
    return;
  }
  if (chosen !== id) return;  // another one was opened meanwhile
  $("viewer").hidden = false;
  $("viewer-subject").textContent = message.subject || "(no subject)";
  const facts = [["From", message.from], ["To", message.to], ["Date", message.date], ["Size", size(message.octets)]];
  if (message.attachments.length) {
    facts.push(["Parts", message.attachments.map((a) => `${a.filename || a.content_type} (${size(a.octets)})`).join(", ")]);
  }
  $("viewer-facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));

  const views = [];
  if (message.text !== null) views.push(["Text", () => element("pre", message.text)]);
  if (message.html !== null) views.push(["HTML", () => showHtml(message.html)]);
  views.push(["Header", () => element("pre", message.header.map(([name, value]) => `${name}: ${value}`).join("\n"))]);
  views.push(["Raw", () => element("pre", message.raw + (message.cut ? "\n… (cut)" : ""))]);
  if (!views.some(([name]) => name === view)) view = views[0][0];
  const buttons = views.map(([name, make]) => {
    const button = element("button", name);
    button.type = "button";
    button.addEventListener("click", () => {
      view = name;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      $("viewer-body").replaceChildren(make());
    });
    return button;
  });
  $("viewer-tabs").replaceChildren(...buttons);
  buttons[views.findIndex(([name]) => name === view)].click();
}

function showHtml(html) {
  // An empty sandbox attribute: no script, no form, no origin, no navigation of this page. The policy inside, next to the
  // one inherited from this page, keeps the mail from loading anything from the network.
  const frame = element("iframe");
  frame.setAttribute("sandbox", "");
  frame.setAttribute("referrerpolicy", "no-referrer");
  frame.title = "The message as HTML";
  frame.srcdoc = '<!doctype html><meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    + 'style-src \'unsafe-inline\'; img-src data:"><meta name="color-scheme" content="light">' + html;
  return frame;
}

// A link from a board leads to one message: /#message=ID. Its story is put together from files, so it is asked for when
// the link is followed, and then again only while the message is queued.
function linkedId() {
  const given = /^#message=(.+)$/.exec(location.hash)?.[1];
  try {
    return given === undefined ? "" : decodeURIComponent(given).trim().toUpperCase();
  } catch {
    return given;  // not well encoded: it is shown as it is
  }
}

async function showLinked() {
  const id = linkedId();
  $("linked").hidden = !id;
  if (id !== linked.id) {
    linked = { id, due: 0 };
    showStory(null, "Looking it up …");
  }
  if (!id || performance.now() < linked.due) return;
  linked.due = Infinity;
  const asked = linked;
  $("linked-id").textContent = id;
  if (!/^[0-9A-Z]{13}$/.test(id)) {
    showStory(null, `“${id}” is no queue id: these have 13 letters and digits.`);
    return;
  }
  try {
    const story = await ask(`/api/v1/messages/${id}/trace?or_null=true`);
    if (linked !== asked) return;  // another one was asked for meanwhile
    showStory(story, story ? "" : `Nothing is known of ${id} here: it is not in the queue, nor in the event log of this node. `
      + "It never came in here, or so long ago that the log does not go back to it.");
    if (story && !OVER.includes(story.state)) linked.due = performance.now() + STORY_MS;
  } catch (error) {
    if (linked !== asked) return;
    linked.due = performance.now() + STORY_MS;
    if (error instanceof NeedsToken) throw error;
    showStory(null, `Its story cannot be told now: ${error.message}`);
  }
}

function showStory(story, note) {
  $("linked-note").textContent = note;
  $("linked-note").hidden = !note;
  if (!story) {
    for (const name of ["facts", "steps", "remarks"]) $(`linked-${name}`).replaceChildren();
    return;
  }
  const facts = [["State", element("span", story.state.replace("_", " "), `state ${story.state}`)]];
  facts.push(["From", story.reverse_path === null ? "not known" : story.reverse_path || "<>"]);
  for (const one of story.recipients) facts.push(["To", `${one.recipient} (${one.result}) ${one.reply ?? ""}`]);
  if (story.accepted) facts.push(["Accepted", moment(story.accepted)]);
  if (story.seconds !== null) facts.push([OVER.includes(story.state) ? "Took" : "Age", span(story.seconds)]);
  const waits = Object.entries(story.waited_s).map(([cause, seconds]) => `${cause} ${span(seconds)}`);
  if (waits.length) facts.push(["Waited", waits.join(", ")]);
  if (story.waits_for) {
    facts.push(["Waits for", story.waits_for.text + (story.waits_for.until ? `, until ${moment(story.waits_for.until)}` : "")]);
  }
  $("linked-facts").replaceChildren(...facts.flatMap(([name, value]) => {
    const shown = element("dd");
    shown.append(value);
    return [element("dt", name), shown];
  }));
  const open = new Set([...$("linked-steps").querySelectorAll("details[open]")].map((one) => one.dataset.key));
  $("linked-steps").replaceChildren(...story.steps.map((step) => stepOf(step, open)));
  $("linked-remarks").replaceChildren(...story.remarks.map((remark) => element("li", remark)));
}

function stepOf(step, open) {
  const made = element("li", undefined, `step ${step.kind}`);
  made.append(element("time", moment(step.time)), element("span", step.text));
  made.firstChild.dateTime = made.firstChild.title = step.time;
  if (step.seconds !== null) made.append(element("span", span(step.seconds), "quiet"));
  for (const one of step.results) {
    made.append(element("div", `${one.recipient} ${one.result}${one.reply ? `: ${one.reply}` : ""}`, "said"));
  }
  step.dialogues.forEach((dialogue, i) => {
    const details = element("details");
    details.dataset.key = `${step.time} ${i}`;
    details.open = open.has(details.dataset.key);
    const tls = dialogue.tls ? `, ${dialogue.tls.version}` : "";
    details.append(element("summary", `what was said with ${dialogue.host}${tls}`), element("pre", dialogue.lines.map(
      (line) => `${line.at_s === null ? "" : line.at_s.toFixed(3)}`.padStart(8) + ` ${line.who}: ${line.text}`).join("\n")));
    made.append(details);
  });
  return made;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

function report(error) {
  if (error instanceof NeedsToken) {
    $("token-form").hidden = false;
    $("main").hidden = true;
    $("accepting").textContent = "token needed";
    trouble(token ? "That token was refused." : "");
    return;
  }
  trouble(error instanceof TypeError || error.name === "TimeoutError" ? "The relay cannot be reached." : error.message);
}

async function refresh() {
  const status = await ask("/api/v1/status");
  const [summary, messages, arrived] = await Promise.allSettled([
    ask("/api/v1/queue/summary"),
    ask(`/api/v1/queue?limit=${QUEUE_ROWS}`),
    status.sandbox ? ask(`/api/v1/sandbox/messages?limit=${ARRIVED_ROWS}`) : Promise.resolve(null),
  ]);
  $("token-form").hidden = true;
  $("main").hidden = false;
  $("sandbox").hidden = !status.sandbox;
  showStatus(status, summary.value ?? null);
  if (summary.value && messages.value) showQueue(summary.value, messages.value);
  if (arrived.value) showArrived(arrived.value);
  await showLinked();
  const failed = [summary, messages, arrived].find((part) => part.status === "rejected");
  if (failed) throw failed.reason;
}

async function poll() {
  if (!document.hidden && ($("token-form").hidden || token)) {
    try {
      await refresh();
    } catch (error) {
      if (!(error instanceof NeedsToken) && previous === null) $("accepting").textContent = "no answer";
      report(error);
      if (error instanceof NeedsToken) forgetToken();
    }
  }
  setTimeout(poll, POLL_MS);
}

function forgetToken() {
  token = "";
  sessionStorage.removeItem("angarium-token");
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem("angarium-token", token);
  $("token").value = "";
  refresh().catch((error) => {
    report(error);
    if (error instanceof NeedsToken) forgetToken();
  });
});

function choose(event) {
  const id = event.target.closest("tr")?.dataset.message;
  if (id) openMessage(id);
}
$("arrived").addEventListener("click", choose);
$("arrived").addEventListener("keydown", (event) => { if (event.key === "Enter") choose(event); });

addEventListener("hashchange", () => {
  showLinked().catch(report);
  $("linked").scrollIntoView({ block: "nearest" });
});

poll();
