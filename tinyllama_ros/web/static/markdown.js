// Turns markdown into elements of the page.
//
// The parser gives tokens, each of which becomes an element with a tag of a fixed list. No HTML is
// made, so a text cannot inject any. Images would be fetched from other servers, so they stay text.

import {formulas} from './formulas.js';
import markdownit from './vendor/markdown-it.js';

const TAGS = new Set(['a', 'blockquote', 'br', 'code', 'em', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6',
  'hr', 'li', 'ol', 'p', 'pre', 's', 'strong', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'ul']);
const ALIGNMENTS = new Set(['left', 'center', 'right']);
const parser = markdownit({html: false, breaks: true}).disable('image').use(formulas);

// Returns the blocks of a text, each with the line on which it begins.
export function blocks(text) {
  const root = document.createDocumentFragment();
  const lines = [];
  let parent = root;
  for (const token of parser.parse(text, {})) {
    if (parent === root && token.nesting >= 0) {
      lines.push(token.map ? token.map[0] : 0);
    }
    parent = append(parent, token);
  }
  return [...root.childNodes].map((node, i) => ({node, line: lines[i]}));
}

// Appends a token to an element; returns that to which the next one belongs.
function append(parent, token) {
  switch (token.type) {
    case 'inline':
      token.children.reduce(append, parent);
      return parent;
    case 'text':
    case 'text_special':
      parent.append(token.content);
      return parent;
    case 'softbreak':
    case 'hardbreak':
      parent.append(document.createElement('br'));
      return parent;
    case 'code_inline':
      parent.append(code(token.content));
      return parent;
    case 'code_block':
    case 'fence': {
      const block = document.createElement('pre');
      block.tabIndex = 0;  // it may scroll, also by keyboard
      block.append(code(token.content.replace(/\n$/, '')));
      parent.append(block);
      return parent;
    }
  }
  if (token.nesting < 0) {
    const closed = token.tag === 'table' ? parent.parentNode : parent;
    return token.hidden ? parent : closed.parentNode;
  }
  if (token.hidden) {
    return parent;  // a paragraph in a tight list
  }
  if (!TAGS.has(token.tag)) {
    parent.append(token.content);
    return parent;
  }
  const node = element(token);
  parent.append(token.tag === 'table' ? scrolling(node) : node);
  return token.nesting > 0 ? node : parent;
}

function element(token) {
  // The page has its own h1 and h2
  const heading = /^h([1-6])$/.exec(token.tag);
  const node = document.createElement(
    heading ? `h${Math.min(6, Number(heading[1]) + 2)}` : token.tag);
  if (token.tag === 'a') {
    link(node, token.attrGet('href'));
  }
  if (token.tag === 'ol' && token.attrGet('start')) {
    node.start = Number(token.attrGet('start'));
  }
  const alignment = /^text-align:(\w+)$/.exec(token.attrGet('style') ?? '')?.[1];
  if (ALIGNMENTS.has(alignment)) {
    node.style.textAlign = alignment;
  }
  return node;
}

function scrolling(table) {
  const frame = document.createElement('div');
  frame.className = 'table';
  frame.tabIndex = 0;
  frame.append(table);
  return frame;
}

function link(node, address) {
  if (/^(https?:\/\/|mailto:)/i.test(address)) {
    node.href = address;
    node.target = '_blank';
    node.rel = 'noopener noreferrer nofollow';
  }
}

function code(text) {
  const node = document.createElement('code');
  node.textContent = text;
  return node;
}
