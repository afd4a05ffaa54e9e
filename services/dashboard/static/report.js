// The small part of Markdown that pulse reports use, as elements; never as HTML text.

import { h } from "./dom.js";

function inline(text) {
  return text.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) => {
    if (part.startsWith("**") && part.length > 4) return h("strong", {}, part.slice(2, -2));
    if (part.startsWith("`") && part.length > 2) return h("code", {}, part.slice(1, -1));
    return part;
  });
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

export function report(markdown) {
  const lines = markdown.split("\n");
  const out = [];
  for (let n = 0; n < lines.length; ) {
    const line = lines[n];
    const heading = /^(#{1,6})\s+(.*)/.exec(line);
    if (heading) {
      out.push(h(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(heading[2])));
      n += 1;
    } else if (/^\s*\|.*\|\s*$/.test(line)) {
      const rows = [];
      for (; n < lines.length && /^\s*\|.*\|\s*$/.test(lines[n]); n += 1) rows.push(lines[n]);
      const body = rows.slice(1).filter((row) => !/^[\s|:-]+$/.test(row));
      out.push(
        h("div", { class: "scroll" },
          h("table", {},
            h("thead", {}, h("tr", {}, cells(rows[0]).map((cell) => h("th", { scope: "col" }, inline(cell))))),
            h("tbody", {}, body.map((row) => h("tr", {}, cells(row).map((cell) => h("td", {}, inline(cell)))))))),
      );
    } else if (/^\s*[-*]\s+/.test(line)) {
      const items = [];
      for (; n < lines.length && /^\s*[-*]\s+/.test(lines[n]); n += 1) items.push(lines[n].replace(/^\s*[-*]\s+/, ""));
      out.push(h("ul", {}, items.map((item) => h("li", {}, inline(item)))));
    } else if (line.startsWith("```")) {
      const code = [];
      for (n += 1; n < lines.length && !lines[n].startsWith("```"); n += 1) code.push(lines[n]);
      out.push(h("pre", {}, code.join("\n")));
      n += 1;
    } else if (line.trim()) {
      const words = [];
      for (; n < lines.length && lines[n].trim() && !/^(#|\s*[-*]\s|\s*\||```)/.test(lines[n]); n += 1) words.push(lines[n]);
      out.push(words.length ? h("p", {}, inline(words.join(" "))) : h("p", {}, inline(lines[n++])));
    } else {
      n += 1;
    }
  }
  return out;
}
