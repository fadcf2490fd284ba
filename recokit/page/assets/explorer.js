// The explorer: a combobox over the listed entities, and the lists of the one that the address names.
(() => {
  if (!page.byId("explore")) return;
  const [form, query, type, suggestions, status, place] =
    ["search", "query", "type", "suggestions", "status", "entity"].map(page.byId);
  const SHOWN = 12;
  const closed = new Map(); // lists that were opened or closed by hand, by their titles
  let tables = [];
  let active = -1;

  const hashOf = (table, id) => `#explore/${encodeURIComponent(table)}/${encodeURIComponent(id)}`;
  const nameOf = (table, at) => table.names?.[at] ?? null;
  const labelOf = (table, at) => nameOf(table, at) ?? (table.ids[at].trim() ? table.ids[at] : JSON.stringify(table.ids[at]));
  const count = (number) => number.toLocaleString("en");

  function decoded(list) {
    if (!list.rows) {
      const [found, scores] = [page.bytes(list.found), page.bytes(list.scores)];
      list.rows = list.bits === 16 ? new Uint16Array(found.buffer) : new Uint32Array(found.buffer);
      list.levels = new Uint16Array(scores.buffer);
      list.none = list.bits === 16 ? 0xffff : 0xffffffff;
    }
    return list;
  }

  function entriesOf(list, at) {
    const { rows, levels, none, k, low, high } = decoded(list);
    const entries = [];
    for (let rank = 0; rank < k; rank += 1) {
      const row = rows[at * k + rank];
      if (row !== none) entries.push({ row, score: low + ((high - low) * levels[at * k + rank]) / 0xffff });
    }
    return entries;
  }

  function find(tableName, id) {
    const number = tables.findIndex((table) => table.name === tableName);
    if (number < 0) return null;
    tables[number].places ??= new Map(tables[number].ids.map((each, at) => [each, at]));
    const at = tables[number].places.get(id);
    return at === undefined ? null : { number, at };
  }

  // Without case: 1 the id, 2 the name, 3 the id begins so, 4 the name does, 5 a word of the name does, 6 somewhere; else -1.
  function fit(id, name, wanted) {
    if (id === wanted) return 1;
    if (name === wanted) return 2;
    if (id.startsWith(wanted)) return 3;
    if (name.startsWith(wanted)) return 4;
    if (name.includes(` ${wanted}`)) return 5;
    return id.includes(wanted) || name.includes(wanted) ? 6 : -1;
  }

  function matches(text) {
    const wanted = text.trim().toLowerCase();
    if (!wanted) return [];
    const best = Array.from({ length: 7 }, () => []); // 0: to the letter, where a and A are two ids
    tables.forEach((table, number) => {
      if (type.value !== "" && Number(type.value) !== number) return;
      table.lowered ??= table.ids.map((id, at) => [id.toLowerCase(), (nameOf(table, at) ?? "").toLowerCase()]);
      for (let at = 0; at < table.listed; at += 1) {
        const exact = table.ids[at] === text || table.ids[at] === text.trim();
        const rank = exact ? 0 : fit(...table.lowered[at], wanted);
        if (rank >= 0 && best[rank].length < SHOWN) best[rank].push({ number, at, rank });
      }
    });
    return best.flat().slice(0, SHOWN);
  }

  function close() {
    suggestions.hidden = true;
    query.setAttribute("aria-expanded", "false");
    query.removeAttribute("aria-activedescendant");
    active = -1;
  }

  function offer() {
    const found = matches(query.value);
    suggestions.replaceChildren(...found.map(({ number, at }, place_) => {
      const [table, name] = [tables[number], nameOf(tables[number], at)];
      const option = page.make("li", { role: "option", id: `option-${place_}`, "aria-selected": "false" },
        page.make("span", {}, labelOf(tables[number], at)), page.make("small", {}, name ? table.ids[at] : ""), page.make("small", {}, table.name));
      option.addEventListener("mousedown", (event) => { event.preventDefault(); walk(number, at); });
      return option;
    }));
    suggestions.hidden = !found.length;
    query.setAttribute("aria-expanded", String(found.length > 0));
    active = -1;
    return found;
  }

  function mark(step) {
    const options = [...suggestions.children];
    if (!options.length) return;
    active = (active + step + options.length + (active < 0 && step < 0 ? 1 : 0)) % options.length;
    options.forEach((option, at) => option.setAttribute("aria-selected", String(at === active)));
    options[active].scrollIntoView({ block: "nearest" });
    query.setAttribute("aria-activedescendant", options[active].id);
  }

  function say(text, refused = false) {
    status.textContent = text;
    status.classList.toggle("refused", refused);
  }

  function walk(number, at) {
    close();
    query.value = "";
    const hash = hashOf(tables[number].name, tables[number].ids[at]);
    if (location.hash === hash) show(number, at, true);
    else location.hash = hash;
  }

  function refuse(text) {
    const among = tables.filter((_, number) => type.value === "" || Number(type.value) === number);
    const named = among.find((table) => table.ids.includes(text));
    if (named) {
      say(`${text} (${named.name}) stands in lists of this page, but has none of its own: it is not among the most connected.`, true);
      return;
    }
    const [listed, all] = ["listed", "count"].map((key) => count(among.reduce((sum, table) => sum + table[key], 0)));
    say(`No entity of this page is called “${text}”. It lists the ${listed} most connected of ${all}; --entities sets how many.`, true);
  }

  function submit() {
    const found = matches(query.value);
    const chosen = active >= 0 ? found[active] : found.find((each) => each.rank <= 2);
    if (chosen) walk(chosen.number, chosen.at);
    else if (found.length) say(`No entity is called “${query.value.trim()}” exactly; choose one of the list.`, true);
    else if (query.value.trim()) refuse(query.value.trim());
  }

  const titleOf = (list, table) => {
    const other = tables[list.table].name;
    if (list.kind === "alike") return ["Nearest", other];
    return list.kind === "targets" ? [list.relation, `to ${other}`] : [list.relation, `from ${other}`];
  };

  function line(list, { row, score }) {
    const table = tables[list.table];
    const [id, name] = [table.ids[row], nameOf(table, row)];
    const label = labelOf(table, row);
    const what = row < table.listed
      ? page.make("a", { href: hashOf(table.name, id) }, label)
      : page.make("span", { class: "muted", title: "no lists of its own in this page" }, label);
    const text = Math.abs(score) < 10 ? score.toFixed(3) : score.toFixed(1);
    return page.make("li", { "data-id": id }, page.make("span", {}, what, name ? " " : "", name ? page.make("small", {}, id) : ""), page.make("span", { class: "score" }, text.replace("-", "−")));
  }

  function show(number, at, focus) {
    const table = tables[number];
    const [id, name] = [table.ids[at], nameOf(table, at)];
    const facts = [table.name, name ? `id ${id}` : null, table.labels?.[at] ?? null,
      table.degrees ? `${count(table.degrees[at])} training edges` : null].filter(Boolean);
    const heading = page.make("h3", { tabindex: "-1" }, labelOf(table, at));
    const cards = table.lists.map((list, order) => {
      const [what, whither] = titleOf(list, table);
      const details = page.make("details", { class: "list" },
        page.make("summary", {}, what, " ", page.make("small", {}, whither)),
        page.make("ol", {}, ...entriesOf(list, at).map((entry) => line(list, entry))));
      const key = `${table.name} ${what} ${whither}`;
      details.open = closed.get(key) ?? order < 6;
      details.firstChild.addEventListener("click", () => closed.set(key, !details.open));
      return details;
    });
    place.replaceChildren(heading, page.make("p", {}, ...facts.flatMap((fact, order) => [order ? " · " : "", page.make("span", {}, fact)])), page.make("div", { class: "lists" }, ...cards));
    place.dataset.table = table.name;
    place.dataset.id = id;
    say("");
    if (focus) {
      heading.focus({ preventScroll: true });
      if (heading.getBoundingClientRect().top < 60 || heading.getBoundingClientRect().top > innerHeight - 80) {
        stay(page.byId("search"));
      }
    }
    dispatchEvent(new CustomEvent("entity", { detail: { number, at } }));
  }

  // Figures above grow when they are drawn: go there again until they stand, or until somebody moves on.
  let leave = () => {};
  function stay(element) {
    leave();
    element.scrollIntoView();
    const grown = new ResizeObserver(() => element.scrollIntoView());
    for (let before = page.byId("explore").previousElementSibling; before; before = before.previousElementSibling) grown.observe(before);
    leave = () => grown.disconnect();
    setTimeout(() => grown.disconnect(), 5000);
  }
  for (const kind of ["wheel", "touchstart", "pointerdown", "keydown"]) addEventListener(kind, () => leave(), { passive: true });

  function follow(focus) {
    const parts = location.hash.slice(1).split("/");
    if (parts[0] !== "explore" || parts.length !== 3) return false;
    let [table, id] = ["", ""];
    try { [table, id] = parts.slice(1).map(decodeURIComponent); } catch { return false; }
    const found = find(table, id);
    if (found && found.at < tables[found.number].listed) show(found.number, found.at, focus);
    else refuse(id);
    if (!focus) stay(page.byId("explore"));
    return true;
  }

  query.addEventListener("input", offer);
  query.addEventListener("focus", () => { if (query.value) offer(); });
  query.addEventListener("blur", close);
  type.addEventListener("change", () => { if (query.value) query.focus(); });
  query.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (suggestions.hidden) offer();
      mark(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Escape") {
      close();
    }
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  addEventListener("hashchange", () => follow(true));

  page.data().then((data) => {
    tables = data.tables;
    const first = tables.findIndex((table) => table.listed);
    if (!follow(false) && first >= 0) show(first, 0, false);
    document.documentElement.dataset.explorer = "ready";
  }, () => say("This browser cannot unpack the lists; one of 2023 or later can.", true));
})();
