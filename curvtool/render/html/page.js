
(() => {
  "use strict";
  const root = document.documentElement;
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const plots = [];

  // Theme: the system's, until the reader chooses.
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const setTheme = (dark) => {
    root.dataset.theme = dark ? "dark" : "light";
    plots.forEach((plot) => plot.redraw(false));
  };
  setTheme(prefersDark.matches);
  prefersDark.addEventListener("change", (event) => setTheme(event.matches));
  document.getElementById("theme").addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));

  document.getElementById("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = "data:application/json;charset=utf-8," + encodeURIComponent(document.getElementById("data").textContent);
    link.download = "report.json";
    link.click();
  });

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const text = (value) => {
    if (value === null || value === undefined) return "none";
    const size = Math.abs(value);
    const rounded = Number(value.toPrecision(5));
    return size !== 0 && (size >= 1e6 || size < 1e-3) ? rounded.toExponential() : String(rounded);
  };
  const clipped = (name) => (name.length > 14 ? "…" + name.slice(-13) : name);

  // One row of x for all series, as uPlot wants it: values stand at their own x, and are missing elsewhere.
  const joined = (chart) => {
    const xs = [...new Set(chart.series.flatMap((series) => series.x))].sort((a, b) => a - b);
    const at = new Map(xs.map((x, i) => [x, i]));
    const columns = [xs];
    chart.series.forEach((series) => {
      const rows = [series.y, series.low, series.high].map((values) => {
        const row = new Array(xs.length).fill(series.mark === "line" ? undefined : null);
        if (values) series.x.forEach((x, i) => { row[at.get(x)] = values[i]; });
        return row;
      });
      columns.push(...rows);
    });
    return columns;
  };

  const errorBars = (chart) => (plot) => {
    const { ctx } = plot;
    ctx.save();
    chart.series.forEach((series, place) => {
      if (series.mark === "line" || !series.low) return;
      ctx.strokeStyle = series.mark === "bars" ? colour("--text") : colour(`--series-${place % 6}`);
      ctx.lineWidth = 1.5 * devicePixelRatio;
      series.x.forEach((x, i) => {
        const left = plot.valToPos(x, "x", true);
        const low = plot.valToPos(series.low[i], "y", true);
        const high = plot.valToPos(series.high[i], "y", true);
        if (![left, low, high].every(Number.isFinite) || left < plot.bbox.left) return;
        if (left > plot.bbox.left + plot.bbox.width) return;
        const cap = 4 * devicePixelRatio;
        ctx.beginPath();
        ctx.moveTo(left, low);
        ctx.lineTo(left, high);
        [low, high].forEach((end) => { ctx.moveTo(left - cap, end); ctx.lineTo(left + cap, end); });
        ctx.stroke();
      });
    });
    ctx.restore();
  };

  const decades = (plot, splits) => splits.map((v) => (Math.abs(Math.log10(v) % 1) < 1e-6 ? v : null));

  const options = (chart, width) => {
    const axis = { stroke: () => colour("--text"), grid: { stroke: () => colour("--line"), width: 1 } };
    axis.ticks = { stroke: () => colour("--line") };
    const named = chart.names.length > 0;
    const x = { ...axis, label: chart.x_label, labelSize: 24 };
    if (named) {
      const long = chart.names.some((name) => name.length > 4) && chart.names.length > 3;
      x.splits = (plot, place, low, high) => {
        const step = Math.ceil((high - low) / Math.max(4, plot.width / 34));
        const shown = [];
        for (let i = Math.max(0, Math.ceil(low)); i <= Math.min(high, chart.names.length - 1); i += step) shown.push(i);
        return shown;
      };
      x.values = (plot, splits) => splits.map((i) => clipped(chart.names[i] || ""));
      if (long) Object.assign(x, { rotate: -50, size: 100 });
    }
    const space = (plot, low, high) => {
      const bars = chart.series.find((series) => series.mark === "bars");
      const half = named ? 0.6 : bars && bars.x.length > 1 ? 0.6 * (bars.x[1] - bars.x[0]) : 0.02 * (high - low || 1);
      return [low - half, high + half];
    };
    const hasBars = chart.series.some((series) => series.mark === "bars");
    const result = {
      width, height: width < 500 ? 280 : 360,
      scales: {
        x: { time: false, distr: chart.log_x ? 3 : 1, range: chart.log_x ? undefined : space },
        y: { distr: chart.log_y ? 3 : 1 },
      },
      axes: [x, { ...axis, label: chart.y_label, labelSize: 24, size: 64, filter: chart.log_y ? decades : undefined,
                  grid: chart.log_y ? { ...axis.grid, filter: decades } : axis.grid,
                  ticks: chart.log_y ? { ...axis.ticks, filter: decades } : axis.ticks,
                  values: (plot, splits) => splits.map((v) => (v === null ? "" : text(v))) }],
      series: [{}],
      bands: [],
      cursor: { drag: { x: true, y: false, uni: 10 }, focus: { prox: 30 } },
      hooks: { draw: [errorBars(chart)], setCursor: [] },
      legend: { show: false },
    };
    if (hasBars && !chart.log_y) {
      result.scales.y.range = (plot, low, high) => {
        const bottom = Math.min(0, low), top = Math.max(0, high), spare = 0.06 * (top - bottom || 1);
        return [bottom < 0 ? bottom - spare : 0, top > 0 ? top + spare : 0];
      };
    }
    chart.series.forEach((series, place) => {
      const stroke = () => colour(`--series-${place % 6}`);
      const main = { label: series.name, stroke, width: 2, spanGaps: false };
      if (series.mark === "points") {
        main.paths = () => null;
        main.points = { show: true, size: 9, fill: stroke };
      } else if (series.mark === "bars") {
        main.paths = uPlot.paths.bars({ size: [0.85, 60] });
        main.fill = stroke;
        main.points = { show: false };
      } else {
        main.points = { show: series.x.length <= 30 };
        if (place > 0) main.dash = [8, 5];
      }
      const edge = { stroke: "transparent", width: 0, points: { show: false }, paths: series.mark === "line" ? undefined : () => null };
      result.series.push(main, { ...edge }, { ...edge });
      const first = 1 + 3 * place;
      if (series.mark === "line" && series.low) {
        result.bands.push({ series: [first + 2, first + 1], fill: () => colour(`--series-${place % 6}`) + "44" });
      }
    });
    return result;
  };

  const reading = (chart, plot, index) => {
    if (index === null || index === undefined) return "";
    const x = plot.data[0][index];
    const where = chart.names.length ? chart.names[Math.round(x)] || text(x) : `${chart.x_label} ${text(x)}`;
    const told = chart.series.map((series, place) => {
      const [y, low, high] = [0, 1, 2].map((part) => plot.data[1 + 3 * place + part][index]);
      if (y === null || y === undefined) return null;
      const between = low === null || low === undefined ? "" : ` (${text(low)} to ${text(high)})`;
      return `${series.name} ${text(y)}${between}`;
    });
    return [where, ...told.filter(Boolean)].join(": ").replace(/: (?=[^:]*:)/g, "; ").replace("; ", ": ");
  };

  document.querySelectorAll(".chart").forEach((element) => {
    const chart = charts[Number(element.dataset.chart)];
    const line = element.parentElement.querySelector(".reading");
    const width = () => Math.max(240, element.clientWidth);
    const data = joined(chart);
    const plotOptions = options(chart, width());
    plotOptions.hooks.setCursor.push((plot) => { line.textContent = reading(chart, plot, plot.cursor.idx); });
    const plot = new uPlot(plotOptions, data, element);
    plots.push(plot);
    let before = width();
    new ResizeObserver(() => {
      if (width() !== before) { before = width(); plot.setSize({ width: before, height: before < 500 ? 280 : 360 }); }
    }).observe(element);
    const move = (step) => {
      const last = data[0].length - 1;
      const isShown = (i) => chart.series.some((_, place) => (data[1 + 3 * place][i] ?? null) !== null);
      let index = (plot.cursor.idx ?? (step > 0 ? -1 : last + 1)) + step;
      while (index >= 0 && index <= last && !isShown(index)) index += step;
      index = Math.min(last, Math.max(0, index));
      plot.setCursor({ left: plot.valToPos(data[0][index], "x"), top: 10 });
    };
    const zoom = (factor) => {
      const { min, max } = plot.scales.x;
      const middle = plot.cursor.idx === null || plot.cursor.idx === undefined ? (min + max) / 2 : data[0][plot.cursor.idx];
      plot.setScale("x", { min: middle - (middle - min) * factor, max: middle + (max - middle) * factor });
    };
    const keys = {
      ArrowRight: () => move(1), ArrowLeft: () => move(-1), "+": () => zoom(0.5), "-": () => zoom(2),
      0: () => plot.setData(data, true),
    };
    element.addEventListener("keydown", (event) => {
      if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
    });
  });

  // Tables: a click on a column's name sorts by it; another one turns it round.
  document.querySelectorAll("table").forEach((table) => {
    const headers = [...table.querySelectorAll("th")];
    headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
      const turn = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headers.forEach((each) => each.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", turn === 1 ? "ascending" : "descending");
      const key = (row) => row.children[column].dataset.value;
      const compare = (a, b) => {
        const [left, right] = [key(a), key(b)];
        if (left === "" || right === "") return (left === "") - (right === "");
        const numbers = [Number(left), Number(right)];
        return turn * (numbers.every((n) => !Number.isNaN(n)) ? numbers[0] - numbers[1] : left.localeCompare(right));
      };
      const body = table.querySelector("tbody");
      [...body.children].sort(compare).forEach((row) => body.append(row));
    }));
  });
})();
