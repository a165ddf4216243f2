// Keeps the page up to date with server-sent events. Everything else works without it.

const news = document.querySelector("#news");
const live = document.querySelector("#live");
let events = null;
let leaving = false;

function tell(text) {
  news.querySelector("p").textContent = text;
  news.hidden = false;
}

function mark(text, on) {
  live.textContent = text;
  live.hidden = false;
  live.classList.toggle("off", !on);
}

function show(session) {
  mark("live", true);
  document.querySelector("#visits").textContent = session.visits;
  document.querySelector("#clients").replaceChildren(...session.clients.map(line));
  if (session.state !== document.body.dataset.state && !leaving) {
    tell("Something has changed in another tab, and this page does not show it yet.");
  }
}

function line(client) {
  const item = document.createElement("li");
  const address = document.createElement("code");
  const what = document.createElement("span");
  address.textContent = client.address;
  what.textContent = client.this ? "this tab" : client.tab ? "another tab" : "kept open by the browser";
  what.className = client.this ? "tag" : "hint";
  item.append(address, what);
  return item;
}

function start() {
  mark("connecting", true);
  events = new EventSource("/live");
  events.addEventListener("session", (event) => show(JSON.parse(event.data)));
  events.addEventListener("gone", () => {
    stop("ended");
    document.querySelector("#clients").replaceChildren();
    tell("This session has ended: it was signed out elsewhere, or its time was over.");
  });
  events.addEventListener("paused", (event) => {
    stop("paused");
    live.title = `${JSON.parse(event.data).most} other tabs are watching; this one goes on when it is looked at again`;
  });
  events.addEventListener("error", () => mark("reconnecting", false));
}

function stop(text) {
  events.close();
  mark(text, false);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && live.textContent === "paused") start();
});
// The form that is being sent changes the session; the page that shows it is on its way.
addEventListener("submit", () => { leaving = true; });
start();
