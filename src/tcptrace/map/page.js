"use strict";
// Draws who talks to whom: boxes in columns, those who ask left of those who answer.
(() => {
  const MOST = 400; // edges that are drawn; all are searched
  const WIDTH = 200, HEIGHT = 24, ACROSS = 340, DOWN = 34;
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("data").textContent);
  const picture = document.getElementById("picture");
  const search = document.getElementById("search");
  const merge = document.getElementById("merge");
  const failed = document.getElementById("failed");
  const COUNTS = ["attempts", "failed", "tx_bytes", "rx_bytes"];
  const COLUMNS = [
    ["From", (e) => e.client.label], ["To", (e) => target(e)], ["Name", (e) => e.name ?? ""],
    ["Attempts", (e) => e.attempts, "number"], ["Failed", (e) => e.failed || "", "number bad"],
    ["Sent", (e) => bytes(e.tx_bytes), "number"], ["Received", (e) => bytes(e.rx_bytes), "number"],
    ["Median ms", (e) => ms(e.latency_p50_ms), "number"], ["p95 ms", (e) => ms(e.latency_p95_ms), "number"],
    ["Last", (e) => e.last.slice(0, 19).replace("T", " ")],
  ];
  const graphs = new Map(); // by whether hosts are taken together: searching makes none
  let chosen = null, view = { x: 0, y: 0, scale: 1 }, content = null;

  const ms = (value) => (value === undefined ? "" : value.toFixed(2));
  const label = (node) => (node.host ? (node.name ? `${node.name}@${node.host}` : node.host) : node.name ?? "?");

  function bytes(count) {
    if (count === undefined) return "";
    const units = ["B", "kB", "MB", "GB", "TB"];
    const at = count < 1 ? 0 : Math.min(Math.floor(Math.log10(count) / 3), units.length - 1);
    return `${(count / 1000 ** at).toFixed(at ? 1 : 0)} ${units[at]}`;
  }

  function target(edge) {
    const text = edge.server.label;
    const isAddress = edge.server.kind === "external" && text.includes(":");
    return `${isAddress ? `[${text}]` : text}:${edge.port ?? "?"}`;
  }

  // Edges as the boxes ask for them: of each host, or of all hosts together.
  function graph() {
    if (!graphs.has(merge.checked)) graphs.set(merge.checked, joined());
    return graphs.get(merge.checked);
  }

  function joined() {
    const nodes = new Map(), edges = new Map();
    const nodeOf = (number) => {
      const node = data.nodes[number];
      const text = merge.checked && node.host && node.name ? node.name : label(node);
      const key = `${node.kind} ${text}`;
      if (!nodes.has(key)) nodes.set(key, { key, kind: node.kind, label: text });
      return nodes.get(key);
    };
    for (const edge of data.edges) {
      const client = nodeOf(edge.from), server = nodeOf(edge.to);
      const key = `${client.key} > ${server.key} ${edge.port}`;
      const known = edges.get(key);
      if (!known) edges.set(key, { ...edge, client, server, words: words(edge) });
      else add(known, edge);
    }
    return [...edges.values()].sort((one, other) => other.attempts - one.attempts);
  }

  function words(edge) {
    const ends = [edge.from, edge.to].map((number) => label(data.nodes[number]));
    return `${ends.join(" ")}:${edge.port ?? ""} ${edge.name ?? ""}`.toLowerCase();
  }

  function add(known, edge) {
    for (const key of COUNTS) {
      if (edge[key] !== undefined) known[key] = (known[key] ?? 0) + edge[key];
    }
    for (const key of ["latency_p50_ms", "latency_p95_ms"]) {
      // Of several hosts the slowest is told: quantiles do not add up.
      if (edge[key] !== undefined) known[key] = Math.max(known[key] ?? 0, edge[key]);
    }
    known.last = edge.last > known.last ? edge.last : known.last;
    known.words += ` ${words(edge)}`;
  }

  // The column of each node: one behind the farthest that asks it; what closes a circle counts for nothing.
  function columns(edges) {
    const askers = new Map(), depth = new Map(), open = new Set();
    for (const { client, server } of edges) {
      if (client === server) continue;
      if (!askers.has(server)) askers.set(server, new Set());
      askers.get(server).add(client);
    }
    const find = (start) => {
      const stack = [[start, [...(askers.get(start) ?? [])], 0]];
      open.add(start);
      while (stack.length) {
        const top = stack[stack.length - 1];
        const next = top[1].pop();
        if (next === undefined) {
          depth.set(top[0], top[2]);
          open.delete(top[0]);
          stack.pop();
          if (stack.length) stack[stack.length - 1][2] = Math.max(stack[stack.length - 1][2], top[2] + 1);
        } else if (depth.has(next)) top[2] = Math.max(top[2], depth.get(next) + 1);
        else if (!open.has(next)) {
          open.add(next);
          stack.push([next, [...(askers.get(next) ?? [])], 0]);
        }
      }
    };
    for (const { client, server } of edges) for (const node of [client, server]) if (!depth.has(node)) find(node);
    return depth;
  }

  // Each column in an order that keeps neighbours near: by the mean of where they stand.
  function place(edges) {
    const depth = columns(edges), rows = [];
    for (const [node, at] of depth) (rows[at] ??= []).push(node);
    const near = new Map([...depth.keys()].map((node) => [node, []]));
    for (const { client, server } of edges) {
      near.get(client).push(server);
      near.get(server).push(client);
    }
    const number = () => rows.forEach((row) => row.forEach((node, at) => { node.y = (at - row.length / 2) * DOWN; }));
    rows.forEach((row) => row.sort((one, other) => one.label.localeCompare(other.label)));
    number();
    for (let turn = 0; turn < 8; turn++) {
      for (const row of rows) {
        const mean = new Map(row.map((node) => [node, near.get(node).reduce((sum, other) => sum + other.y, 0) / Math.max(1, near.get(node).length)]));
        row.sort((one, other) => mean.get(one) - mean.get(other));
      }
      number();
    }
    rows.forEach((row, at) => row.forEach((node) => { node.x = at * ACROSS; }));
    return [...depth.keys()];
  }

  function element(name, attributes = {}, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function short(text) {
    return text.length > 28 ? `${text.slice(0, 27)}…` : text;
  }

  function draw() {
    const asked = search.value.trim().toLowerCase();
    const every = graph().filter((edge) => !failed.checked || edge.failed);
    const found = every.filter((edge) => !asked || edge.words.includes(asked));
    const edges = found.slice(0, MOST);
    const nodes = place(edges);
    if (chosen && !nodes.some((node) => node.key === chosen)) chosen = null;
    picture.replaceChildren(content = element("g"));
    const is = (edge) => !chosen || edge.client.key === chosen || edge.server.key === chosen;
    for (const edge of edges) content.append(arrow(edge, is(edge)));
    const lit = new Set(edges.filter(is).flatMap((edge) => [edge.client, edge.server]));
    for (const node of nodes) content.append(box(node, lit.has(node)));
    list(edges.filter(is));
    document.getElementById("shown").textContent =
      `${edges.length} of ${every.length} edges, ${nodes.length} ends`;
    fit(nodes);
  }

  function arrow(edge, isLit) {
    const { client, server } = edge;
    const from = client.x + WIDTH, to = server.x, y1 = client.y + HEIGHT / 2, y2 = server.y + HEIGHT / 2;
    const bend = Math.max(60, Math.abs(to - from) / 2);
    const path = element("path", {
      d: `M${from},${y1} C${from + bend},${y1} ${to - bend},${y2} ${to},${y2}`,
      "stroke-width": 1 + Math.log10(Math.max(1, edge.attempts)),
      class: `${edge.failed ? "bad" : ""} ${isLit ? "" : "dim"}`.trim(),
    });
    path.append(element("title", {}, `${client.label} → ${target(edge)}: ${edge.attempts}, ${edge.failed} failed`));
    return path;
  }

  function box(node, isLit) {
    const classes = ["node", node.kind === "process" ? "" : "far", isLit ? "" : "dim", node.key === chosen ? "chosen" : ""];
    const group = element("g", { class: classes.filter(Boolean).join(" "), transform: `translate(${node.x},${node.y})` });
    group.append(element("rect", { width: WIDTH, height: HEIGHT, rx: 4 }));
    group.append(element("text", { x: 8, y: 16 }, short(node.label)));
    group.append(element("title", {}, node.label));
    group.addEventListener("click", () => {
      chosen = chosen === node.key ? null : node.key;
      draw();
    });
    return group;
  }

  function list(edges) {
    const head = document.createElement("tr"), body = document.querySelector("tbody");
    for (const [title, , kind] of COLUMNS) head.append(cell("th", title, kind?.split(" ")[0]));
    document.querySelector("thead").replaceChildren(head);
    body.replaceChildren(...edges.map((edge) => {
      const row = document.createElement("tr");
      for (const [, value, kind] of COLUMNS) row.append(cell("td", value(edge), kind));
      return row;
    }));
  }

  function cell(name, text, kind) {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  }

  function show() {
    content?.setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.scale})`);
  }

  function fit(nodes) {
    const size = picture.getBoundingClientRect();
    if (!nodes.length || !size.width) return;
    const xs = nodes.map((node) => node.x), ys = nodes.map((node) => node.y);
    const left = Math.min(...xs) - 20, right = Math.max(...xs) + WIDTH + 20;
    const top = Math.min(...ys) - 20, bottom = Math.max(...ys) + HEIGHT + 20;
    const scale = Math.min(1.5, size.width / (right - left), size.height / (bottom - top));
    view = { scale, x: (size.width - (left + right) * scale) / 2, y: (size.height - (top + bottom) * scale) / 2 };
    show();
  }

  function zoom(factor, x, y) {
    const scale = Math.min(8, Math.max(0.02, view.scale * factor));
    view.x = x - (x - view.x) * (scale / view.scale);
    view.y = y - (y - view.y) * (scale / view.scale);
    view.scale = scale;
    show();
  }

  picture.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  picture.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    view.x += event.movementX;
    view.y += event.movementY;
    show();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      search.value = "";
      chosen = null;
      draw();
    }
  });
  for (const input of [search, merge, failed]) input.addEventListener("input", draw);
  merge.checked = data.nodes.length > 150;
  draw();
})();
