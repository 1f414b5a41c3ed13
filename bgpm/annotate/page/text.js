// Markdown as DOM nodes. Whatever a text holds, it can only become text: elements come from the names written below,
// every string enters by textContent, no attribute but a list's first number comes from a text, and links are not links.
//
// Any text may come in, so the work grows no faster than the text: a line is read by loops that never go back, marks of
// emphasis are paired on a stack, and a text makes no more elements than its length allows. What is beyond that, or
// nested too deep, stands as it is written.

const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|(\d{1,9})[.)])( +|$)/;
const DEEPEST = 10; // nested quotes, lists or emphasis
const FREE_ELEMENTS = 200; // of any text, and
const CHARACTERS_PER_ELEMENT = 80; // for each further one

let left = 0; // elements that the text which is shown may still make

function add(parent, name, text) {
  left -= 1;
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

// ---- inside a paragraph

/** How often the character at a place stands there in a row. */
function run(text, at) {
  let end = at + 1;
  while (end < text.length && text[end] === text[at]) end += 1;
  return end - at;
}

const isWord = (character) => character !== undefined && /\w/.test(character);
const isBlank = (character) => character === undefined || /\s/.test(character);

/** For each run of backticks the place of the next one that is as long; -1 where there is none. */
function closingTicks(text) {
  const next = new Map(); // by length
  const closing = new Map(); // by place
  const runs = [];
  for (let at = text.indexOf("`"); at >= 0; at = text.indexOf("`", at)) {
    const size = run(text, at);
    runs.push([at, size]);
    at += size;
  }
  for (const [at, size] of runs.reverse()) {
    closing.set(at, next.get(size) ?? -1);
    next.set(size, at);
  }
  return closing;
}

/** For each place the next ] of the same line; -1 where there is none. */
function closingBrackets(text) {
  const closing = new Int32Array(text.length + 1).fill(-1);
  for (let at = text.length - 1; at >= 0; at -= 1) {
    closing[at] = text[at] === "]" ? at : text[at] === "\n" ? -1 : closing[at + 1];
  }
  return closing;
}

/** A link that starts with the [ at a place: its label, address and end; undefined where none does. */
function link(text, at, bracket) {
  const close = bracket[at];
  if (close < 0 || text[close + 1] !== "(") return undefined;
  let end = close + 2;
  while (end < text.length && !/[()\s]/.test(text[end])) end += 1;
  if (text[end] !== ")") return undefined;
  const [label, address, source] = [text.slice(at + 1, close), text.slice(close + 2, end), text.slice(at, end + 1)];
  return { label, address, source, end: end + 1 };
}

/** A text as strings and parts: code, links, and marks of emphasis with the number of their other end. */
function parts(text) {
  const found = [];
  const ticks = closingTicks(text);
  const bracket = text.includes("](") ? closingBrackets(text) : null;
  const open = []; // marks that wait for their end, by number
  const waiting = { "*": 0, "**": 0, _: 0, __: 0 };
  let from = 0; // of what is plain so far
  const push = (part, start, end) => {
    if (from < start) found.push(text.slice(from, start));
    found.push(part);
    from = end;
  };
  const mark = (words, at, before, after) => {
    const inWord = words[0] === "_" || words.length === 1; // snake_case and 2*3*4 hold no emphasis
    const part = { words, end: -1 };
    push(part, at, at + words.length);
    if (waiting[words] && !isBlank(before) && !(inWord && isWord(after))) {
      let start;
      do {
        start = open.pop();
        waiting[found[start].words] -= 1;
      } while (found[start].words !== words);
      found[start].end = found.length - 1;
    } else if (!isBlank(after) && !(words[0] === "_" && isWord(before))) {
      open.push(found.length - 1);
      waiting[words] += 1;
    }
  };
  let at = 0;
  while (at < text.length) {
    const character = text[at];
    if (character === "`") {
      const size = run(text, at);
      const close = ticks.get(at);
      if (close >= 0) push({ code: text.slice(at + size, close), source: text.slice(at, close + size) }, at, close + size);
      at = close >= 0 ? close + size : at + size;
    } else if (bracket && (character === "[" || (character === "!" && text[at + 1] === "["))) {
      const image = character === "!";
      const there = link(text, at + Number(image), bracket);
      if (there) push({ ...there, image }, at, there.end);
      at = there ? there.end : at + 1;
    } else if (character === "*" || character === "_") {
      const size = run(text, at);
      if (size < 4) {
        const around = [text[at - 1], text[at + size]];
        // of three in a row the single one is inside: it opens last and closes first
        const closing = size === 3 && found[open.at(-1)]?.words === character;
        if (size === 1 || closing) mark(character, at, ...around);
        if (size > 1) mark(character.repeat(2), at + Number(closing), ...around);
        if (size === 3 && !closing) mark(character, at + 2, ...around);
      }
      at += size;
    } else {
      at += 1;
    }
  }
  if (from < text.length) found.push(text.slice(from));
  return found;
}

/** Append a text's inline parts to a node: code, bold, italic; links and images as their text and address. */
function inline(parent, text) {
  if (!/[`*_[]/.test(text)) {
    parent.append(text);
    return;
  }
  const found = parts(text);
  const inside = [parent]; // elements that are open
  const ends = []; // the parts that end them
  let plain = "";
  const flush = () => {
    if (plain) inside.at(-1).append(plain);
    plain = "";
  };
  for (const [number, part] of found.entries()) {
    if (typeof part === "string") {
      plain += part;
    } else if (part.words) {
      if (number === ends.at(-1)) {
        flush();
        inside.pop();
        ends.pop();
      } else if (part.end > 0 && inside.length <= DEEPEST && left > 0) {
        flush();
        inside.push(add(inside.at(-1), part.words.length === 2 ? "strong" : "em"));
        ends.push(part.end);
      } else {
        plain += part.words;
      }
    } else if (left <= 0) {
      plain += part.source;
    } else if (part.code !== undefined) {
      flush();
      add(inside.at(-1), "code", part.code);
    } else {
      if (part.image) plain += "image: ";
      flush();
      inline(inside.at(-1), part.label);
      add(inside.at(-1), "span", ` (${part.address})`).className = "address";
    }
  }
  flush();
}

// ---- lines

/** Where the text of a line begins; -1 for a blank line. */
function indent(line) {
  return line.search(/\S/);
}

/** The row of ` or ~ that opens a block of code; empty where none does. */
function fence(line) {
  const at = indent(line);
  if (at < 0 || at > 3 || (line[at] !== "`" && line[at] !== "~")) return "";
  const size = run(line, at);
  return size < 3 || line.includes("`", at + size) ? "" : line[at].repeat(size);
}

/** Whether a line closes a block of code: a row of the same kind that is as long or longer, and nothing else. */
function closes(line, opening) {
  const row = fence(line);
  return row.startsWith(opening) && row === line.trim();
}

/** A heading's level and text; undefined where a line is none. */
function heading(line) {
  const at = indent(line);
  if (at < 0 || at > 3 || line[at] !== "#") return undefined;
  const level = run(line, at);
  if (level > 6 || line[at + level] !== " ") return undefined;
  let end = line.length;
  while (line[end - 1] === "#") end -= 1;
  return { level, text: line.slice(at + level, Math.max(end, at + level)).trim() };
}

/** Whether a line is a rule: three or more of one of - * _ and blanks. */
function rule(line) {
  const at = indent(line);
  if (at < 0 || at > 3 || !"-*_".includes(line[at])) return false;
  let count = 0;
  for (const character of line.slice(at)) {
    if (character === line[at]) count += 1;
    else if (character !== " ") return false;
  }
  return count >= 3;
}

function cells(line) {
  const row = line.trim();
  return row.slice(Number(row.startsWith("|")), row.length - Number(row.length > 1 && row.endsWith("|"))).split("|");
}

/** Whether a line divides a table's head from its body. */
function divides(line) {
  return line.includes("|") && line.includes("-") && cells(line).every((cell) => /^:?-+:?$/.test(cell.trim()));
}

/** A table from its lines; returns how many of them it took. */
function table(parent, lines) {
  const box = add(parent, "div");
  box.className = "scroll";
  box.tabIndex = 0;
  const node = add(box, "table");
  const width = cells(lines[0]).length;
  let taken = 0;
  for (; taken < lines.length && (taken < 2 || left > 0); taken += 1) {
    if (taken === 1) continue;
    const row = add(node, "tr");
    const given = cells(lines[taken]).slice(0, width);
    for (let column = 0; column < given.length; column += 1) {
      const text = left > 1 ? given[column] : given.slice(column).join("|");
      if (left <= 1) column = given.length;
      inline(add(row, taken ? "td" : "th"), text.trim());
    }
  }
  return taken;
}

/** Consecutive lines of one list; returns the line after it. */
function list(parent, lines, from, depth) {
  const first = ITEM.exec(lines[from]);
  const node = add(parent, first[3] ? "ol" : "ul");
  if (first[3]) node.start = Number(first[3]);
  let at = from;
  while (at < lines.length && (at === from || left > 0)) {
    const mark = ITEM.exec(lines[at]);
    if (!mark || mark[1].length > first[1].length + 3 || Boolean(mark[3]) !== Boolean(first[3]) || rule(lines[at])) break;
    const width = mark[1].length + mark[2].length + 1;
    const inside = [lines[at].slice(mark[0].length)];
    for (at += 1; at < lines.length; at += 1) {
      const blank = !lines[at].trim();
      const deeper = indent(lines[at]) >= Math.min(width, mark[1].length + 2);
      const next = lines[at + 1] ?? "";
      if (blank && !(next.trim() && indent(next) >= width)) break;
      if (!blank && !deeper && (starts(lines, at) || !inside.at(-1).trim())) break;
      inside.push(blank || !deeper ? lines[at] : lines[at].slice(Math.min(width, indent(lines[at]))));
    }
    blocks(add(node, "li"), inside, depth + 1);
    let after = at;
    while (after < lines.length && !lines[after].trim()) after += 1;
    const another = after < lines.length && ITEM.exec(lines[after]);
    if (another && another[1].length <= first[1].length + 3) at = after;
  }
  return at;
}

/** Whether a block other than a paragraph starts at a line. */
function starts(lines, at) {
  const line = lines[at];
  if (line.includes("|") && divides(lines[at + 1] ?? "")) return true;
  return QUOTE.test(line) || ITEM.test(line) || Boolean(fence(line)) || Boolean(heading(line)) || rule(line);
}

function blocks(parent, lines, depth) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    let found;
    if (!line.trim()) {
      at += 1;
    } else if (depth >= DEEPEST || left <= 0) {
      add(parent, "p", lines.slice(at).join("\n"));
      return;
    } else if ((found = fence(line))) {
      let end = at + 1;
      while (end < lines.length && !closes(lines[end], found)) end += 1;
      add(add(parent, "pre"), "code", lines.slice(at + 1, end).join("\n"));
      at = end + 1;
    } else if ((found = heading(line))) {
      inline(add(parent, `h${Math.min(6, found.level + 2)}`), found.text);
      at += 1;
    } else if (rule(line)) {
      add(parent, "hr");
      at += 1;
    } else if (QUOTE.test(line)) {
      let end = at;
      while (end < lines.length && QUOTE.test(lines[end])) end += 1;
      blocks(add(parent, "blockquote"), lines.slice(at, end).map((quoted) => quoted.replace(QUOTE, "")), depth + 1);
      at = end;
    } else if (ITEM.test(line)) {
      at = list(parent, lines, at, depth);
    } else if (starts(lines, at)) {
      let end = at + 2;
      while (end < lines.length && lines[end].includes("|")) end += 1;
      at += table(parent, lines.slice(at, end));
    } else {
      let end = at + 1;
      while (end < lines.length && lines[end].trim() && !starts(lines, end)) end += 1;
      inline(add(parent, "p"), lines.slice(at, end).join("\n"));
      at = end;
    }
  }
}

/** Show a text in a node: formatted, or as it is written. */
export function show(node, text, raw) {
  node.replaceChildren();
  left = FREE_ELEMENTS + Math.ceil(text.length / CHARACTERS_PER_ELEMENT);
  if (raw) {
    add(node, "p", text).className = "text written";
  } else {
    blocks(node, text.split(/\r\n|\n|\r/).map((line) => line.replaceAll("\t", "    ")), 0);
  }
}
