/* The passage marked by surprise, and the button for light or dark. */
const EDGES = [1, 2, 4, 6, 8]; /* bits: a symbol is marked by the number of edges that it reaches */
const HIGH = 6; /* bits: the keys N and P go to a symbol of at least so many */

/* Draw the section of surprise. Bits and odds belong to the symbols after the first: those of symbol k lie at k - 1. */
function drawSurprise() {
  const {ids: packed, bits: packedBits, likely: packedLikely, odds: packedOdds, runners} = DATA.passage;
  const [ids, bits, likely, odds] = [packed, packedBits, packedLikely, packedOdds].map((a) => numbers(a, Uint16Array));
  const readout = byId("surprise-readout"), of = (k) => bits[k - 1] / 100;
  const expected = (k) => Array.from({length: runners}, (_, j) => {
    const at = (k - 1) * runners + j;
    return [likely[at], odds[at] / 65535];
  });
  const tell = (k, aloud) => {
    readout.replaceChildren(element("b", alone(ids[k])));
    if (k === 0) {
      readout.append(element("span", `the first ${DATA.unit}: nothing to predict it from`));
      if (aloud) byId("surprise-live").textContent = `${spoken(ids[k])}, the first ${DATA.unit}`;
      return;
    }
    const bit = of(k), list = element("ol");
    readout.append(element("span", `${bit.toFixed(2)} bits, p = ${percent(2 ** -bit)}`), element("span", "expected"), list);
    for (const [id, p] of expected(k)) {
      const item = element("li", undefined, id === ids[k] ? "true" : "");
      item.append(element("code", alone(id)), percent(p));
      list.append(item);
    }
    const others = expected(k).filter(([id]) => id !== ids[k]).map(([id, p]) => `${spoken(id)} ${percent(p)}`);
    if (aloud) byId("surprise-live").textContent = `${spoken(ids[k])}: ${bit.toFixed(1)} bits. Instead: ${others.join(", ")}`;
  };
  const text = new Text(byId("surprise-text"), ids, readout, tell);
  const level = (k) => (k ? EDGES.filter((edge) => of(k) >= edge).length : 0);
  text.mark((k) => (level(k) ? "b" + level(k) : ""));
  text.next = (step) => {
    for (let k = text.here + step; k > 0 && k < ids.length; k += step) if (of(k) >= HIGH) return k;
    return text.here;
  };
  const edges = [0, ...EDGES];
  legend(byId("bits-legend"), edges.map((edge, k) => [k ? "b" + k : "",
    k === 0 ? "under 1 bit" : k === EDGES.length ? `${edge} and more` : `${edge} to ${edges[k + 1]}`]));
  tell(0, false);
}

/* Show the button for light or dark. Until it is pressed, the page follows the system's setting. */
function offerThemes() {
  const button = byId("theme"), root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
  system.addEventListener("change", label);
  label();
}

offerThemes();
drawSurprise();
drawAtlas();
