// Pages work without this. It writes dates and numbers in the viewer's locale, and keeps the focus where
// it was when a link or a form only changes what the page shows.
"use strict";

const locale = navigator.languages?.length ? navigator.languages : undefined;

function showTime(time) {
  const text = time.getAttribute("datetime");
  const isDay = text.length === 10;
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return;
  // A day is a day everywhere: not the one before it west of Greenwich.
  const day = { dateStyle: "medium", timeZone: "UTC" };
  const moment = { dateStyle: "medium", timeStyle: "short" };
  const written = new Intl.DateTimeFormat(locale, isDay ? day : moment).format(date);
  if (time.hasAttribute("data-relative")) {
    time.title = written;
  } else {
    time.textContent = written;
  }
}

function showMoney(data) {
  const value = Number(data.value);
  const currency = data.dataset.currency;
  if (!Number.isFinite(value) || !currency) return;
  const digits = data.textContent.includes(".") ? 2 : 0;
  const options = data.hasAttribute("data-short") && Math.abs(value) >= 1000
    ? { notation: "compact", minimumSignificantDigits: 3, maximumSignificantDigits: 3 }
    : { minimumFractionDigits: digits, maximumFractionDigits: digits };
  try {
    const format = new Intl.NumberFormat(locale, { style: "currency", currency, ...options });
    data.textContent = format.format(value);
  } catch {
    // A code that the browser does not know stays as the server wrote it.
  }
}

function localise(root) {
  root.querySelectorAll("time[datetime]").forEach(showTime);
  root.querySelectorAll("data[data-currency]").forEach(showMoney);
}

const FOCUS = "dealrank-focus";

function keepFocus() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-keep]");
    if (link?.id) {
      sessionStorage.setItem(FOCUS, JSON.stringify({ id: link.id, y: scrollY, path: location.pathname }));
    }
  });
  document.addEventListener("submit", (event) => {
    const id = event.submitter?.id;
    if (id && event.target.matches("form[data-keep]")) {
      sessionStorage.setItem(FOCUS, JSON.stringify({ id, y: scrollY, path: location.pathname }));
    }
  });
  const kept = sessionStorage.getItem(FOCUS);
  sessionStorage.removeItem(FOCUS);
  if (!kept) return;
  const { id, y, path } = JSON.parse(kept);
  if (path !== location.pathname || location.hash) return;
  document.getElementById(id)?.focus({ preventScroll: true });
  scrollTo({ top: y, behavior: "instant" });
}

// What can be scrolled can be reached by the keyboard.
function reachScrolled() {
  for (const region of document.querySelectorAll(".scroll, .plot")) {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
  }
}

localise(document);
reachScrolled();
keepFocus();

// A job under way: its events move the bar; at its end the page is loaded anew, which then says how it went.
function followJob(panel) {
  const bar = panel.querySelector("progress");
  const text = panel.querySelector("[data-progress]");
  const source = new EventSource(panel.dataset.job);
  source.addEventListener("progress", (event) => {
    const { state, progress } = JSON.parse(event.data);
    const percent = progress.total > 0 ? Math.min(100, Math.floor((100 * progress.done) / progress.total)) : null;
    if (percent === null) bar.removeAttribute("value");
    else bar.value = percent;
    panel.querySelector("[data-state]").textContent = state === "queued" ? "waiting for its turn" : state;
    const phase = progress.phase ?? "starting";
    text.textContent = percent === null ? `${phase} …` : `${phase}: ${percent}%`;
  });
  const end = () => {
    source.close();
    location.reload();
  };
  source.addEventListener("done", end);
  source.addEventListener("failed", end);
  source.addEventListener("error", () => {
    // While it connects again there is nothing to do; when it gives up, the page tells why.
    if (source.readyState === EventSource.CLOSED) end();
  });
}

// A file may be dropped on its field, wherever in the label.
function takeDrops(label) {
  const input = label.querySelector("input[type=file]");
  const mark = (isOver) => label.classList.toggle("over", isOver);
  label.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  label.addEventListener("dragleave", () => mark(false));
  label.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    if (event.dataTransfer.files.length === 0) return;
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

document.querySelectorAll("[data-job]").forEach(followJob);
document.querySelectorAll("[data-drop]").forEach(takeDrops);
