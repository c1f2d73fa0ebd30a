// glassbench: sorts and filters tables, opens what stands behind a row, draws plots. Data become text, never markup.
"use strict";
globalThis.glassbench ??= {};
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const GAP = "–", MANY = 12, PANELS = 4; // rows whose pictures, and groups whose plots are shown at once
  const SCREEN = 60, PART = 500; // rows that are laid out before a click is answered, and at once from then on
  const page = JSON.parse($("#page")?.textContent ?? "{}");

  /** An element with properties and children; strings become text. */
  const make = (name, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  };

  // ---- data ---------------------------------------------------------------------------------------------------------

  /** Undo what bench/report/site/data.py packed. */
  glassbench.decode = packed => {
    const tracks = {};
    for (const [name, one] of Object.entries(packed.tracks)) tracks[name] = decodeTrack(one, packed.gallery);
    const {board, suite, profile, suite_version, protocol} = packed;
    return {board, suite, profile, suite_version, protocol, tracks};
  };

  const decodeTrack = (packed, gallery) => {
    const metrics = {};
    for (const [name, unit, better, decimals, version, resample, n_scored, n_reference] of packed.metrics)
      metrics[name] = {unit: unit ?? "", better: better ?? "neither", decimals: decimals ?? 4, version, resample, n_scored, n_reference};
    const groups = packed.groups.map(([dataset, subject, condition, primary]) => ({dataset, subject, condition, primary}));
    return {metrics, groups, rows: packed.rows.map(row => decodeRow(row, {...packed, metrics, groups, gallery}))};
  };

  const decodeRow = (packed, {metrics, groups, gallery, settings, shared, weights}) => {
    const [id, group, method, variant, rank, rank_low, rank_high, tier, reference, overridden, reason, numbers, seeds,
      [wall_s, forward_passes, backward_passes, gpu_peak_mib, n_images, n_ok, n_cells], ofSettings, ofShared, ofWeights,
      started, keys, run, pictures, later, failed, curves] = packed;
    const {primary, ...place} = groups[group];
    const cells = keys ? keys.split(" ") : [];
    const [before, between, small] = gallery;
    const provenance = {...(ofShared === null ? {} : shared[ofShared])};
    if (ofWeights.length) provenance.weights_sha256 = ofWeights.map(place => weights[place]).join(", ");
    if (started) provenance.started_utc = started;
    return {
      id, ...place, method, variant, rank, rank_low, rank_high, tier, reference: !!reference, reason, primary, failed,
      gate_overridden: !!overridden, n_ok, n_cells, cells, run_seeds: run, provenance,
      values: decodeNumbers(numbers, metrics),
      seeds: {[primary]: seeds ? seeds.split(",").map(one => {
        const [seed, value] = one.split(" ").map(Number);
        return [seed, value / 10 ** metrics[primary].decimals];
      }) : []},
      cost: {wall_s, forward_passes, backward_passes, gpu_peak_mib, n_images},
      settings: ofSettings === null ? null : settings[ofSettings],
      pictures: pictures.map(([kind, cell]) => {
        const address = `${before}${cells[cell]}${between}${kind}`;
        return {kind, cell: cells[cell], seed: run[cell], address: `${address}.png`, thumbnail: address + (small || ".png")};
      }),
      later: later.map(cell => run[cell]),
      ...(curves && {curves: Object.fromEntries(Object.entries(curves).map(
        ([metric, points]) => [metric, points.split(" ").map(point => point / 100)]))}),
    };
  };

  const decodeNumbers = (packed, metrics) => {
    const values = {}, names = Object.keys(metrics);
    packed.split(",").forEach((text, place) => {
      if (!text) return;
      const scale = 10 ** metrics[names[place]].decimals, [value, below, above] = text.split(" ").map(Number);
      values[names[place]] = below === undefined
        ? [value / scale, null, null] : [value / scale, (value - below) / scale, (value + above) / scale];
    });
    return values;
  };

  const unpack = async text => {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
  };

  let loading;
  /** The data of this page's board; its file is read at the first call. */
  const load = () => loading ??= new Promise((resolve, reject) => {
    glassbench.board = text => resolve(unpack(text).then(glassbench.decode));
    document.head.append(make("script", {src: page.script, onerror: () => reject(Error(`${page.script} cannot be read`))}));
  });

  // ---- sorting ------------------------------------------------------------------------------------------------------

  const collator = new Intl.Collator("en", {numeric: true});
  const order = (a, b) => typeof a === "number" ? a - b : collator.compare(a, b);

  /** Row → its key: a number where a column has any, else text; null is missing and stays last. */
  const keysOf = (rows, column) => {
    const cells = rows.map(row => row.cells[column]), texts = cells.map(cell => cell.firstChild?.textContent.trim() ?? "");
    const isText = cells[0].tagName === "TH" || texts.every(text => isNaN(parseFloat(text)));
    const keyOf = (text, place) => {
      if (isText) return text === GAP ? null : cells[place].textContent.trim() || null;
      const number = parseFloat(text.replace("+", ""));
      return isNaN(number) ? null : number;
    };
    return new Map(texts.map((text, place) => [rows[place], keyOf(text, place)]));
  };

  const sorted = (rows, keys, sign) => {
    const compare = (a, b) => a === null || b === null ? (a === null) - (b === null) : sign * order(a, b);
    return rows.map(row => [keys.get(row), row]).sort(([a], [b]) => compare(a, b)).map(([, row]) => row); // stable
  };

  /** Heads become buttons: up, down, and back to the order of the page. */
  const addSorting = (table, every, show) => {
    const state = {column: null, sign: 1}, known = new Map(); // column → keys
    const keys = column => known.get(column) ?? known.set(column, keysOf(every, column)).get(column);
    const wire = head => {
      const button = make("button", {type: "button"});
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const column = head.cellIndex;
        if (state.column !== column) [state.column, state.sign] = [column, 1];
        else if (state.sign === 1) state.sign = -1;
        else state.column = null;
        for (const other of $$("thead th", table)) other.removeAttribute("aria-sort");
        if (state.column !== null) head.setAttribute("aria-sort", state.sign === 1 ? "ascending" : "descending");
        show();
      });
    };
    $$("thead th", table).forEach(wire);
    return {wire, apply: rows => state.column === null ? rows : sorted(rows, keys(state.column), state.sign), isOn: () => state.column !== null};
  };

  for (const table of $$("table.sortable")) {
    const rows = [...table.tBodies[0].rows];
    const sorting = addSorting(table, rows, () => table.tBodies[0].replaceChildren(...sorting.apply(rows)));
  }

  // ---- boards -------------------------------------------------------------------------------------------------------

  const boards = $$("section.track").map(section => {
    const track = section.dataset.track, table = $("table.board", section), form = $("form.tools", section);
    const bodies = [...table.tBodies], heads = bodies.map(body => body.rows[0]);
    const groups = bodies.map(body => [...body.rows].slice(1));
    const rows = groups.flat(), groupOf = new Map(groups.flatMap((members, place) => members.map(row => [row, place])));
    const texts = new Map(groups.flatMap((members, place) =>
      members.map(row => [row, `${heads[place].cells[0].firstElementChild.textContent} ${row.textContent}`.toLowerCase()])));
    const opened = new Map(), plots = $("details.plots", section);
    const search = $("input.filter", form), selects = $$("select.filter", form);
    const columnOf = name => name === "tier" ? 1 : $(`th[data-column="${name}"]`, table).cellIndex;

    const shown = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = selects.filter(select => select.value).map(select => [columnOf(select.name), select.value]);
      return rows.filter(row => words.every(word => texts.get(row).includes(word))
        && wanted.every(([column, value]) => row.cells[column].textContent === value));
    };
    const withDetails = row => opened.has(row) ? [row, opened.get(row)] : [row];

    let finish = () => {}, cancel = () => {};
    /** All rows stand in their order at once; those that fill a screen are shown before a click is answered. */
    const fill = (parent, nodes) => {
      const every = nodes.flatMap(node => node.rows ? [...node.rows] : node), part = document.createDocumentFragment();
      let place = 0, timer;
      every.forEach((row, number) => row.classList.toggle("later", number >= SCREEN));
      part.append(...nodes);
      parent.append(part);
      const step = most => {
        for (const row of every.slice(place, place += most)) row.classList.remove("later");
        if (place < every.length) timer = setTimeout(step, 0, PART);
      };
      cancel = () => clearTimeout(timer);
      finish = () => { cancel(); step(Infinity); };
      step(SCREEN);
    };

    const show = () => {
      const visible = shown(), inGroups = new Set(visible.map(row => groupOf.get(row)));
      cancel();
      for (const body of [...table.tBodies]) body.remove();
      if (sorting.isOn()) {
        const top = inGroups.size === 1 ? [heads[[...inGroups][0]]] : []; // its lead stays in sight
        const together = make("tbody"); // a new one: rows leave the old one faster when it is not shown
        table.append(together);
        fill(together, [...top, ...sorting.apply(visible).flatMap(withDetails)]);
      } else {
        const parts = groups.map(() => []);
        for (const row of visible) parts[groupOf.get(row)].push(...withDetails(row));
        bodies.forEach((body, place) => body.replaceChildren(heads[place], ...parts[place]));
        fill(table, bodies.filter((_, place) => inGroups.has(place)));
      }
      count(visible.length);
      return visible;
    };
    const count = number => { $(".count", form).textContent = `${number} of ${rows.length} rows`; };
    const sorting = addSorting(table, rows, show);

    /** All bars of the table on the scale of the rows shown. */
    const rescale = visible => {
      const ends = visible.flatMap(row => {
        const bar = $("i", row.cells[3]);
        return bar ? ["--v", "--l", "--h"].map(name => parseFloat(bar.style.getPropertyValue(name))).filter(end => !isNaN(end)) : [];
      });
      if (!ends.length) return;
      const low = Math.min(...ends), high = Math.max(...ends);
      table.style.setProperty("--lo", low);
      table.style.setProperty("--span", high - low || 1);
    };
    const refilter = () => {
      const visible = show();
      rescale(visible);
      if (plots.open) draw(visible);
    };

    const draw = async visible => {
      const board = await load(), {metrics, rows: every} = board.tracks[track];
      const ids = new Map(every.map(row => [row.id, row])), found = visible.map(row => ids.get(row.id));
      const primary = found[0]?.primary, alike = found.filter(row => row.primary === primary);
      const places = new Map(visible.map(row => [row.id, groupOf.get(row)])), first = [...new Set(places.values())].slice(0, PANELS);
      const few = alike.filter(row => first.includes(places.get(row.id))), {plots: kinds = {}} = glassbench;
      const drawn = [["pareto", few], ["seedSpread", few], ["curves", few], ["heatMap", alike]]
        .map(([kind, rows]) => rows.length ? kinds[kind]?.(rows, metrics, primary) : null).filter(Boolean)
        .map(plot => make("figure", {}, plot));
      if (drawn.length && few.length < alike.length) drawn.unshift(make("p", {className: "soft wide",
        textContent: `Drawn for the first ${PANELS} groups of the table; filter it to draw others.`}));
      const painted = alike.filter(row => row.pictures.length), some = painted.slice(0, MANY);
      const apart = ["dataset", "subject", "condition"].filter(name => some.some(row => row[name] !== some[0][name]));
      const pictures = some.map(row => figure(row.pictures[0], "",
        [row.variant && row.variant !== "default" ? `${row.method} (${row.variant})` : row.method,
          ...apart.map(name => row[name])].filter(Boolean).join(" · ") + `: ${said(row.values[primary], metrics[primary])}`));
      const what = `What ${painted.length > MANY ? `the first ${MANY} of ${painted.length}` : "these"} rows made, with ${primary}`;
      if (pictures.length) drawn.push(make("div", {className: "wide"},
        make("h3", {textContent: [what, page.how[track]].filter(Boolean).join("; ")}),
        make("div", {className: "gallery"}, ...pictures)));
      plots.lastElementChild.replaceChildren(...drawn.length ? drawn : [make("p", {textContent: "Nothing to draw for these rows."})]);
    };

    const toggle = async (row, isOpen = !opened.has(row)) => {
      const button = $("button.more", row);
      button.setAttribute("aria-expanded", isOpen);
      if (!isOpen) { opened.get(row)?.remove(); opened.delete(row); return; }
      if (opened.has(row)) return;
      const cell = make("td", {colSpan: row.cells.length, textContent: "…"});
      const line = make("tr", {className: "details", id: `${row.id}-details`}, cell);
      opened.set(row, line);
      if (row.isConnected) row.after(line);
      try {
        const board = await load();
        cell.replaceChildren(details(board.tracks[track].rows.find(one => one.id === row.id), board.tracks[track], track));
      } catch (problem) { cell.textContent = problem.message; }
    };

    for (const row of rows) {
      const head = row.cells[2], button = make("button", {type: "button", className: "more"});
      while (head.firstChild && head.firstChild.nodeName !== "SMALL") button.append(head.firstChild);
      button.setAttribute("aria-expanded", "false");
      button.setAttribute("aria-controls", `${row.id}-details`);
      head.prepend(button);
    }
    table.addEventListener("click", event => {
      const button = event.target.closest("button.more");
      if (button) toggle(button.closest("tr"));
    });

    const addColumn = async metric => {
      const {metrics, rows: every} = (await load()).tracks[track], values = new Map(every.map(row => [row.id, row.values[metric]]));
      const words = metric.split(/(?<=_)/); // long names break at their underscores
      const head = make("th", {}, ...words.flatMap((word, place) => place ? [make("wbr"), word] : [word]));
      table.tHead.rows[0].append(head);
      sorting.wire(head);
      for (const row of rows) row.append(make("td", {textContent: said(values.get(row.id), metrics[metric])}));
      for (const cell of [...heads, ...opened.values()].map(line => line.cells[0])) cell.colSpan += 1;
    };
    const column = $("select.column", form);
    column.addEventListener("change", () => {
      if (!column.value) return;
      addColumn(column.value);
      column.selectedOptions[0].remove();
      column.value = "";
    });

    search.addEventListener("input", refilter);
    for (const select of selects) select.addEventListener("change", refilter);
    form.addEventListener("reset", () => setTimeout(refilter));
    form.addEventListener("submit", event => event.preventDefault());
    plots.addEventListener("toggle", () => plots.open && draw(shown()));
    addEventListener("beforeprint", () => finish());
    plots.hidden = form.hidden = false;
    count(rows.length);

    /** Open the row, whatever the filter hides. */
    const reveal = row => {
      finish();
      if (!row.isConnected) { form.reset(); refilter(); finish(); }
      toggle(row, true).then(() => row.scrollIntoView({block: "center"}));
      row.scrollIntoView({block: "center"});
      $("button.more", row).focus({preventScroll: true});
    };
    return {rows, reveal};
  });

  const follow = () => {
    const id = location.hash.slice(1); // letters and digits alone
    for (const board of boards) {
      const row = id && board.rows.find(one => one.id === id);
      if (row) board.reveal(row);
    }
  };
  addEventListener("hashchange", follow);
  follow();

  // ---- behind a row -------------------------------------------------------------------------------------------------

  function said(number, metric) {
    if (!number) return GAP;
    const [value, low, high] = number.map(one => one === null ? null : one.toFixed(metric.decimals));
    return low === null ? value : `${value} [${low}, ${high}]`;
  }

  const simple = value => value === null || value === undefined ? GAP
    : typeof value === "object" ? JSON.stringify(value) : String(value);

  /** Digests are shown by their start, with all of them in the tooltip. */
  const shortened = text => make("span", {textContent: text.replace(/\b([0-9a-f]{12})[0-9a-f]{8,}\b/g, "$1…"), title: text});

  const part = (title, ...content) => make("div", {}, make("h4", {textContent: title}), ...content);
  const pairs = content => make("dl", {}, ...Object.entries(content).map(([name, value]) =>
    make("div", {}, make("dt", {textContent: name}), make("dd", {}, shortened(simple(value))))));

  const columns = list => (list.classList.add("columns"), list);

  function figure(picture, track, caption) {
    const image = make("img", {loading: "lazy", src: picture.thumbnail, alt: `${picture.kind} of ${caption}`});
    const link = make("a", {href: picture.address}, image);
    const how = picture.kind === "contact_sheet" ? page.how[track] : picture.kind.replaceAll("_", " ");
    return make("figure", {}, link, make("figcaption", {textContent: [caption, how].filter(Boolean).join(" — ")}));
  }

  function details(row, track, name) {
    const {metrics} = track, wide = node => (node.classList.add("wide"), node);
    const numbers = make("table", {className: "list"}, make("tbody", {}, ...Object.entries(metrics).map(([metric, card]) =>
      make("tr", {}, ...[metric, said(row.values[metric], card), card.unit,
        card.better === "neither" ? "" : `${card.better} is better`, `version ${card.version ?? GAP}`]
        .map(textContent => make("td", {textContent}))))));
    const seeds = Object.fromEntries(row.seeds[row.primary].map(([seed, value]) =>
      [`seed ${seed}`, value.toFixed(metrics[row.primary].decimals)]));
    const cost = Object.fromEntries(Object.entries(row.cost).filter(([, value]) => value !== null));
    const link = make("a", {href: `#${row.id}`, textContent: "link to this row"});
    const remarks = [
      row.reference && "A reference row: it says what the numbers mean and is never ranked.",
      row.reason && `No rank: ${row.reason}.`,
      row.gate_overridden && "The subject's accuracy is below its gate, which was overridden.", ...row.failed].filter(Boolean);
    const byKind = [...row.pictures].sort((a, b) => a.kind.localeCompare(b.kind)); // contact sheets first, seed by seed
    const pictures = byKind.map(picture => figure(picture, name, `seed ${picture.seed}`));
    const soft = textContent => make("p", {className: "soft", textContent});
    const shown = pictures.length ? [make("div", {className: "gallery"}, ...pictures)] : [];
    if (row.later.length) shown.push(soft(`Seed ${row.later.join(", ")}: pictures of a later run: make the board again with \`rank\`.`));
    else if (!shown.length) shown.push(soft("None here: they are made, and kept, where the suite is run."));
    return make("div", {className: "parts"},
      wide(make("p", {}, ...remarks.map(textContent => make("span", {textContent: `${textContent} `})), link)),
      wide(part("pictures", ...shown)),
      part("settings", row.settings ? pairs(row.settings) : soft("This board does not tell them; the records do.")),
      part("cost, a cell", pairs({...cost, "cells ok": `${row.n_ok} of ${row.n_cells}`})),
      part(`${row.primary} by seed`, pairs(seeds)),
      part("records", make("div", {}, ...row.cells.map((key, place) =>
        make("div", {}, `seed ${row.run_seeds[place]}: `, make("code", {textContent: `run_bench.py show ${key}`}))))),
      wide(part("provenance", columns(pairs(row.provenance)))),
      wide(part("all metrics", make("div", {className: "scroll"}, numbers))));
  }

  // ---- list of leaders ----------------------------------------------------------------------------------------------

  const leaders = $$("details.leaders");
  if (leaders.length) {
    const form = $("form.tools"), search = $("input.filter", form);
    const lines = leaders.flatMap(list => $$("tbody tr", list).map(row => ({list, row, text: `${list.id} ${row.textContent}`.toLowerCase()})));
    const refilter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = new Set(lines.filter(({text}) => words.every(word => text.includes(word))));
      for (const line of lines) line.row.hidden = !found.has(line);
      for (const list of leaders) {
        const some = [...found].some(line => line.list === list);
        list.hidden = !some;
        list.open = words.length > 0 && some;
      }
      $(".count", form).textContent = `${found.size} of ${lines.length} groups`;
    };
    search.addEventListener("input", refilter);
    form.addEventListener("submit", event => event.preventDefault());
    form.hidden = false;
    refilter();
  }
})();
