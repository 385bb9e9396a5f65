"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const LOCAL = 1, REMOTE = 2, SILENCED = 3, SUPPRESSED = 4, DEVIATIONS = 5, MORE = 6, ROWS = 7;
  const SIZE = 100;
  const protocols = { 1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6" };
  const name = (number) => protocols[number] || "protocol " + number;

  // Elements and text only: nothing here is ever parsed as markup.
  function element(kind, attributes, ...children) {
    const made = document.createElement(kind);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  function drawn(kind, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const title = (one) => name(one[0]) + " " + one[LOCAL] + (one[REMOTE] === null ? "" : " and " + one[REMOTE]);
  const texts = data.connections.map((one) => title(one).toLowerCase());
  const columns = [
    ["First", (one) => one[ROWS].length ? one[ROWS][0][0] : 0],
    ["Protocol", (one) => name(one[0])],
    ["Host", (one) => one[LOCAL]],
    ["Remote", (one) => one[REMOTE] || ""],
    ["Events", (one) => one[ROWS].length + one[MORE]],
    ["Silenced", (one) => one[SILENCED]],
    ["Suppressed", (one) => one[SUPPRESSED]],
    ["Deviations", (one) => one[DEVIATIONS]],
  ];
  const kinds = [
    ["all", () => true],
    ["silenced", (one) => one[SILENCED] > 0],
    ["not silenced", (one) => one[SILENCED] === 0],
    ["an answer was suppressed", (one) => one[SUPPRESSED] > 0],
    ["not in the documented order", (one) => one[DEVIATIONS] > 0],
  ];
  const state = { text: "", kind: 0, sort: 0, down: false, page: 0 };
  let shown = [];

  // The list.
  const search = element("input", { type: "search", id: "search", autocomplete: "off" });
  const kind = element("select", { id: "kind" });
  kinds.forEach(([text], index) => kind.append(element("option", { value: index }, text)));
  const form = element("form", { role: "search" },
    element("label", { for: "search" }, "Address, port or protocol"), search,
    element("label", { for: "kind" }, "Show"), kind);
  const status = element("p", { role: "status" });
  const head = element("tr");
  const body = element("tbody");
  const previous = element("button", { type: "button" }, "Previous page");
  const next = element("button", { type: "button" }, "Next page");
  const where = element("span");
  document.getElementById("list").append(form, status,
    element("div", { class: "wide", tabindex: "0", role: "region", "aria-labelledby": "connections" },
      element("table", { "aria-labelledby": "connections" }, element("thead", {}, head), body)),
    element("nav", { "aria-label": "Pages of connections" }, previous, where, next));
  columns.forEach(([text], index) => {
    const button = element("button", { type: "button" }, text);
    button.addEventListener("click", () => {
      state.down = state.sort === index && !state.down;
      state.sort = index;
      list();
    });
    head.append(element("th", { scope: "col" }, button));
  });

  function list() {
    const [, holds] = kinds[state.kind];
    const wanted = state.text.toLowerCase().split(/\s+/).filter((word) => word);
    const value = columns[state.sort][1];
    shown = data.connections.map((_, index) => index).filter((index) =>
      holds(data.connections[index]) && wanted.every((word) => texts[index].includes(word)));
    const order = (one, other) => one < other ? -1 : one > other ? 1 : 0;
    shown.sort((one, other) =>
      (state.down ? -1 : 1) * order(value(data.connections[one]), value(data.connections[other])) || one - other);
    state.page = 0;
    page();
  }

  function page() {
    const pages = Math.max(1, Math.ceil(shown.length / SIZE));
    const first = state.page * SIZE;
    [...head.children].forEach((cell, index) => cell.setAttribute("aria-sort",
      index !== state.sort ? "none" : state.down ? "descending" : "ascending"));
    body.replaceChildren(...shown.slice(first, first + SIZE).map((index) => {
      const one = data.connections[index];
      const row = element("tr", one[DEVIATIONS] ? { class: "deviation" } : {});
      columns.forEach(([, value], column) => {
        const text = column === 0 ? value(one).toFixed(6) : String(value(one));
        if (column === 2) {
          const label = title(one) + (one[SILENCED] ? ", silenced" : "");
          row.append(element("th", { scope: "row" },
            element("a", { href: "#connection-" + (index + 1), "aria-label": label }, text)));
        } else {
          row.append(element("td", { class: [0, 4, 5, 6, 7].includes(column) ? "number" : "" }, text));
        }
      });
      return row;
    }));
    status.textContent = shown.length + " of " + data.connections.length + " connections";
    where.textContent = "page " + (state.page + 1) + " of " + pages;
    previous.disabled = state.page === 0;
    next.disabled = state.page + 1 >= pages;
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", () => { state.text = search.value; list(); });
  kind.addEventListener("change", () => { state.kind = Number(kind.value); list(); });
  previous.addEventListener("click", () => { state.page -= 1; page(); });
  next.addEventListener("click", () => { state.page += 1; page(); });

  // One connection: each event is a row of the drawing and of the table.
  const LANES = ["network", "IP", "transport", "ALE", "stream", "socket"];
  const lane = (index) => 25 + index * 57;
  function place(layer) {
    if (layer.includes("IPPACKET")) return 1;
    if (layer.includes("TRANSPORT") || layer.includes("ICMP")) return 2;
    return layer.startsWith("ALE_") ? 3 : 4;
  }
  function lifelines() {
    return LANES.map((_, index) => drawn("line",
      { class: "lane", x1: lane(index), x2: lane(index), y1: 0, y2: "100%" }));
  }
  function cross(x) {
    return [drawn("line", { class: "cross", x1: x - 6, x2: x + 6, y1: 14, y2: 26 }),
      drawn("line", { class: "cross", x1: x - 6, x2: x + 6, y1: 26, y2: 14 })];
  }

  function picture(row) {
    const svg = drawn("svg", { "aria-hidden": "true", focusable: "false" }, ...lifelines());
    if (row.length === 1) {
      svg.append(drawn("line", { class: "way gone", x1: lane(2), x2: lane(0), y1: 20, y2: 20 }), ...cross(lane(2)));
      return svg;
    }
    const steps = row[3].map(([layer, answer, blocked]) => ({ layer: data.layers[layer], answer, blocked }));
    const inbound = steps.some(({ layer }) => layer.startsWith("INBOUND"));
    const outbound = steps.some(({ layer }) => layer.startsWith("OUTBOUND"));
    const used = {};
    const points = steps.map((step) => {
      const at = place(step.layer);
      used[at] = (used[at] || 0) + 1;
      return { ...step, x: lane(at) + (used[at] - 1) * (outbound ? -13 : 13) };
    });
    const stops = points.some(({ blocked }) => blocked);
    if (points.length) {
      const last = points[points.length - 1].x;
      const deep = place(steps[steps.length - 1].layer) >= 4;
      const from = inbound ? lane(0) : lane(5);
      const to = stops ? last : outbound ? lane(0) : inbound && !deep ? last : inbound ? lane(5) : last;
      svg.append(drawn("line", { class: "way", x1: from, x2: to, y1: 20, y2: 20 }));
      if (!stops && to !== last) {
        const back = to < from ? 8 : -8;
        svg.append(drawn("path", { class: "head", d: `M${to} 20l${back} -5v10z` }));
      }
    }
    for (const { x, layer, answer, blocked } of points) {
      if (blocked) svg.append(...cross(x));
      else if (layer.endsWith("_DISCARD")) {
        svg.append(drawn("rect", { class: "dot", x: x - 5, y: 15, width: 10, height: 10 }));
      } else {
        svg.append(drawn("circle", { class: answer === null ? "dot" : "dot answered", cx: x, cy: 20, r: 4 }));
      }
    }
    return svg;
  }

  function verdict([layer, answer, blocked]) {
    const action = answer === null ? "not asked" : data.answers[answer];
    const item = element("li", {}, data.layers[layer] + " ");
    item.append(element("span", { class: action === "block" ? "block" : "soft" }, action));
    if (blocked && action !== "block") item.append(" ", element("span", { class: "block" }, "blocked by another"));
    return item;
  }

  function event(row) {
    const cells = element("tr", {},
      element("td", { class: "number" }, row[0].toFixed(6)), element("td", { class: "drawn" }, picture(row)));
    if (row.length === 1) {
      cells.append(element("th", { scope: "row" }, "answer suppressed"),
        element("td", { class: "soft", colspan: 3 },
          "The capture holds this answer. With the driver it would not have been sent."));
      return cells;
    }
    const [text, documented] = data.events[row[1]];
    const order = row[2] === 0 ? ["match", "as documented"]
      : row[2] === 1 ? ["soft", "not documented"] : ["deviation", row[2]];
    cells.append(element("th", { scope: "row" }, text),
      element("td", {}, element("ol", { class: "layers" }, ...row[3].map(verdict))),
      element("td", { class: "names" }, documented),
      element("td", { class: order[0] }, order[1]));
    return cells;
  }

  const detail = document.getElementById("detail");
  function show(index) {
    const one = data.connections[index];
    const heading = element("h2", { id: "detail-title", tabindex: "-1" }, title(one));
    const at = shown.indexOf(index);
    const link = (to, text) => to === undefined ? element("span", { class: "soft" }, text)
      : element("a", { href: "#connection-" + (to + 1) }, text);
    const lanes = drawn("svg", { class: "lanes", "aria-hidden": "true", focusable: "false" },
      ...LANES.map((text, index) => drawn("text", { x: lane(index), y: 20, "text-anchor": "middle" }, text)));
    const heads = ["Time in s", lanes, "Event", "Layers, and the driver's answers", "Documented", "Order"];
    const table = element("table", { class: "sequence", "aria-labelledby": "detail-title" },
      element("thead", {}, element("tr", {}, ...heads.map((text) => text === lanes
        ? element("td", { class: "drawn" }, text) : element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...one[ROWS].map(event)));
    detail.replaceChildren(heading,
      element("nav", { "aria-label": "Between connections" },
        link(at > 0 ? shown[at - 1] : undefined, "Previous connection"),
        link(at < 0 ? undefined : shown[at + 1], "Next connection"),
        element("a", { href: "#connections" }, "Back to the list")),
      element("div", { class: "wide", tabindex: "0", role: "region", "aria-labelledby": "detail-title" }, table));
    if (one[MORE]) detail.append(element("p", { class: "limit" }, one[MORE] + " more events are only counted."));
    detail.hidden = false;
    heading.focus();
    heading.scrollIntoView();
  }

  function follow() {
    const match = /^#connection-(\d+)$/.exec(location.hash);
    const index = match ? Number(match[1]) - 1 : -1;
    if (index >= 0 && index < data.connections.length) show(index);
    else if (location.hash === "#connections") document.getElementById("connections").focus();
  }
  addEventListener("hashchange", follow);
  list();
  follow();
})();
