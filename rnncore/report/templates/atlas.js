/* The atlas: for each probe an excerpt marked by the cell that follows it best; the whole text marked by any cell. */
const ATLAS = DATA.atlas;
const VALUES = numbers(ATLAS.values, Int8Array);
const ATLAS_IDS = numbers(ATLAS.ids, Uint16Array).slice(0, ATLAS.shown);
const LEVELS = [0.1, 0.35, 0.6, 0.85];
const cellName = (place) => ATLAS.cells[place].join(".");
const cellValue = (place, k) => VALUES[place * ATLAS.shown + k] / 127;

/* Return the class of a value of tanh c: n4 ... n1 if it is negative, p1 ... p4 if it is positive, none near 0. */
function leaning(value) {
  const level = LEVELS.filter((edge) => Math.abs(value) >= edge).length;
  return level ? (value < 0 ? "n" : "p") + level : "";
}

/* Fill a box with the symbols begin .. end, marked by the cell at `place`. Neighbours of one class share a span. */
function picture(box, place, [begin, end]) {
  const first = firstWords(ATLAS_IDS.slice(begin, end));
  for (let k = begin, name; k < end; k++) {
    const text = DATA.glyphs[ATLAS_IDS[k]][0], before = name;
    name = `${leaning(cellValue(place, k))} ${first[k - begin] ? "first" : ""}`.trim();
    if (k > begin && name === before) box.lastChild.textContent += text;
    else box.append(element("span", text, name));
  }
}

/* Make the card of a probe: its name, its excerpt, and a button for each of its best cells. */
function card(probe, choose) {
  const made = element("article", undefined, "probe"), follow = element("div", undefined, "follow");
  const text = element("div", undefined, "excerpt"), [first] = probe.best;
  made.append(element("h3", probe.name), element("p", probe.about), text, follow);
  picture(text, first[0], probe.excerpt);
  text.setAttribute("role", "figure");
  text.setAttribute("aria-label", `Text marked by cell ${cellName(first[0])}, which goes with: ${probe.name}`);
  for (const [place, r] of probe.best) {
    const button = element("button", `cell ${cellName(place)}, r\u202f=\u202f${signed(r)}`);
    button.type = "button";
    button.addEventListener("click", () => choose(place, true));
    follow.append(button);
  }
  return made;
}

/* Return a map from a cell's place to the probes that it follows, in words. */
function follows() {
  const found = new Map();
  for (const probe of ATLAS.probes) {
    for (const [place, r] of probe.best) found.set(place, [...(found.get(place) || []), `${probe.name} ${signed(r)}`]);
  }
  return found;
}

/* Fill the list of cells, a group for each layer. */
function options(select) {
  let group, layer;
  ATLAS.cells.forEach(([of], place) => {
    if (of !== layer) {
      group = element("optgroup");
      group.label = `layer ${of}`;
      layer = of;
      select.append(group);
    }
    const option = element("option", cellName(place));
    option.value = place;
    group.append(option);
  });
}

/* Draw the section of the cells. */
function drawAtlas() {
  const select = byId("cell"), followed = follows(), readout = byId("cell-readout");
  let place = 0;
  const text = new Text(byId("cell-text"), ATLAS_IDS, readout, (k, aloud) => {
    const value = signed(cellValue(place, k));
    readout.replaceChildren(element("b", alone(ATLAS_IDS[k])), element("span", `tanh c = ${value} in cell ${cellName(place)}`));
    if (aloud) byId("cell-live").textContent = `${spoken(ATLAS_IDS[k])}: ${value}`;
  });
  const choose = (wanted, look) => {
    place = wanted;
    select.value = String(place);
    text.mark((k) => leaning(cellValue(place, k)));
    byId("cell-follows").textContent = (followed.get(place) || []).join(", ");
    byId("cell-before").setAttribute("aria-disabled", place === 0);
    byId("cell-after").setAttribute("aria-disabled", place === ATLAS.cells.length - 1);
    text.tell(Math.max(text.here, 0), false);
    if (look) {
      byId("any").scrollIntoView({block: "start"});
      select.focus({preventScroll: true});
    }
  };
  options(select);
  select.addEventListener("change", () => choose(Number(select.value)));
  byId("cell-before").addEventListener("click", () => choose(Math.max(place - 1, 0)));
  byId("cell-after").addEventListener("click", () => choose(Math.min(place + 1, ATLAS.cells.length - 1)));
  legend(byId("cell-legend"), [
    ...LEVELS.map((edge, k) => ["n" + (k + 1), "to \u2212" + (LEVELS[k + 1] || 1)]).reverse(), ["", "0"],
    ...LEVELS.map((edge, k) => ["p" + (k + 1), "to +" + (LEVELS[k + 1] || 1)])]);
  const pictured = ATLAS.probes.filter((probe) => probe.best.length);
  byId("probes").append(...pictured.map((probe) => card(probe, choose)));
  choose(pictured.length ? pictured[0].best[0][0] : 0);
}
