"use strict";
// Draws the figures in the colours of the reader's theme and redraws them when it changes.
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const config = JSON.parse(document.getElementById("config").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);

  function colours() {
    const probe = document.createElement("span");
    document.body.append(probe);
    const read = (name) => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color;
    };
    const [ink, soft, line, card] = ["--ink", "--soft", "--line", "--card"].map(read);
    probe.remove();
    const axis = (name) => ({
      [`${name}.gridcolor`]: line,
      [`${name}.linecolor`]: soft,
      [`${name}.tickcolor`]: soft,
    });
    return {
      "font.color": ink,
      "hoverlabel.bgcolor": card,
      "hoverlabel.bordercolor": line,
      "hoverlabel.font.color": ink,
      "modebar.bgcolor": "rgba(0,0,0,0)",
      "modebar.color": soft,
      "modebar.activecolor": ink,
      ...axis("xaxis"),
      ...axis("yaxis"),
    };
  }

  const plots = [];

  function paint() {
    const themed = colours();
    for (const plot of plots) Plotly.relayout(plot, themed);
    button.textContent = isDark() ? "Light theme" : "Dark theme";
    button.setAttribute("aria-pressed", String(isDark()));
  }

  async function draw() {
    for (const [id, figure] of Object.entries(figures)) {
      const plot = document.getElementById(id);
      await Plotly.newPlot(plot, figure.data, figure.layout, config);
      plots.push(plot);
    }
    paint();
    root.dataset.drawn = "yes";
  }

  // Storage is refused to some file: pages; the theme is then forgotten, nothing more.
  const remember = (theme) => { try { localStorage.setItem("iretrace-theme", theme); } catch { /* refused */ } };
  const recall = () => { try { return localStorage.getItem("iretrace-theme"); } catch { return null; } };

  const recalled = recall();
  if (recalled === "light" || recalled === "dark") root.dataset.theme = recalled;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    paint();
  });
  dark.addEventListener("change", paint);

  // Paper is light: figures too are printed in its ink, and are the reader's again afterwards.
  let chosen;
  window.addEventListener("beforeprint", () => {
    chosen = root.dataset.theme;
    root.dataset.theme = "light";
    paint();
  });
  window.addEventListener("afterprint", () => {
    if (chosen) root.dataset.theme = chosen;
    else delete root.dataset.theme;
    paint();
  });

  // The contents stand open beside the text where there is room, and fold away above it where there is not.
  const contents = document.querySelector("nav details");
  const wide = window.matchMedia("(min-width: 64rem)");
  const place = () => { contents.open = wide.matches; };
  wide.addEventListener("change", place);
  place();
  contents.addEventListener("click", (event) => {
    if (event.target.closest("a") && !wide.matches) contents.open = false;
  });
  const links = new Map([...contents.querySelectorAll("a")].map((a) => [a.hash.slice(1), a]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const section of document.querySelectorAll("main > section")) watch.observe(section);

  draw();
})();
