"use strict";
/* Arrays from base64, and a text of marked symbols through which a cursor moves. */
const DATA = JSON.parse(document.getElementById("data").textContent);
const numbers = (packed, Kind) => new Kind(Uint8Array.from(atob(packed), (c) => c.charCodeAt(0)).buffer);
const byId = (id) => document.getElementById(id);

/* Make an element with a text and a class name, both optional. */
function element(tag, words, name) {
  const made = document.createElement(tag);
  if (words !== undefined) made.textContent = words;
  if (name) made.className = name;
  return made;
}

/* Return a symbol for a list: without its line end, a byte as its number, a combining mark on a dotted circle. */
function alone(id) {
  const [shown, name] = DATA.glyphs[id], text = shown.trim() || "\u2423";
  if (name.startsWith("byte ")) return name.slice(5);
  return /^\p{M}/u.test(text) ? "\u25cc" + text : text;
}

/* Return the words by which a screen reader reads a symbol aloud. */
function spoken(id) {
  const [text, name] = DATA.glyphs[id];
  return name || text;
}

const percent = (p) => (p >= 0.0995 ? Math.round(100 * p) : p >= 0.00095 ? (100 * p).toFixed(1) : "under 0.1") + "%";
const signed = (x) => (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(2);

/* Fill a list with pairs of a class name and words: each item shows the words in the class. */
function legend(list, classes) {
  for (const [name, words] of classes) list.append(element("li")), list.lastChild.append(element("span", words, name));
}

/* Return, for each symbol, true if it is in the first word of an indented line. A browser may break such a word
   anywhere. Otherwise a word that is too long for the rest of its line would move down and leave a blank line. */
function firstWords(ids) {
  let at = "start";
  return Array.from(ids, (id) => {
    const text = DATA.glyphs[id][0], blank = text !== "" && !text.replace("\u2192\t", "").trim();
    if (text.endsWith("\n")) at = "start";
    else if (at === "start" || at === "indent") at = blank ? "indent" : at === "indent" ? "first" : "rest";
    else if (blank) at = "rest";
    return at === "first";
  });
}

const SMALL = matchMedia("(max-width: 40rem), (pointer: coarse)"); /* the condition in page.css */
const GAP = 8; /* pixels between a line and the read-out beside it */

/* A text in `box`, a span for each symbol, with a cursor at the symbol `here` (-1: none yet). tell(place, aloud) fills
   the read-out: with the symbol under the mouse, or else with the symbol at the cursor. */
class Text {
  constructor(box, ids, readout, tell) {
    this.box = box;
    this.readout = readout;
    this.tell = tell;
    this.here = -1;
    box.append(...Array.from(ids, (id) => element("span", DATA.glyphs[id][0])));
    this.spans = box.children;
    firstWords(ids).forEach((first, k) => { if (first) this.spans[k].style.wordBreak = "break-all"; });
    box.addEventListener("scroll", () => this.beside(this.shown));
    box.addEventListener("blur", () => this.beside(-1));
    window.addEventListener("resize", () => this.beside(-1));
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("focus", () => this.pressed || this.move(Math.max(this.here, 0), true));
    /* A press would focus the box, and the focus would scroll it. So the press does nothing, and the click moves the
       cursor. A text that scrolls under a mouse at rest sends mousemove too, but does not point at a symbol. */
    box.addEventListener("mousedown", (event) => this.at(event, () => event.preventDefault()));
    box.addEventListener("click", (event) => this.at(event, (place) => {
      this.pressed = true;
      box.focus({preventScroll: true});
      this.pressed = false;
      this.move(place, true);
    }));
    box.addEventListener("mousemove", (event) => {
      const mouse = `${event.clientX} ${event.clientY}`;
      if (mouse !== this.mouse) this.at(event, (place) => this.show(place, false));
      this.mouse = mouse;
    });
    box.addEventListener("mouseleave", () => (this.here >= 0 ? this.show(this.here, false) : this.beside(-1)));
  }

  /* Show a symbol in the read-out. */
  show(place, aloud) {
    this.tell(place, aloud);
    this.beside(place);
  }

  /* On a small or touched screen, put the read-out below the line of the symbol, or above it if there is no space. */
  beside(place) {
    const symbol = place >= 0 && this.rectangle(place), box = this.box.getBoundingClientRect();
    const seen = SMALL.matches && symbol && symbol.bottom > box.top && symbol.top < box.bottom;
    this.shown = place;
    this.readout.classList.toggle("beside", seen);
    if (!seen) return;
    const height = this.readout.offsetHeight, fits = symbol.bottom + GAP + height < window.innerHeight;
    const top = fits ? symbol.bottom + GAP : symbol.top - GAP - height;
    this.readout.style.top = `${top - this.box.parentNode.getBoundingClientRect().top}px`;
  }

  /* Call act(place) if an event is at a symbol. */
  at(event, act) {
    const place = event.target.parentNode === this.box ? Array.prototype.indexOf.call(this.spans, event.target) : -1;
    if (place >= 0) act(place);
  }

  /* Give each symbol the class that classes(place) returns. */
  mark(classes) {
    for (let k = 0; k < this.spans.length; k++) this.spans[k].className = classes(k);
    if (this.here >= 0) this.spans[this.here].classList.add("here");
  }

  /* Move the cursor to a symbol. */
  move(place, aloud) {
    if (this.here >= 0) this.spans[this.here].classList.remove("here");
    this.here = Math.min(Math.max(place, 0), this.spans.length - 1);
    this.spans[this.here].classList.add("here");
    this.spans[this.here].scrollIntoView({block: "nearest"});
    this.show(this.here, aloud);
  }

  /* Return the rectangle in which a symbol begins: a symbol with a line end has two. */
  rectangle(place) {
    return this.spans[place].getClientRects()[0] || this.spans[place].getBoundingClientRect();
  }

  /* Return the symbol `by` lines below the cursor (above, if negative) whose left edge is nearest to the cursor's. */
  line(by) {
    const from = this.rectangle(this.here), step = Math.sign(by);
    let found = this.here, lines = 0, top = from.top;
    for (let k = this.here + step; k >= 0 && k < this.spans.length; k += step) {
      const box = this.rectangle(k);
      if (Math.abs(box.top - top) > box.height / 2) {
        if (lines === Math.abs(by)) break;
        [lines, top, found] = [lines + 1, box.top, k];
      }
      if (lines && Math.abs(box.left - from.left) <= Math.abs(this.rectangle(found).left - from.left)) found = k;
    }
    return found;
  }

  /* Return the last symbol (step 1) or the first symbol (step -1) of the cursor's line. */
  edge(step) {
    const top = this.rectangle(this.here).top;
    let found = this.here;
    while (this.spans[found + step] && Math.abs(this.rectangle(found + step).top - top) < 4) found += step;
    return found;
  }

  /* Move the cursor as a key says; `next`, where it is set, finds the next symbol of interest. */
  key(event) {
    if (event.altKey || event.metaKey || (event.ctrlKey && !["Home", "End"].includes(event.key))) return;
    const last = this.spans.length - 1;
    const moves = {
      ArrowLeft: () => this.here - 1, ArrowRight: () => this.here + 1, ArrowUp: () => this.line(-1),
      ArrowDown: () => this.line(1), PageUp: () => this.line(-10), PageDown: () => this.line(10),
      Home: () => (event.ctrlKey ? 0 : this.edge(-1)), End: () => (event.ctrlKey ? last : this.edge(1)),
      n: () => this.next && this.next(1), p: () => this.next && this.next(-1),
    };
    const move = moves[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const place = move && move();
    if (typeof place !== "number") return;
    event.preventDefault();
    this.move(place, true);
  }
}
