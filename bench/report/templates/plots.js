// Plots of a board's rows as inline SVG: `pareto`, `seedSpread`, `heatMap` and `curves` take (rows, metrics, metric),
// where `metrics` holds each one's unit, better and decimals. Each returns an element, or null with nothing to show.
// What is missing (null) is left out and never drawn as 0; names come from contributors and are set as text alone.
"use strict";
globalThis.glassbench ??= {};
glassbench.plots = (() => {
  const FONT = "12px system-ui, sans-serif", LINE = 15; // LINE: height of a line of text
  const MOST = 12; // panels of one plot
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7a5ccc"];
  const DASHES = ["none", "7 3", "2 3", "9 3 2 3"]; // after eight colours the next dash

  // Mixed with the ink, one palette serves both themes: darker on white paper, lighter on black.
  const palette = COLOURS.map((colour, place) =>
    `.plot .s${place + 1} { color: var(--c${place + 1}, color-mix(in oklab, ${colour} 84%, var(--ink-))); }`);
  const style = document.createElement("style");
  style.textContent = `
    .plot { --ink-: var(--ink, #1d2126); --soft-: var(--soft, #5d6570); --line-: var(--line, #d9dde2);
      --accent-: var(--accent, #2563a8); --paper-: var(--paper, #fff);
      display: block; width: 100%; height: auto; font: ${FONT}; color: var(--accent-); }
    .plot text { fill: var(--ink-); font-variant-numeric: tabular-nums; }
    .plot .heading { font-weight: 600; }
    .plot .side { fill: var(--soft-); }
    .plot .middle { text-anchor: middle; }
    .plot .end { text-anchor: end; }
    .plot .grid { stroke: var(--line-); }
    .plot .axis, .plot .leader { stroke: var(--soft-); }
    .plot .label { paint-order: stroke; stroke: var(--paper-); stroke-width: 3px; stroke-linejoin: round; }
    .plot .front, .plot .line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
    .plot .front { opacity: .55; }
    .plot .leader { stroke-dasharray: 1 3; }
    .plot .whisker { stroke: currentColor; stroke-width: 1.5; opacity: .6; }
    .plot :is(.dominated, .reference) { color: var(--soft-); }
    .plot circle { fill: currentColor; stroke: var(--paper-); }
    .plot .unranked circle { fill: var(--paper-); stroke: currentColor; stroke-width: 1.5; }
    .plot .seed circle { fill-opacity: .55; }
    .plot .mean line { stroke: var(--ink-); stroke-width: 2.5; }
    .plot .reference line { stroke: currentColor; stroke-width: 1.5; stroke-dasharray: 6 4; }
    .plot .hit { fill: none; stroke: transparent; stroke-width: 11; }
    .plot .curve:is(:hover, :focus) .line { stroke-width: 4; }
    .plot .empty { fill: none; stroke: var(--line-); stroke-dasharray: 2 2; }
    .plot :focus { outline: none; }
    .plot :not(.curve):focus-visible { outline: 2px solid var(--ink-); outline-offset: 2px; }
    .plot .tip { pointer-events: none; }
    .plot .tip rect { fill: var(--paper-); stroke: var(--soft-); }
    ${palette.join("\n")}`;
  document.head.append(style);

  // ---- elements and text

  const element = (name, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const group = (kind, ...children) => element("g", {class: kind}, ...children);
  const write = (text, x, y, kind = "") => {
    const node = element("text", {x, y, class: kind});
    node.textContent = text;
    return node;
  };
  const writeLines = (lines, x, y, kind) => lines.map((line, place) => write(line, x, y + place * LINE, kind));
  const rule = (x1, y1, x2, y2, kind = "") => element("line", {x1, y1, x2, y2, class: kind});
  const dot = (cx, cy) => element("circle", {cx, cy, r: 5});

  const pen = document.createElement("canvas").getContext("2d");
  pen.font = FONT;
  const wide = text => pen.measureText(text).width;
  const widest = texts => Math.max(0, ...texts.map(wide));

  /** Break at spaces, after underscores and dots, so that a line is at most so wide where its words allow. */
  const wrap = (text, width) => {
    const lines = [""];
    for (const piece of text.split(/(?<=[ _])|(?<=\.)(?=[a-z])/)) {
      if (lines.at(-1) && wide(lines.at(-1) + piece.trimEnd()) > width) lines.push("");
      lines[lines.length - 1] += piece;
    }
    return lines.map(line => line.trimEnd());
  };
  const wrapBold = (text, width) => wrap(text, width * .85);
  const cut = (text, width) => {
    if (wide(text) <= width) return text;
    while (text && wide(text + "…") > width) text = text.slice(0, -1);
    return text + "…";
  };

  /** A part that has a tooltip, can be reached with the keyboard and is read out. */
  const mark = (kind, lines, ...children) => {
    const title = element("title");
    title.textContent = lines.join("\n");
    const attributes = {class: kind, tabindex: 0, role: "img", "aria-label": lines.join(", ")};
    return element("g", attributes, title, ...children);
  };

  /** The drawing; a part that is focused, by keyboard or touch, shows its tooltip beside it. */
  const drawing = (kind, label, width, height, ...children) => {
    const tip = group("tip"), hide = () => tip.replaceChildren();
    const attributes = {class: `plot ${kind}`, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label};
    const svg = element("svg", attributes, ...children.flat(Infinity), tip);
    tip.setAttribute("aria-hidden", true);
    svg.style.maxWidth = `${width}px`; // text is never larger than that of the page
    svg.addEventListener("focusin", ({target}) => tip.replaceChildren(...tipBeside(target, width, height)));
    svg.addEventListener("focusout", hide);
    svg.addEventListener("keydown", ({key}) => key === "Escape" && hide());
    return svg;
  };
  const tipBeside = (target, width, height) => {
    const lines = target.querySelector("title").textContent.split("\n").flatMap(line => wrap(line, width - 24));
    const box = target.getBBox(), across = widest(lines) + 16, down = lines.length * LINE + 9;
    const x = Math.max(1, Math.min(width - across - 1, box.x + box.width / 2 - across / 2)), above = box.y - down - 6;
    const y = above >= 1 ? above : Math.min(height - down - 1, box.y + box.height + 6);
    return [element("rect", {x, y, width: across, height: down, rx: 4}), ...writeLines(lines, x + 8, y + LINE)];
  };

  // ---- words and numbers

  const isKnown = value => typeof value === "number" && Number.isFinite(value);
  const scoreOf = (row, metric) => isKnown(row.values?.[metric]?.[0]) ? row.values[metric] : null;
  const hasInterval = ([, low, high]) => isKnown(low) && isKnown(high);
  const upwards = better => better === "lower" ? -1 : 1; // the sign by which more is better
  const isDirected = better => better === "higher" || better === "lower";
  const unique = values => [...new Set(values)];
  const screen = () => innerWidth < 700 ? Math.max(300, innerWidth - 40) : 620;

  const named = row => row.variant && row.variant !== "default" ? `${row.method} (${row.variant})` : row.method;
  const joined = parts => parts.filter(Boolean).join(" · ");
  /** What tells the groups of these rows apart, as a name of each row's group; empty where they are all of one. */
  const apart = (rows, fields = ["dataset", "subject", "condition"]) => {
    const differing = fields.filter(field => unique(rows.map(row => row[field])).length > 1);
    return row => joined(differing.map(field => row[field]));
  };
  const headed = ({metric, unit, better}) => {
    const inside = [unit, isDirected(better) && `${better} is better`].filter(Boolean).join(", ");
    return inside ? `${metric} (${inside})` : metric;
  };
  const digits = (value, card) => value.toFixed(card?.decimals ?? 4);
  const spoken = (value, card) => {
    const [middle, low, high] = value.map(number => isKnown(number) ? digits(number, card) : null);
    const unit = card.unit ? ` ${card.unit}` : "";
    return `${card.metric} ${middle}${unit}${hasInterval(value) ? ` [${low}, ${high}]` : ""}`;
  };
  const short = (value, notation) => value.toLocaleString("en", {notation, maximumSignificantDigits: 4});

  // ---- scales: where a value lies, and its ticks

  const INSET = 10, ASIDE = 32; // pixels from the frame to the outermost value; the same where points may go aside

  const roundSteps = (low, high, most) => {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find(times => times * power >= rough * .999) * power;
    const first = Math.ceil(low / step - 1e-6), last = Math.floor(high / step + 1e-6);
    const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-6)), far = Math.max(Math.abs(low), Math.abs(high));
    const say = value => value === 0 ? "0" : far >= 1e4 ? short(value, "compact")
      : places > 5 ? value.toPrecision(2) : value.toFixed(places);
    return Array.from({length: last - first + 1}, (_, place) => (first + place) * step)
      .map(value => ({value, text: say(value)}));
  };

  const linear = (values, from, to, most, inset = INSET) => {
    let low = Math.min(...values), high = Math.max(...values);
    if (low === high) [low, high] = [low - (Math.abs(low) * .1 || .5), high + (Math.abs(high) * .1 || .5)];
    const start = from + Math.sign(to - from) * inset, length = to - from - 2 * (start - from);
    return {at: value => start + (value - low) / (high - low) * length, ticks: roundSteps(low, high, most)};
  };

  /** A zero, which has no place on a log scale, stands before a break at the start. */
  const logarithmic = (values, from, to) => {
    const positive = values.filter(value => value > 0), hasZero = positive.length < values.length;
    const low = Math.log10(Math.min(...positive)), high = Math.log10(Math.max(...positive));
    const gap = hasZero ? from + 2 * ASIDE + 8 : null, start = (gap ?? from) + ASIDE, length = to - ASIDE - start;
    const at = value => value > 0 ? start + (Math.log10(value) - low) / (high - low) * length : from + ASIDE;
    const say = value => value >= 1e4 ? short(value, "compact") : String(Number(value.toPrecision(1)));
    const fits = ticks => ticks.every((value, place) =>
      !place || at(value) - at(ticks[place - 1]) > wide(say(value)) + 8);
    return {at, gap, ticks: [...(hasZero ? [0] : []), ...roundPowers(low, high, fits)]
      .map(value => ({value, text: say(value)}))};
  };
  const roundPowers = (low, high, fits) => {
    const first = Math.floor(low), last = Math.ceil(high);
    const powers = Array.from({length: last - first + 1}, (_, place) => first + place);
    const within = value => Math.log10(value) >= low - 1e-9 && Math.log10(value) <= high + 1e-9;
    const choices = [powers.flatMap(power => [1, 2, 5].map(times => times * 10 ** power)),
      ...[1, 2, 3, 6].map(every => powers.filter(power => power % every === 0).map(power => 10 ** power))]
      .map(ticks => ticks.filter(within));
    return choices.find(fits) ?? [];
  };

  const across = ({at, ticks, gap}, {left, right, top, bottom}, title) => [
    ticks.map(({value}) => rule(at(value), top, at(value), bottom, "grid")),
    rule(left, bottom, gap ? gap - 10 : right, bottom, "axis"),
    gap ? [rule(gap - 4, bottom, right, bottom, "axis"), ...[gap - 12, gap - 6].map(x =>
      rule(x, bottom + 5, x + 4, bottom - 5, "axis"))] : [],
    ticks.map(({value, text}) => write(text, at(value), bottom + LINE + 1, "tick side middle")),
    writeLines(wrap(title, right - left), (left + right) / 2, bottom + 2 * LINE + 5, "axis-title middle"),
  ];
  const below = ({left, right, bottom}, title) => bottom + 25 + wrap(title, right - left).length * LINE;
  const upright = ({at, ticks}, {left, right}) => ticks.map(({value, text}) =>
    [rule(left, at(value), right, at(value), "grid"), write(text, left - 6, at(value) + 4, "tick side end")]);

  /** Samples with their names, side by side and folded at the width. */
  const legend = (items, x, y, width) => {
    let left = x, height = items.length && LINE + 2;
    const parts = items.map(([kind, text, sample]) => {
      const length = 26 + wide(text);
      if (left > x && left + length > x + width) [left, height] = [x, height + LINE + 2];
      const base = y + height - LINE - 2;
      const part = group(`key ${kind}`, sample(left, base - 4), write(text, left + 24, base, "side"));
      left += length + 16;
      return part;
    });
    return {parts, height};
  };

  // ---- labels that do not overlap

  /** Places labels beside points, in free spots of the frame; `block` takes room away, `avoid` where there is other. */
  const labeller = ({left, right, top, bottom}) => {
    const taken = [], avoided = [];
    const isClear = ([x1, y1, x2, y2], boxes) =>
      !boxes.some(box => x1 < box[2] && x2 > box[0] && y1 < box[3] && y2 > box[1]);
    const isFree = box =>
      box[0] >= left && box[2] <= right && box[1] >= top && box[3] <= bottom && isClear(box, taken);
    const label = ({x, y, name}, reach) => {
      const width = wide(name), middle = x - width / 2;
      const near = [[x + 9, y + 4], [x - 9 - width, y + 4], [x + 7, y - 9], [x + 7, y + 17], [x - 7 - width, y - 9],
        [x - 7 - width, y + 17], [middle, y - 11], [middle, y + 20]];
      const bases = Array.from({length: Math.floor((bottom - top) / 8) - 2}, (_, place) => top + 14 + 8 * place);
      const distance = ([start, base]) => Math.abs(base - 4 - y) + Math.abs(start - middle) / 2;
      const far = bases.flatMap(base => [x + 14, x - 14 - width, middle, left + 3, right - width - 3]
        .map(start => [start, base])).filter(spot => distance(spot) < reach).sort((a, b) => distance(a) - distance(b));
      const spots = [...near, ...far], boxes = spots.map(([x, y]) => [x - 2, y - 11, x + width + 2, y + 4]);
      let found = boxes.findIndex(box => isFree(box) && isClear(box, avoided));
      if (found < 0 && reach) found = boxes.findIndex(isFree);
      if (found < 0) return [];
      taken.push(boxes[found]);
      const [start, base] = spots[found], text = write(name, start, base, "label");
      if (found < near.length) return [text];
      const end = Math.max(start, Math.min(start + width, x));
      return [rule(x, y, end, base > y ? base - 11 : base + 4, "leader"), text];
    };
    return {block: (...box) => taken.push(box), avoid: (...box) => avoided.push(box), label};
  };

  // ---- panels

  /** The rows of each group, under what tells the groups apart. */
  const groups = (rows, fields) => [...Map.groupBy(rows, apart(rows, fields))];

  /** Panels of equal width in lines; `draw(panel, left, top, width)` returns its parts and where it ends. */
  const multiples = (kind, label, panels, draw, width, least = 290, header = []) => {
    const shown = panels.slice(0, MOST), lines = Math.ceil(shown.length / Math.max(1, Math.floor(width / least)));
    const columns = Math.ceil(shown.length / lines), each = (Math.max(width, least) - (columns - 1) * 20) / columns;
    let top = 0, bottom = header.length * (LINE + 3);
    const parts = shown.map((panel, place) => {
      if (place % columns === 0) top = bottom;
      const [drawn, end] = draw(panel, place % columns * (each + 20), top, each);
      bottom = Math.max(bottom, end + 22);
      return drawn;
    });
    const more = panels.length - shown.length;
    if (more) parts.push(write(`${more} more: filter the rows to see them`, 2, bottom, "side more"));
    return drawing(kind, `${label}, ${shown.length} of ${panels.length} panels`, Math.max(width, least),
      bottom - (more ? -6 : 14), header, parts);
  };

  // ---- score against cost

  /** Seconds; or passes per image where every row knows its images, else passes in all. */
  const costs = (rows, kind) => {
    if (kind === "wall_s") return {of: ({cost}) => cost?.wall_s, title: "wall time (s)", unit: "s"};
    const total = ({cost}) => isKnown(cost?.forward_passes) && isKnown(cost.backward_passes)
      ? cost.forward_passes + cost.backward_passes : null;
    const isEach = rows.every(row => total(row) === null || row.cost.n_images > 0);
    const of = row => isEach && isKnown(total(row)) ? total(row) / row.cost.n_images : total(row);
    const unit = isEach ? "passes per image" : "passes";
    return {of, title: `forward and backward ${unit}`, unit};
  };

  const SAME = 1.01; // costs whose ratio is smaller are one cost
  /** The points that no other equals in one of score and cost and beats in the other, by cost. */
  const paretoFront = (points, sign) => points
    .filter(one => !points.some(other => other.cost <= SAME * one.cost && sign * other.score >= sign * one.score &&
      (SAME * other.cost < one.cost || other.score !== one.score)))
    .sort((a, b) => a.cost - b.cost);

  /** Points of about one cost go side by side; the best stays in its place. */
  const spread = (points, sign) => {
    for (const column of Map.groupBy(points, point => Math.round(point.x / 5)).values())
      column.sort((a, b) => b.isOnFront - a.isOnFront || sign * (b.score - a.score))
        .forEach((point, place) => { point.x += (place % 2 ? 1 : -1) * Math.ceil((place % 9) / 2) * 5; });
  };

  /** Score against cost, a panel a group, with the front that no row of the group beats. */
  const pareto = (rows, metrics, metric, {cost: kind = "passes", width = screen()} = {}) => {
    const card = {metric, ...metrics[metric]}, sign = upwards(card.better);
    const panels = groups(rows.filter(row => scoreOf(row, metric))).map(([name, members]) => {
      const isLine = row => row.reference && !isKnown(row.rank);
      const described = row => ({row, name: named(row), value: scoreOf(row, metric), score: scoreOf(row, metric)[0]});
      const others = members.filter(row => !isLine(row)), cost = costs(others, kind);
      const points = others.filter(row => isKnown(cost.of(row))).map(row => ({...described(row), cost: cost.of(row)}));
      const front = isDirected(card.better) ? paretoFront(points.filter(({row}) => !row.reason), sign) : [];
      for (const point of points) point.isOnFront = front.includes(point);
      return {name, cost, points, front, references: members.filter(isLine).map(described)};
    }).filter(({points}) => points.length > 1);
    if (!panels.length) return null;
    return multiples("pareto", `${metric} against ${panels[0].cost.title}`, panels,
      (panel, ...place) => drawPareto(panel, card, sign, ...place), width);
  };

  const drawPareto = ({name, cost, points, front, references}, card, sign, from, start, width) => {
    const heading = name ? wrapBold(name, width) : [], title = wrap(headed(card), width);
    const keys = legend([
      front.length && ["", "Pareto front", (x, y) => rule(x, y, x + 18, y, "front")],
      points.some(({value}) => hasInterval(value)) &&
        ["", "95 % interval", (x, y) => rule(x + 9, y - 6, x + 9, y + 6, "whisker")],
      points.some(({row}) => row.reason) && ["unranked dominated", "no rank", (x, y) => dot(x + 9, y)],
      references.length && ["reference", "reference", (x, y) => rule(x, y, x + 18, y)],
    ].filter(Boolean), from, start + 16 + (heading.length + title.length) * LINE, width);

    const top = start + (heading.length + title.length) * LINE + keys.height + 12;
    const bottom = top + (width < 560 ? 230 : 280);
    const heights = [...points.flatMap(({value}) => value), ...references.map(({score}) => score)].filter(isKnown);
    const y = linear(heights, bottom, top, width < 560 ? 5 : 7);
    const frame = {left: from + 10 + widest(y.ticks.map(({text}) => text)), right: from + width - 4, top, bottom};
    const x = costScale(points.map(point => point.cost), frame);
    const axisTitle = cost.title + (x.isLog ? ", log scale" : "");
    for (const point of points) [point.x, point.y] = [x.at(point.cost), y.at(point.score)];
    const path = front.map((point, place) => place ? `H${point.x}V${point.y}` : `M${point.x} ${point.y}`).join("");

    const {block, avoid, label} = labeller(frame);
    front.forEach((point, place) => {
      const {x: right, y: next} = front[place + 1] ?? {x: frame.right, y: point.y};
      block(point.x, point.y - 1, right, point.y + 1);
      avoid(right - 1, Math.min(point.y, next), right + 1, Math.max(point.y, next));
    });
    for (const {score} of references) block(frame.left, y.at(score) - 1, frame.right, y.at(score) + 1);
    spread(points, sign);
    for (const point of points) {
      block(point.x - 6, point.y - 6, point.x + 6, point.y + 6);
      if (hasInterval(point.value)) avoid(point.x - 1, y.at(point.value[2]), point.x + 1, y.at(point.value[1]));
    }
    const besideLine = ({name, score}) => [.92, .5, .08].map(share => (wide(name) / 2 + 6) * (1 - 2 * share) +
      frame.left + share * (frame.right - frame.left)).reduce((found, x) =>
      found.length ? found : label({name, x, y: y.at(score)}, 0), []);
    const rest = points.filter(point => !point.isOnFront).sort((a, b) => sign * (b.score - a.score));
    const labels = [front.map(point => label(point, Infinity)), references.map(besideLine),
      rest.map(point => label(point, 80))];

    return [[writeLines(heading, from, start + 14, "heading"),
      writeLines(title, from, start + 14 + heading.length * LINE, "axis-title"), keys.parts, upright(y, frame),
      across(x, frame, axisTitle),
      references.map(({name, value, score}) => mark("reference", [`${name}, reference`, spoken(value, card)],
        rule(frame.left, y.at(score), frame.right, y.at(score)))),
      path ? element("path", {class: "front", d: `${path}H${frame.right}`}) : [],
      points.map(point => drawPoint(point, y, cost.unit, card)), labels], below(frame, axisTitle)];
  };
  const costScale = (spent, {left, right}) => {
    const positive = spent.filter(value => value > 0), high = Math.max(...positive), low = Math.min(...positive);
    if (high > 30 * low) return {...logarithmic(spent, left, right), isLog: true};
    if (low <= high && high <= 1.2 * low) return linear([.8 * low, ...spent, 1.2 * high], left, right, (right - left) / 65, ASIDE);
    const values = high > 3 * low ? [0, ...spent] : spent; // from zero, unless that would press all to one side
    return linear(values, left, right, (right - left) / 65, ASIDE);
  };
  const drawPoint = ({row, name, value, x, y, cost, isOnFront}, {at}, unit, card) => mark(
    `point ${isOnFront ? "on-front" : "dominated"}${row.reason ? " unranked" : ""}`,
    [name, spoken(value, card), `${short(cost)} ${unit}`,
      ...(isOnFront ? ["on the Pareto front"] : []), ...(row.reason ? [`no rank: ${row.reason}`] : [])],
    ...(hasInterval(value) ? [rule(x, at(value[1]), x, at(value[2]), "whisker")] : []), dot(x, y));

  // ---- spread over seeds

  const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;

  /** A panel a group, a line a row, a dot a seed, the best mean first. */
  const seedSpread = (rows, metrics, metric, {width = screen()} = {}) => {
    const card = {metric, ...metrics[metric]};
    const seedsOf = row => (row.seeds?.[metric] ?? []).filter(([, value]) => isKnown(value));
    const panels = groups(rows.filter(row => seedsOf(row).length)).map(([name, members]) => ({name, lines: members
      .map(row => ({name: named(row), seeds: seedsOf(row), middle: mean(seedsOf(row).map(([, value]) => value))}))
      .sort((a, b) => upwards(card.better) * (b.middle - a.middle))}))
      .filter(({lines}) => lines.some(({seeds}) => seeds.length > 1));
    if (!panels.length) return null;
    return multiples("seed-spread", `${metric} of each seed, the best mean first`, panels,
      (panel, ...place) => drawSeeds(panel, card, ...place), width);
  };

  const drawSeeds = ({name, lines}, card, from, start, width) => {
    const heading = name ? wrapBold(name, width) : [], longest = widest(lines.map(({name}) => name));
    const isAbove = longest > .4 * width; // names stand above their lines where they would take too much of the width
    const pitch = isAbove ? 36 : 24, title = headed(card), bar = (at, y) => rule(at, y - 8, at, y + 8);
    const top = start + heading.length * LINE + 26, bottom = top + lines.length * pitch + 4;
    const frame = {left: from + (isAbove ? 10 : longest + 12), right: from + width - 10, top, bottom};
    const x = linear(lines.flatMap(({seeds}) => seeds.map(([, value]) => value)), frame.left, frame.right,
      (frame.right - frame.left) / 70);
    const keys = legend([["seed", "a seed", (at, y) => dot(at + 9, y)],
      ["mean", "mean over seeds", (at, y) => bar(at + 9, y)]], from, top - 12, width);
    const draw = ({name, seeds, middle}, place) => {
      const y = top + (place + 1) * pitch - 12;
      return [rule(frame.left, y, frame.right, y, "grid"),
        isAbove ? write(cut(name, width), from, y - 12) : write(name, frame.left - 8, y + 4, "end"),
        seeds.map(([seed, value]) =>
          mark("point seed", [name, `seed ${seed}`, spoken([value], card)], dot(x.at(value), y))),
        mark("point mean", [name, `mean over ${seeds.length} seeds`, spoken([middle], card)], bar(x.at(middle), y))];
    };
    return [[writeLines(heading, from, start + 14, "heading"), keys.parts, across(x, frame, title), lines.map(draw)],
      below(frame, title)];
  };

  // ---- training method × explainer

  /** Rows of subjects that a recipe trained, named `architecture.data set.training[.variant]`. */
  const trained = (rows, metric) => rows.filter(row => !row.reference && scoreOf(row, metric)).flatMap(row => {
    const [architecture, dataset, training, ...variant] = row.subject.split("."), {condition} = row;
    return training ? [{architecture, dataset, condition, explainer: named(row), value: scoreOf(row, metric),
      training: variant.length ? `${training} (${variant.join(".")})` : training}] : [];
  });

  /** A map an architecture and condition that has two training methods or more; stronger is better. */
  const heatMap = (rows, metrics, metric, {width = screen()} = {}) => {
    const card = {metric, ...metrics[metric]}, cells = trained(rows, metric);
    const maps = groups(cells, ["architecture", "dataset", "condition"]).map(([name, members]) => ({members,
      name: name || members[0].architecture, trainings: unique(members.map(cell => cell.training)),
      explainers: unique(members.map(cell => cell.explainer))})).filter(({trainings}) => trainings.length > 1);
    if (!maps.length) return null;

    const shown = maps.flatMap(({members}) => members), most = Math.max(...maps.map(map => map.trainings.length));
    const side = Math.min(widest(shown.map(cell => cell.explainer)), .42 * width) + 8;
    const heads = widest(shown.map(cell => cell.training));
    const least = widest(shown.map(cell => digits(cell.value[0], card))) + 10;
    const size = Math.max(least, Math.min(heads + 10, (width - side) / most));
    const rise = heads > size - 4 ? heads : 0; // heads too long for their column are turned
    return multiples("heat-map", `${metric}, training method by explainer`, maps,
      (map, left, top) => drawMap(map, card, {side, size, rise}, left, top), width, side + most * size,
      [write(cut(headed(card), width), 2, 14, "axis-title"), heatKey(card.better, 2, 16 + LINE, maps.length > 1)]);
  };

  const drawMap = ({name, members, trainings, explainers}, card, {side, size, rise}, left, top) => {
    const start = left + side, first = top + 46 + rise, pitch = 26;
    const values = members.map(cell => cell.value[0]), low = Math.min(...values), high = Math.max(...values);
    const share = value => low === high ? .5 : (card.better === "lower" ? high - value : value - low) / (high - low);
    const draw = (explainer, training, x, y) => {
      const box = {x: x + 1, y: y + 1, width: size - 2, height: pitch - 2, rx: 3};
      const cell = members.find(one => one.explainer === explainer && one.training === training);
      if (!cell) return element("rect", {...box, class: "empty"});
      return mark("cell", [`${name}: ${training}, ${explainer}`, spoken(cell.value, card)],
        filled(box, share(cell.value[0]), card.better),
        write(digits(cell.value[0], card), x + size / 2, y + 17, "middle"));
    };
    return [[write(name, left + 2, top + 20, "heading"),
      trainings.map((training, column) => head(training, start + (column + .5) * size, first - 7, rise)),
      explainers.map((explainer, line) => [write(cut(explainer, side - 8), start - 6, first + line * pitch + 17, "end"),
        trainings.map((training, column) => draw(explainer, training, start + column * size, first + line * pitch))])],
    first + explainers.length * pitch];
  };
  const head = (text, x, y, isTurned) => {
    const node = write(text, isTurned ? x + 4 : x, y, isTurned ? "side" : "side middle");
    if (isTurned) node.setAttribute("transform", `rotate(-90 ${x + 4} ${y})`);
    return node;
  };
  /** Never so strong that the ink on it could not be read, on white paper or on black. */
  const filled = (box, share, better) => {
    const rect = element("rect", box), base = isDirected(better) ? "--accent-" : "--soft-";
    rect.style.fill = `color-mix(in oklab, var(${base}) ${Math.round(5 + 45 * share)}%, var(--paper-))`;
    return rect;
  };
  const heatKey = (better, x, y, areSeveral) => {
    const [from, to] = isDirected(better) ? ["worse", "better"] : ["low", "high"], start = x + wide(from) + 6;
    return group("key", write(from, x, y, "side"), ...[0, .25, .5, .75, 1].map(share =>
      filled({x: start + share * 72, y: y - 10, width: 17, height: 12, rx: 2}, share, better)),
    write(areSeveral ? `${to}, within each map` : to, start + 96, y, "side"));
  };

  // ---- deletion and insertion curves

  const QUARTERS = [0, .25, .5, .75, 1];
  const isDeletion = metric => metric.startsWith("deletion");
  const areaOf = (row, metric) => scoreOf(row, metric)?.[0];

  /** A panel a metric and group; a line a method, the best area under it first in the legend. */
  const curves = (rows, metrics, primary, {width = screen()} = {}) => {
    const names = unique(rows.flatMap(row => Object.keys(row.curves ?? {})))
      .sort((a, b) => (b === primary) - (a === primary));
    const hasCurve = (row, metric) => row.curves?.[metric]?.some(isKnown);
    const drawn = rows.filter(row => names.some(metric => hasCurve(row, metric))), methods = unique(drawn.map(named));
    const panels = groups(drawn).flatMap(([place, members]) => names.map(metric => ({place, metric, methods,
      card: metrics[metric], members: members.filter(row => hasCurve(row, metric)).sort((a, b) =>
        (isDeletion(metric) ? 1 : -1) * ((areaOf(a, metric) ?? 0) - (areaOf(b, metric) ?? 0)))})))
      .filter(({members}) => members.length);
    if (!panels.length) return null;
    return multiples("curves", "probability of the label against the share of pixels", panels, drawCurves, width, 245);
  };

  const drawCurves = ({metric, place, members, methods, card}, from, start, width) => {
    const heading = [...(place ? wrapBold(place, width) : []), ...wrapBold(metric, width)];
    const left = from + 34, right = from + width - 12, top = start + (heading.length + 1) * LINE + 6;
    const bottom = top + Math.min(190, width * .65), key = bottom + 52, frame = {left, right, top, bottom};
    const x = {at: share => left + share * (right - left), ticks: QUARTERS.map(value => ({value, text: 100 * value}))};
    const y = {at: chance => bottom - chance * (bottom - top), ticks: QUARTERS.map(value => ({value, text: value}))};
    const say = row => isKnown(areaOf(row, metric)) ? digits(areaOf(row, metric), card) : "–";
    const keyOf = (row, line) => {
      const {kind, dash} = lookOf(row, methods), base = key + line * 17;
      return group(`key ${kind}`,
        element("path", {class: "line", d: `M${from} ${base - 4}h22`, "stroke-dasharray": dash}),
        write(cut(named(row), right - left - wide(say(row)) - 4), left - 6, base), write(say(row), right, base, "end"));
    };
    return [[writeLines(heading, from, start + 14, "heading"), write("probability of the label", from, top - 8, "side"),
      upright(y, frame), across(x, frame, `pixels ${isDeletion(metric) ? "deleted" : "inserted"} (%)`),
      [...members].reverse().map(row => // the best on top
        drawCurve(named(row), row.curves[metric], x.at, y.at, lookOf(row, methods), `${metric} ${say(row)}`)),
      write("AUC", right, key - 17, "side end"), members.map(keyOf)], key + (members.length - 1) * 17 + 4];
  };
  const lookOf = (row, methods) => {
    const place = methods.indexOf(named(row));
    return {kind: `s${place % COLOURS.length + 1}`, dash: DASHES[Math.floor(place / COLOURS.length) % DASHES.length]};
  };
  const drawCurve = (name, curve, x, y, {kind, dash}, area) => {
    const steps = curve.length - 1;
    const d = curve.map((chance, step) => isKnown(chance) // a gap where there is no number
      ? `${isKnown(curve[step - 1]) ? "L" : "M"}${x(step / steps).toFixed(1)} ${y(chance).toFixed(1)}` : "").join("");
    const chances = QUARTERS.map(share => [share, curve[Math.round(share * steps)]])
      .filter(([, chance]) => isKnown(chance)).map(([share, chance]) => `${100 * share} %: ${chance.toFixed(2)}`);
    return mark(`curve ${kind}`, [name, area, `at ${chances.join(", ")}`],
      element("path", {class: "line", d, "stroke-dasharray": dash}), element("path", {class: "hit", d}));
  };

  return {pareto, seedSpread, heatMap, curves};
})();
