// A plugin for markdown-it that leaves formulas and products as they are written.
//
// Formulas stand in \( \), \[ \], $ $ or $$ $$: nothing in them is markdown, and a single backslash
// before a bracket stays, too. In products such as 2*3*4 the asterisk begins no emphasis.

const BACKSLASH = 0x5C;
const DOLLAR = 0x24;
// A dollar of a price closes nothing: "$5 and $6"
const INLINE = /(?:\\\([\s\S]+?\\\)|\\\[[\s\S]+?\\\]|\$\$[\s\S]+?\$\$|\$(?!\s)(?:\\.|[^$\\\n])+?(?<!\s)\$(?!\d)|\\[()[\]])/y;
const DISPLAY_BEGIN = /^(\\\[|\$\$)/;
const DISPLAY_END = {'\\[': '\\]', '$$': '$$'};
const BEFORE_OPERATOR = /[\p{Script=Latin}\p{Script=Greek}\p{Number})\]}]/u;

export function formulas(parser) {
  parser.inline.ruler.before('escape', 'formula', inlineFormula);
  parser.block.ruler.before('fence', 'formula', displayFormula,
    {alt: ['paragraph', 'reference', 'blockquote', 'list']});
  const {State} = parser.inline;
  parser.inline.State = class extends State {
    // An asterisk behind a number, a letter or a bracket is an operator and opens no emphasis.
    // Chinese has no spaces, so that its letters do not count.
    scanDelims(start, canSplitWord) {
      const found = super.scanDelims(start, canSplitWord);
      const isOperator = this.src[start] === '*' && BEFORE_OPERATOR.test(this.src[start - 1] ?? '');
      return isOperator ? {...found, can_open: false} : found;
    }
  };
}

function inlineFormula(state, isSilent) {
  const code = state.src.charCodeAt(state.pos);
  if (code !== BACKSLASH && code !== DOLLAR) {
    return false;
  }
  INLINE.lastIndex = state.pos;
  const formula = INLINE.exec(state.src)?.[0];
  if (!formula) {
    return false;
  }
  if (!isSilent) {
    pushLines(state, formula);
  }
  state.pos += formula.length;
  return true;
}

function pushLines(state, text) {
  text.split('\n').forEach((line, i) => {
    if (i > 0) {
      state.push('softbreak', 'br', 0);
    }
    state.push('text', '', 0).content = line;
  });
}

// Keeps the lines of a formula together, of which one may look like a list or a heading.
function displayFormula(state, startLine, endLine, isSilent) {
  const line = number => state.src.slice(state.bMarks[number] + state.tShift[number],
    state.eMarks[number]).trimEnd();
  const begin = DISPLAY_BEGIN.exec(line(startLine))?.[0];
  if (!begin) {
    return false;
  }
  const end = DISPLAY_END[begin];
  let last = startLine;
  while (!(line(last).endsWith(end) && (last > startLine || line(last).length > begin.length))) {
    last += 1;
    if (last >= endLine || state.sCount[last] < state.blkIndent) {
      return false;
    }
  }
  if (isSilent) {
    return true;
  }
  state.line = last + 1;
  const open = state.push('paragraph_open', 'p', 1);
  open.map = [startLine, state.line];
  const inline = state.push('inline', '', 0);
  inline.content = state.getLines(startLine, state.line, state.blkIndent, false).trim();
  inline.map = [startLine, state.line];
  inline.children = [];
  state.push('paragraph_close', 'p', -1);
  return true;
}
