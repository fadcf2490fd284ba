"use strict";
// What the other scripts share: packed data, the theme, the library for figures. No innerHTML anywhere: ids are text.
const page = {
  byId: (id) => document.getElementById(id),

  make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null && child !== ""));
    return element;
  },

  bytes(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
    return bytes;
  },

  async unpack(id) {
    const element = page.byId(id);
    const stream = new Blob([page.bytes(element.textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
    element.textContent = "";
    return new Response(stream).text();
  },

  once(make) {
    let made;
    return () => (made ??= make());
  },

  dark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },

  colour: (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim(),

  // plotly reads a little HTML in its texts; ids and names are no HTML.
  plain: (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"),

  // Beside a figure there is no room for more: the start and the end, by which names mostly differ.
  brief(text, most = 26) {
    const letters = [...String(text)];
    const end = Math.floor(most / 3);
    return page.plain(letters.length <= most ? text : `${letters.slice(0, most - end - 1).join("")}…${letters.slice(-end).join("")}`);
  },

  series() {
    return page.dark()
      ? ["#5cb8e4", "#ff8a98", "#7fcf8a", "#f2a65a", "#b7a0f0", "#5fd0cf", "#ee8ec5", "#d6c552", "#9db2ee", "#d99a74"]
      : ["#0b6e99", "#c93a4e", "#2f7a3b", "#b8601a", "#6b4fa0", "#178080", "#a23e7a", "#75660e", "#4560a8", "#8a4b2a"];
  },
};

page.data = page.once(async () => JSON.parse(await page.unpack("data")));
page.plotly = page.once(async () => {
  const script = document.createElement("script");
  script.textContent = await page.unpack("plotly");
  document.head.append(script);
  return window.Plotly;
});

(() => {
  const root = document.documentElement;
  const changed = () => dispatchEvent(new Event("theme"));
  try {
    const kept = localStorage.getItem("recokit-theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch { /* a page from a disk may have no storage */ }
  page.byId("theme").addEventListener("click", () => {
    root.dataset.theme = page.dark() ? "light" : "dark";
    try { localStorage.setItem("recokit-theme", root.dataset.theme); } catch { /* as above */ }
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);

  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    changed();
    for (const details of document.querySelectorAll("details:not(.list)")) details.open = true;
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    changed();
  });

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const [id, link] of links) {
        if (id !== entry.target.id) link.removeAttribute("aria-current");
        else {
          link.setAttribute("aria-current", "true");
          const list = link.closest("ul");
          list.scrollLeft = link.offsetLeft - (list.clientWidth - link.offsetWidth) / 2;
        }
      }
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const id of links.keys()) seen.observe(page.byId(id));
})();
