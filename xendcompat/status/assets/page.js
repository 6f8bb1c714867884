// What this adds to the pages, which work without it: they are redrawn every two seconds, and a form shows the
// S-expression that its fields make while they are filled in.
"use strict";
(() => {
  const every = 2000;
  const busy = (part) => part.contains(document.activeElement) && document.activeElement !== document.body ||
    (!getSelection().isCollapsed && part.contains(getSelection().anchorNode));

  async function redraw() {
    const from = document.body.dataset.live;
    if (!from || document.hidden) return;
    let page;
    try {
      const answer = await fetch(from, { headers: { Accept: "text/html" }, redirect: "error" });
      if (!answer.ok) throw new Error(answer.statusText);
      page = new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch {
      say("xend does not answer: what is shown may be old");
      return;
    }
    say("");
    for (const part of document.querySelectorAll("[data-part]")) {
      const now = page.querySelector(`[data-part="${part.dataset.part}"]`);
      if (now && !busy(part) && now.innerHTML !== part.innerHTML) {
        part.replaceChildren(...now.childNodes);
      }
    }
  }

  function say(text) {
    const place = document.getElementById("connection");
    if (place && place.textContent !== text) place.textContent = text;
  }

  for (const form of document.querySelectorAll("form[data-preview]")) {
    const shown = form.querySelector("output"), problem = form.querySelector(".problem");
    let timer, asked = 0;
    form.querySelector("[data-plain]")?.remove();
    form.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(async () => {
        const fields = new URLSearchParams(new FormData(form)), n = ++asked;
        fields.delete("seal");
        try {
          const answer = await fetch("/xend/form?" + fields, { headers: { Accept: "text/plain" } });
          const [text, ...why] = (await answer.text()).split("\n");
          if (n !== asked) return;
          shown.textContent = text;
          problem.textContent = why.join(" ");
        } catch { /* the next key tries again */ }
      }, 150);
    });
  }

  (async () => {
    for (;;) {
      await new Promise((done) => setTimeout(done, every));
      await redraw();
    }
  })();
})();
