"use strict";
// What pages do in the browser: links, choices and zooms become addresses; the server answers addresses.
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const remember = (theme) => { try { localStorage.setItem("iretrace-theme", theme); } catch { /* refused */ } };
  const recall = () => { try { return localStorage.getItem("iretrace-theme"); } catch { return null; } };
  const recalled = recall();
  if (recalled === "light" || recalled === "dark") root.dataset.theme = recalled;

  function go(href) {
    const there = new URL(href, location.href);
    if (there.origin !== location.origin) return;
    const same = there.pathname === location.pathname;
    if (there.pathname === location.pathname && there.search === location.search && !there.hash) return;
    history.pushState({}, "", there.pathname + there.search + there.hash);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    if (!same) window.scrollTo(0, 0);
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("#theme")) {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      label();
      return;
    }
    const link = event.target.closest("a[href^='/']");
    if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(link.getAttribute("href"));
  });

  // A choice replaces its own part of the address and leaves the rest, but for what it makes meaningless.
  document.addEventListener("change", (event) => {
    const choice = event.target.closest("select[name]");
    if (!choice) return;
    const there = new URL(location.href);
    there.hash = "";
    for (const name of (choice.dataset.drops || "").split(" ")) if (name) there.searchParams.delete(name);
    if (choice.value) there.searchParams.set(choice.name, choice.value);
    else there.searchParams.delete(choice.name);
    go(there.href);
  });

  // Plus, minus and the arrows do what the timeline's buttons say.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, .scroll")) return;
    const button = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (!button) return;
    event.preventDefault();
    button.click();
  });

  // A stretch chosen on the timeline, in TSC cycles: they may be too many for a double.
  function zoomed(plot, range) {
    const place = plot.closest("[data-at]");
    if (!place) return;
    const per = Number(place.dataset.cyclesPer);
    const at = BigInt(place.dataset.at);
    const [from, to] = range.map((x) => BigInt(Math.round(Number(x) * per)));
    const there = new URL(location.href);
    there.searchParams.set("at", String(at + from));
    there.searchParams.set("span", String(to - from));
    go(there.href);
  }

  function attend(plot) {
    if (plot.dataset.attended) return;
    plot.dataset.attended = "yes";
    plot.on("plotly_relayout", (change) => {
      if ("xaxis.range[0]" in change) zoomed(plot, [change["xaxis.range[0]"], change["xaxis.range[1]"]]);
      else if ("xaxis.range" in change) zoomed(plot, change["xaxis.range"]);
      else if (change["xaxis.autorange"]) document.querySelector("[data-key='-']")?.click();
    });
    plot.on("plotly_click", (event) => {
      const href = event.points?.[0]?.customdata;
      if (typeof href === "string" && href.startsWith("/")) go(href);
    });
  }

  function label() {
    const button = document.getElementById("theme");
    if (!button) return;
    button.textContent = isDark() ? "Light theme" : "Dark theme";
    button.setAttribute("aria-pressed", String(isDark()));
  }
  dark.addEventListener("change", label);

  // Tables come as HTML, escaped where it was made.
  const filled = new WeakMap();
  function fill() {
    for (const place of document.querySelectorAll("[data-html]")) {
      if (filled.get(place) === place.dataset.html) continue;
      filled.set(place, place.dataset.html);
      place.innerHTML = place.dataset.html;
    }
  }

  const watch = new MutationObserver(() => {
    fill();
    for (const plot of document.querySelectorAll(".js-plotly-plot")) if (plot.on) attend(plot);
    const title = document.querySelector("[data-title]")?.dataset.title;
    if (title && document.title !== title) document.title = title;
    const button = document.getElementById("theme");
    if (button && !button.hasAttribute("aria-pressed")) label();
  });
  watch.observe(root, { childList: true, subtree: true, attributes: true, attributeFilter: ["class", "data-title", "data-html"] });
})();
