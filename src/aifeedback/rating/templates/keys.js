// Keyboard for the rating page: it presses what is there, nothing more; the page works without it.
"use strict";
(() => {
  const form = document.querySelector("form.rate");
  if (!form) return;
  const press = (name) => document.querySelector(`[data-key="${name}"]`)?.click();
  const answers = [...document.querySelectorAll(".answer[data-ranked]")];
  let here = 0;
  const mark = () => answers.forEach((answer, place) => answer.classList.toggle("here", place === here));
  const move = (by) => { here = Math.min(Math.max(here + by, 0), answers.length - 1); mark(); };
  mark();
  answers.forEach((answer, place) => answer.addEventListener("change", () => { here = place; mark(); }));

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
    } else if (answers.length && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "c") {
      event.preventDefault();
      document.getElementById("comment")?.focus();
    } else {
      press(event.key.toLowerCase());
    }
  });

  let sent = false;
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  addEventListener("pageshow", () => { sent = false; });
})();
