// Markdown as DOM nodes. Whatever a text holds, it can only become text: elements come from the names written below,
// every string enters by textContent, no attribute but a list's first number comes from a text, and links are not links.

const FENCE = /^ {0,3}(`{3,}|~{3,})[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*$/;
const RULE = /^ {0,3}([-*_])([ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|(\d{1,9})[.)])( +|$)/;
const DELIMITERS = /^ *\|?( *:?-+:? *\|)+( *:?-+:? *)?$/;
const INLINE = /(`+)(.+?)\1(?!`)|(\*\*|__)(?=\S)(.+?\S|\S)\3|(\*|_)(?=\S)(.+?\S|\S)\5(?!\w)|(!?)\[([^\]\n]*)\]\(([^()\s]*)\)/s;
const DEEPEST = 10; // nested quotes, lists or emphasis; what is deeper stays as it is written
const LONGEST = 20_000; // characters of a paragraph that are searched for emphasis

function add(parent, name, text) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

/** Append a text's inline parts to a node: code, bold, italic; links and images as their text and address. */
function inline(parent, text, depth = 0) {
  let rest = text;
  while (rest) {
    const found = depth < DEEPEST && rest.length <= LONGEST ? INLINE.exec(rest) : null;
    // an underscore inside a word is no emphasis: snake_case stays
    const inWord = found && (found[3] === "__" || found[5] === "_") && /\w$/.test(rest.slice(0, found.index));
    if (!found || inWord) {
      const end = inWord ? found.index + 1 : rest.length;
      parent.append(rest.slice(0, end));
      rest = rest.slice(end);
      continue;
    }
    parent.append(rest.slice(0, found.index));
    if (found[1]) add(parent, "code", found[2]);
    else if (found[3]) inline(add(parent, "strong"), found[4], depth + 1);
    else if (found[5]) inline(add(parent, "em"), found[6], depth + 1);
    else {
      if (found[7]) parent.append("image: ");
      inline(parent, found[8], depth + 1);
      const address = add(parent, "span", ` (${found[9]})`);
      address.className = "address";
    }
    rest = rest.slice(found.index + found[0].length);
  }
}

function cells(line) {
  return line.trim().replace(/^\|/, "").replace(/\|$/, "").split("|").map((cell) => cell.trim());
}

function table(parent, lines) {
  const box = add(parent, "div");
  box.className = "scroll";
  box.tabIndex = 0;
  const node = add(box, "table");
  const width = cells(lines[0]).length;
  for (const [number, line] of lines.entries()) {
    if (number === 1) continue;
    const row = add(node, "tr");
    for (const cell of cells(line).slice(0, width)) inline(add(row, number ? "td" : "th"), cell);
  }
}

/** Consecutive lines of one list; returns the line after it. */
function list(parent, lines, from, depth) {
  const first = ITEM.exec(lines[from]);
  const node = add(parent, first[3] ? "ol" : "ul");
  if (first[3]) node.start = Number(first[3]);
  let at = from;
  while (at < lines.length) {
    const mark = ITEM.exec(lines[at]);
    if (!mark || mark[1].length > first[1].length + 3 || Boolean(mark[3]) !== Boolean(first[3]) || RULE.test(lines[at])) break;
    const indent = mark[1].length + mark[2].length + 1;
    const inside = [lines[at].slice(mark[0].length)];
    for (at += 1; at < lines.length; at += 1) {
      const blank = !lines[at].trim();
      const deeper = lines[at].search(/\S/) >= Math.min(indent, mark[1].length + 2);
      const next = lines[at + 1] ?? "";
      if (blank && !(next.trim() && next.search(/\S/) >= indent)) break;
      if (!blank && !deeper && (starts(lines, at) || !inside.at(-1).trim())) break;
      inside.push(blank || !deeper ? lines[at] : lines[at].slice(Math.min(indent, lines[at].search(/\S/))));
    }
    blocks(add(node, "li"), inside, depth + 1);
    let after = at;
    while (after < lines.length && !lines[after].trim()) after += 1;
    if (after < lines.length && ITEM.test(lines[after]) && ITEM.exec(lines[after])[1].length <= first[1].length + 3) at = after;
  }
  return at;
}

/** Whether a block other than a paragraph starts at a line. */
function starts(lines, at) {
  const line = lines[at];
  const isTable = line.includes("|") && DELIMITERS.test(lines[at + 1] ?? "");
  return isTable || [FENCE, HEADING, RULE, QUOTE, ITEM].some((kind) => kind.test(line));
}

function blocks(parent, lines, depth) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    let found;
    if (!line.trim()) {
      at += 1;
    } else if (depth >= DEEPEST) {
      add(parent, "p", lines.slice(at).join("\n"));
      return;
    } else if ((found = FENCE.exec(line))) {
      const close = new RegExp(`^ {0,3}${found[1][0]}{${found[1].length},}[ \\t]*$`);
      let end = at + 1;
      while (end < lines.length && !close.test(lines[end])) end += 1;
      add(add(parent, "pre"), "code", lines.slice(at + 1, end).join("\n"));
      at = end + 1;
    } else if ((found = HEADING.exec(line))) {
      inline(add(parent, `h${Math.min(6, found[1].length + 2)}`), found[2]);
      at += 1;
    } else if (RULE.test(line)) {
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
      table(parent, lines.slice(at, end));
      at = end;
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
  if (raw) {
    add(node, "p", text).className = "text written";
  } else {
    blocks(node, text.split(/\r\n|\n|\r/).map((line) => line.replaceAll("\t", "    ")), 0);
  }
}
