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

localise(document);
keepFocus();
