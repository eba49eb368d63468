// What the page of `uslub compare` does with its data: three tables, three charts.
// Relies on vegaEmbed and Tabulator, which stand above it in the page.

const data = JSON.parse(document.getElementById("data").textContent);

const NAMES = {
  memory_bytes: "memory", peak_memory_bytes: "peak memory", live_bytes: "live bytes",
  list_lock: "list lock", double_cas: "double CAS", cpu_slabs: "CPU slabs",
  remote_frees: "remote frees", line_transfers: "line transfers",
  slab_bytes: "slab size", slot_bytes: "slot", object_bytes: "object", seconds: "replay s",
};
const words = (name) => NAMES[name] ?? name.replaceAll("_", " ");
const isBytes = (name) => name.endsWith("_bytes");
const isFraction = (name) => name.endsWith("fragmentation");
const sign = (value) => (value > 0 ? "+" : "");

function objects(table) {
  return table.rows.map((row) => Object.fromEntries(table.columns.map((name, i) => [name, row[i]])));
}

function bytes(value) {
  const size = Math.abs(value);
  if (size < 1024) return `${value} B`;
  return size < 1 << 20 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / (1 << 20)).toFixed(2)} MiB`;
}

function number(name, value) {
  if (value === null || value === undefined) return data.parameters.includes(name) ? "default" : "unknown";
  if (typeof value !== "number") return String(value);
  if (isBytes(name)) return bytes(value);
  if (isFraction(name)) return `${(100 * value).toFixed(1)} %`;
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toPrecision(4);
}

// Text from a trace goes into the page as text, never as HTML.
function text(value, className) {
  const span = document.createElement("span");
  span.textContent = value;
  if (className) span.className = className;
  return span;
}

// "kmalloc" anywhere in text; ">100", "<=5", "=0" or a bare number for numbers.
function accepts(wanted, value) {
  const match = /^\s*(>=|<=|>|<|=)?\s*(-?[\d.]+)\s*([kmg]?)i?b?\s*$/i.exec(wanted);
  if (typeof value !== "number") return String(value ?? "").toLowerCase().includes(wanted.toLowerCase());
  if (!match) return true;
  const scale = { "": 1, k: 1024, m: 1 << 20, g: 1 << 30 }[match[3].toLowerCase()];
  const limit = Number(match[2]) * scale;
  switch (match[1]) {
    case ">": return value > limit;
    case "<": return value < limit;
    case ">=": return value >= limit;
    case "<=": return value <= limit;
    default: return value === limit;
  }
}

function column(name, rows, more) {
  const numeric = rows.some((row) => typeof row[name] === "number");
  return {
    title: words(name), field: name, hozAlign: numeric ? "right" : "left",
    sorter: numeric ? "number" : "string", sorterParams: { alignEmptyValues: "bottom" },
    headerSortStartingDir: numeric ? "desc" : "asc",
    formatter: (cell) => text(number(name, cell.getValue())), ...more,
  };
}

function pointsTable() {
  const rows = objects(data.points);
  const base = rows.find((row) => row.point === data.base);
  const columns = data.points.columns.map((name) => column(name, rows, {
    frozen: name === "point",
    formatter: (cell) => {
      const value = cell.getValue();
      const box = text(number(name, value));
      const was = base[name];
      if (typeof value === "number" && typeof was === "number" && was !== 0 && cell.getRow().getData() !== base
          && cell.getRow().getData().point !== base.point && name !== "seconds" && !isFraction(name)) {
        const change = 100 * (value - was) / was;
        box.append(" ", text(`${sign(change)}${change.toFixed(1)}%`, "change"));
      }
      return box;
    },
  }));
  return new Tabulator("#points", { data: rows, columns, layout: "fitDataFill" });
}

function cachesTable() {
  const rows = objects(data.caches);
  const filter = { headerFilter: "input", headerFilterFunc: accepts };
  const columns = data.caches.columns.map((name) =>
    column(name, rows, { frozen: name === "cache", minWidth: 90, ...filter }));
  const table = new Tabulator("#caches", {
    data: rows, columns, height: 520, layout: "fitDataFill",
    initialSort: [{ column: "memory_bytes", dir: "desc" }], placeholder: "no cache matches",
  });
  const say = (count) => {
    document.getElementById("count").textContent = `${count} of ${rows.length} rows.`;
  };
  say(rows.length);
  table.on("dataFiltered", (filters, found) => say(found.length));
  return table;
}

// One row per cache, one column per point, for the figure that was chosen.
function acrossTable() {
  const rows = objects(data.caches);
  const points = objects(data.points).map((row) => row.point);
  const numeric = data.caches.columns.filter((name) => rows.some((row) => typeof row[name] === "number"));
  const select = document.getElementById("figure");
  const only = document.getElementById("differences");
  for (const name of numeric) select.add(new Option(words(name), name));
  select.value = "memory_bytes";
  let table = null;

  function pivot(name) {
    const found = new Map();
    for (const row of rows) {
      if (!found.has(row.cache)) found.set(row.cache, { cache: row.cache });
      found.get(row.cache)[`p${points.indexOf(row.point)}`] = row[name];
    }
    const all = [...found.values()].map((row) => {
      const values = points.map((_, i) => row[`p${i}`]).filter((value) => typeof value === "number");
      return { ...row, spread: values.length ? Math.max(...values) - Math.min(...values) : null };
    });
    return only.checked ? all.filter((row) => row.spread) : all;
  }

  function show() {
    const name = select.value;
    const filled = pivot(name);
    const filter = { headerFilter: "input", headerFilterFunc: accepts };
    const figures = (field, title) => ({
      ...column(field, filled), title, formatter: (cell) => text(number(name, cell.getValue())),
    });
    const columns = [
      { ...column("cache", filled, filter), frozen: true },
      ...points.map((point, i) => figures(`p${i}`, point)),
      { ...figures("spread", "largest difference"), ...filter },
    ];
    if (table) table.destroy();
    table = new Tabulator("#across", {
      data: filled, columns, height: 420, layout: "fitDataFill",
      initialSort: [{ column: "spread", dir: "desc" }], placeholder: "no cache differs",
    });
  }
  select.addEventListener("change", show);
  only.addEventListener("change", show);
  show();
}

function flat(record, prefix = "") {
  return Object.entries(record).flatMap(([name, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.entries(flat(value, `${prefix}${name}.`))
      : [[`${prefix}${name}`, value]],
  ).reduce((found, [name, value]) => ({ ...found, [name]: value }), {});
}

// One row per fact, one column per point.
function headersTable() {
  const headers = data.headers.map((header) => flat(header));
  const facts = [...new Set(headers.flatMap((header) => Object.keys(header)))].filter((name) => name !== "point");
  const rows = facts.map((name) => {
    const row = { fact: words(name) };
    headers.forEach((header, i) => {
      const value = header[name];
      row[`p${i}`] = Array.isArray(value) ? value.join("; ") : value;
    });
    return row;
  });
  const columns = [
    { title: "fact", field: "fact", frozen: true, formatter: (cell) => text(cell.getValue()) },
    ...headers.map((header, i) => ({
      title: header.point, field: `p${i}`, headerSort: false, maxWidth: 320, tooltip: true,
      formatter: (cell) => text(number("", cell.getValue() ?? null)),
    })),
  ];
  new Tabulator("#headers", { data: rows, columns, layout: "fitDataFill", height: 360 });
}

async function charts() {
  for (const [name, spec] of Object.entries(data.charts)) {
    const options = { actions: { export: true, source: false, compiled: false, editor: false }, ast: true, renderer: "svg" };
    await vegaEmbed(`#${name}`, spec, options);
  }
}

try {
  document.getElementById("base").textContent = data.base;
  const made = { points: pointsTable(), caches: cachesTable() };
  acrossTable();
  headersTable();
  await charts();
  window.uslub = made; // for those who look at the page from its console
  document.body.dataset.ready = "yes";
} catch (error) {
  const box = document.getElementById("failure");
  box.textContent = `This page could not draw itself: ${error}`;
  box.hidden = false;
  document.body.dataset.ready = "failed";
  throw error;
}
