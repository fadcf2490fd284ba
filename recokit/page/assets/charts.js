// Figures: lines with whiskers, and dots with whiskers beside baselines.
(() => {
  const charts = JSON.parse(page.byId("figures").textContent);
  const plots = [...document.querySelectorAll(".plot[data-section]")];

  const axis = (title, more) => ({
    title: { text: page.plain(title), standoff: 8 },
    gridcolor: page.colour("grid"), linecolor: page.colour("line"), zerolinecolor: page.colour("line"),
    fixedrange: true, automargin: true, ...more,
  });

  page.layout = (more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12.5, color: page.colour("soft") },
    margin: { l: 8, r: 12, t: 8, b: 8 },
    hoverlabel: { bgcolor: page.colour("raised"), bordercolor: page.colour("line"), font: { color: page.colour("ink") } },
    ...more,
  });

  // Labels of a logarithmic axis: powers of ten, those with 2 and 5, or even steps, whichever is three to eight of them.
  page.ticks = (low, high) => {
    const decades = Array.from({ length: Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low)) + 1 }, (_, at) => Math.floor(Math.log10(low)) + at);
    const inside = (values) => values.filter((value) => value >= low / 1.001 && value <= high * 1.001);
    const at = (digits, every = 1) => inside(decades.filter((decade) => decade % every === 0).flatMap((decade) => digits.map((digit) => Number(`${digit}e${decade}`))));
    if (!(high > low * 1.0001)) return [low];
    const step = 10 ** Math.floor(Math.log10((high - low) / 3));
    const even = [10, 5, 2, 1].map((factor) => factor * step).map((width) => inside(Array.from({ length: 40 }, (_, number) => Number(((Math.ceil(low / width) + number) * width).toPrecision(8)))));
    const choices = [at([1]), at([1, 2, 5]), at([1], 2), at([1], 3), ...even];
    return choices.find((values) => values.length >= 3 && values.length <= 8) ?? [low, high];
  };

  const whiskers = (series, values, axisName, colour) => {
    if (!series.low.some((end) => end !== null)) return {};
    const error = {
      type: "data", symmetric: false, thickness: 1.6, width: 4, color: colour,
      array: series.high.map((end, at) => (end === null ? 0 : Math.max(0, end - values[at]))),
      arrayminus: series.low.map((end, at) => (end === null ? 0 : Math.max(0, values[at] - end))),
    };
    return { [`error_${axisName}`]: error };
  };

  function lines(chart) {
    const colours = page.series();
    const traces = chart.series.map((series, at) => {
      const colour = colours[at % colours.length];
      const symbol = ["circle", "square", "diamond", "triangle-up", "x"][Math.floor(at / colours.length) % 5];
      return {
        type: "scatter", mode: series.x.length > 40 ? "lines" : "lines+markers", name: page.plain(series.name), x: series.x, y: series.y,
        line: { color: colour, width: 2 }, marker: { color: colour, size: 6, symbol },
        hovertemplate: "%{y:.4~g}<br>%{x:,.4~g}<extra>%{fullData.name}</extra>", ...whiskers(series, series.y, "y", colour),
      };
    });
    const kind = (log, values) => (log && values.length
      ? { type: "log", tickmode: "array", tickformat: "~g", tickvals: page.ticks(Math.min(...values), Math.max(...values)) }
      : { nticks: 6 });
    const all = (...keys) => chart.series.flatMap((series) => keys.flatMap((key) => series[key])).filter((end) => end > 0);
    return [traces, page.layout({
      height: 250, showlegend: false,
      xaxis: axis(chart.x_title, kind(chart.log_x, all("x"))), yaxis: axis(chart.y_title, kind(chart.log_y, all("y", "low", "high"))),
    })];
  }

  function dots(chart) {
    const colours = { this: page.colour("accent"), other: page.series()[3], baseline: page.colour("soft") };
    const traces = chart.series.map((series) => {
      const colour = colours[series.role] ?? colours.other;
      return {
        type: "scatter", mode: "markers", x: series.x, y: series.y.map(page.plain), name: page.plain(series.name),
        marker: { color: series.role === "baseline" ? page.colour("raised") : colour, size: series.role === "this" ? 13 : 10, line: { color: colour, width: 2 } },
        hovertemplate: "%{y}: %{x:.4~g}<extra></extra>", ...whiskers(series, series.x, "x", colour),
      };
    });
    const names = [...new Set(chart.series.flatMap((series) => series.y))];
    const ticks = { tickmode: "array", tickvals: names.map(page.plain), ticktext: names.map((name) => page.brief(name)) };
    return [traces, page.layout({
      height: 60 + 30 * names.length, showlegend: false,
      xaxis: axis("", { nticks: names.some((name) => String(name).length > 14) ? 3 : 5, tickangle: 0 }), yaxis: axis("", { type: "category", autorange: "reversed", ...ticks, tickfont: { color: page.colour("ink") }, gridcolor: "rgba(0,0,0,0)" }),
    })];
  }

  async function draw(plot) {
    const chart = charts[plot.dataset.section][Number(plot.dataset.number)];
    const [traces, layout] = chart.kind === "dots" ? dots(chart) : lines(chart);
    const Plotly = await page.plotly();
    for (const trace of traces) trace.visible = hidden.get(plot)?.has(trace.name) ? "legendonly" : true;
    await Plotly.react(plot, traces, layout, { responsive: true, displayModeBar: false });
    if (chart.kind === "lines" ? traces.length > 1 : chart.series.some((series) => series.x.length > 1)) legend(plot, traces);
    plot.dataset.drawn = "true";
  }

  // Names below the figure, which wrap on any screen; each turns its line off and on.
  const hidden = new Map();
  function legend(plot, traces) {
    const off = hidden.get(plot) ?? hidden.set(plot, new Set()).get(plot);
    const buttons = traces.map((trace, at) => {
      const swatch = page.make("i", { "aria-hidden": "true" });
      swatch.style.background = trace.marker.color;
      swatch.style.border = `2px solid ${trace.marker.line?.color ?? trace.marker.color}`; // hollow where the point is
      const button = page.make("button", { type: "button", "aria-pressed": String(!off.has(trace.name)) }, swatch, charts[plot.dataset.section][plot.dataset.number].series[at].name);
      button.addEventListener("click", () => {
        if (!off.delete(trace.name)) off.add(trace.name);
        draw(plot);
      });
      return button;
    });
    const focused = plot.nextElementSibling ? [...plot.nextElementSibling.children].indexOf(document.activeElement) : -1;
    plot.nextElementSibling?.remove();
    plot.after(page.make("div", { class: "legend" }, ...buttons));
    buttons[focused]?.focus();
  }

  // A figure is drawn when it comes near: a page of many opens as quickly as one of few.
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      draw(target).catch(() => {
        target.textContent = "Figures need a browser of 2023 or later; the tables hold the same numbers.";
      });
    }
  }, { rootMargin: "500px" });
  for (const plot of plots) near.observe(plot);
  addEventListener("theme", () => plots.filter((plot) => plot.dataset.drawn).forEach(draw));
  addEventListener("beforeprint", () => plots.forEach(draw));
})();
