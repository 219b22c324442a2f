// Keyboard and drafts of the rating page. It presses what is there and keeps what was typed; the page works without it.
"use strict";
(() => {
  const store = (() => { try { return window.localStorage; } catch { return null; } })();
  const holder = document.querySelector("[data-draft]");
  if (!holder) return;
  const keyOf = (item) => `aifeedback/${holder.dataset.draft}/${item}`;
  if (holder.dataset.saved) {
    store?.removeItem(keyOf(holder.dataset.saved));
    history.replaceState(null, "", location.pathname);
  }

  const form = document.querySelector("form.rate");
  if (!form) return;
  const comment = document.getElementById("comment");
  const key = keyOf(form.dataset.item + (form.dataset.revision === "0" ? "" : "+" + form.dataset.revision));

  // ── what cannot both be said: "I cannot tell" takes ranks and values away, and the other way round ──
  const radios = [...form.querySelectorAll("input[type=radio]")];
  const isUnable = (radio) => radio.name === "choice" && radio.value === "cannot_tell";
  form.addEventListener("change", (event) => {
    const changed = event.target;
    if (changed.type !== "radio" || !changed.checked) return;
    for (const radio of radios) {
      const rivals = isUnable(changed) ? !isUnable(radio) : isUnable(radio) && changed.name !== "choice";
      if (rivals && radio.name !== changed.name) radio.checked = false;
    }
  });

  // ── drafts ──
  const keep = () => {
    const entry = { order: form.dataset.order, checked: radios.filter((r) => r.checked).map((r) => [r.name, r.value]), comment: comment?.value ?? "" };
    try { store?.setItem(key, JSON.stringify(entry)); } catch { /* a full store keeps no draft */ }
  };
  form.addEventListener("input", keep);
  form.addEventListener("change", keep);
  if (!("filled" in form.dataset)) {
    let entry = null;
    try { entry = JSON.parse(store?.getItem(key) ?? "null"); } catch { /* not ours */ }
    if (entry && Array.isArray(entry.checked)) {
      const isSameOrder = entry.order === form.dataset.order;
      for (const [name, value] of entry.checked) {
        const radio = radios.find((r) => r.name === name && r.value === value);
        if (radio && (isSameOrder || isUnable(radio) || name === "value")) radio.checked = true;
      }
      if (comment && typeof entry.comment === "string") comment.value = entry.comment;
    }
  }

  // ── what the rater sees: plain or formatted, guidelines open or closed, a prompt that goes on ──
  const plain = document.getElementById("plain");
  if (plain) {
    plain.checked = store?.getItem("aifeedback/plain") === "yes";
    plain.addEventListener("change", () => { store?.setItem("aifeedback/plain", plain.checked ? "yes" : "no"); watch(); });
  }
  const guidelines = document.querySelector("details.guidelines");
  if (guidelines) {
    guidelines.open = store?.getItem("aifeedback/guidelines") !== "closed";
    guidelines.addEventListener("toggle", () => store?.setItem("aifeedback/guidelines", guidelines.open ? "open" : "closed"));
  }
  const scroll = document.querySelector(".scroll");
  const watch = () => scroll.parentElement.classList.toggle("cut", scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight > 4);
  scroll.addEventListener("scroll", watch, { passive: true });
  addEventListener("resize", watch);
  watch();

  // ── keyboard ──
  const press = (name) => document.querySelector(`[data-key="${CSS.escape(name)}"]`)?.click();
  const answers = [...document.querySelectorAll(".answer[data-ranked]")];
  let here = 0;
  const mark = (isSeen) => {
    answers.forEach((answer, place) => answer.classList.toggle("here", place === here));
    if (isSeen) answers[here]?.scrollIntoView({ block: "nearest" });
  };
  const move = (by) => { here = Math.min(Math.max(here + by, 0), answers.length - 1); mark(true); };
  mark(false);
  answers.forEach((answer, place) => answer.addEventListener("change", () => { here = place; mark(false); }));

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.metaKey) return;
    const typing = event.target.matches("textarea");
    if (event.key === "Enter" && (!typing || event.ctrlKey) && !event.target.matches("a, button, summary")) {
      event.preventDefault();
      form.requestSubmit();
    } else if (typing) {
      if (event.key === "Escape") event.target.blur();
    } else if (event.ctrlKey) {
      return;
    } else if (answers.length && /^[1-8]$/.test(event.key)) {
      const radio = answers[here].querySelector(`input[value="${event.key}"]`);
      if (radio) { radio.click(); move(1); }
    } else if (answers.length && (event.key === "ArrowUp" || event.key === "ArrowDown") && !event.target.closest(".scroll, .guidelines")) {
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "c") {
      event.preventDefault();
      comment?.focus();
    } else {
      press(event.key.toLowerCase());
    }
  });

  // ── sending: only once, and only while somebody is there to take it ──
  const unsent = form.querySelector(".unsent");
  let sent = false, isAlive = false;
  form.addEventListener("submit", async (event) => {
    if (isAlive) return;
    event.preventDefault();
    if (sent) return;
    sent = true;
    keep();
    unsent.hidden = true;
    try {
      isAlive = (await fetch("alive", { cache: "no-store" })).ok;
    } catch {
      isAlive = false;
    }
    if (isAlive) {
      form.requestSubmit(event.submitter);
    } else {
      sent = false;
      unsent.hidden = false;
      unsent.scrollIntoView({ block: "nearest" });
    }
  });
  addEventListener("pageshow", () => { sent = isAlive = false; });
})();
