// The map: one set of points a group, so that the legend turns groups on and off; a click opens the entity above.
(() => {
  const place = page.byId("plane");
  if (!place) return;
  const GROUPS = 10; // of their own colour; what is rarer shares one, unless the groups are types
  const symbols = ["circle", "diamond", "square", "triangle-up", "cross", "star"];
  let [shown, chosen] = [0, null];

  function points(map) {
    map.xy ??= Float32Array.from(new Uint16Array(page.bytes(map.points).buffer), (level) => (2 * level) / 0xffff - 1);
    return map.xy;
  }

  function traces(map, tables) {
    const [xy, colours] = [points(map), page.series()];
    const sizes = map.groups.map(() => 0);
    for (const group of map.group) sizes[group] += 1;
    const types = map.group.every((group, at) => map.groups[group] === tables[map.tables[at]].name);
    const order = map.groups.map((_, at) => at).sort((a, b) => sizes[b] - sizes[a] || a - b);
    const named = order.filter((group) => map.groups[group] !== "");
    const kept = types ? named : named.slice(0, GROUPS);
    const rest = order.filter((group) => !kept.includes(group));
    const sets = [...rest.length ? [rest] : [], ...kept.map((group) => [group])];
    return sets.map((groups) => {
      const at = kept.indexOf(groups[0]);
      const mine = map.group.flatMap((group, point) => (groups.includes(group) ? [point] : []));
      const name = at >= 0 ? map.groups[groups[0]] : groups.length === 1 && map.groups[groups[0]] === "" ? "no label" : "others";
      return {
        type: "scatter", mode: "markers", name: `${page.brief(name)} (${mine.length})`,
        x: mine.map((point) => xy[2 * point]), y: mine.map((point) => xy[2 * point + 1]),
        customdata: mine.map((point) => [map.tables[point], map.places[point]]),
        text: mine.map((point) => {
          const [table, row] = [tables[map.tables[point]], map.places[point]];
          const [called, label] = [table.names?.[row], table.labels?.[row]];
          return [called ? `<b>${page.brief(called, 60)}</b>` : null, `${page.plain(table.name)} ${page.brief(table.ids[row], 60)}`, label ? page.brief(label, 60) : null].filter(Boolean).join("<br>");
        }),
        hovertemplate: "%{text}<extra></extra>",
        marker: {
          color: at < 0 ? page.colour("soft") : colours[at % colours.length], size: at < 0 ? 5 : 7, opacity: at < 0 ? 0.35 : 0.8,
          symbol: at < 0 ? "circle" : symbols[Math.floor(at / colours.length) % symbols.length], line: { color: page.colour("raised"), width: 0.5 },
        },
      };
    });
  }

  function ring(map) {
    const point = chosen === null ? -1 : map.tables.findIndex((table, at) => table === chosen.number && map.places[at] === chosen.at);
    const xy = points(map);
    return {
      type: "scatter", mode: "markers", showlegend: false, hoverinfo: "skip",
      x: point < 0 ? [] : [xy[2 * point]], y: point < 0 ? [] : [xy[2 * point + 1]],
      marker: { symbol: "circle-open", size: 20, color: page.colour("ink"), line: { width: 2.5 } },
    };
  }

  async function draw() {
    const [data, Plotly] = await Promise.all([page.data(), page.plotly()]);
    const map = data.maps[shown];
    const small = innerWidth < 640;
    const still = matchMedia("(pointer: coarse)").matches; // there, a finger on the map scrolls the page
    const bare = { visible: false, scaleanchor: undefined };
    const layout = page.layout({
      margin: { l: 4, r: 4, t: 4, b: 4 }, dragmode: still ? false : "pan", hovermode: "closest", uirevision: shown,
      xaxis: { ...bare }, yaxis: { ...bare },
      legend: small
        ? { orientation: "h", y: -0.02, x: 0, itemsizing: "constant", font: { color: page.colour("ink"), size: 11 } }
        : { x: 1, y: 0.95, itemsizing: "constant", font: { color: page.colour("ink") }, bgcolor: "rgba(0,0,0,0)" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: page.colour("soft"), activecolor: page.colour("accent") },
    });
    await Plotly.react(place, [...traces(map, data.tables), ring(map)], layout, {
      responsive: true, scrollZoom: !still, displaylogo: false, displayModeBar: true,
      modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]],
    });
    page.byId("method").textContent = `${map.method[0].toUpperCase()}${map.method.slice(1)}.`;
    if (!place.dataset.listens) {
      place.dataset.listens = "true";
      place.on("plotly_click", ({ points: [point] }) => {
        if (!point.customdata) return;
        const [table, row] = point.customdata;
        location.hash = `#explore/${encodeURIComponent(data.tables[table].name)}/${encodeURIComponent(data.tables[table].ids[row])}`;
      });
    }
    document.documentElement.dataset.map = "drawn";
  }

  for (const button of document.querySelectorAll("#planes button")) {
    button.addEventListener("click", () => {
      shown = Number(button.dataset.plane);
      for (const other of document.querySelectorAll("#planes button")) other.setAttribute("aria-pressed", String(other === button));
      draw();
    });
  }
  addEventListener("theme", () => { if (place.dataset.listens) draw(); });
  addEventListener("entity", ({ detail }) => {
    chosen = detail;
    if (place.dataset.listens) draw();
  });
  // Drawn when it comes near: its points are the most that the page draws.
  const near = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    near.disconnect();
    draw().catch(() => { place.textContent = "The map needs a browser of 2023 or later."; });
  }, { rootMargin: "600px" });
  near.observe(place);
})();
