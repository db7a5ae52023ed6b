// The list of the conversation: turns, and marks between them.

import {blocks} from './markdown.js';

const NEAR_PX = 80;
const MOST_ENTRIES = 400;
export const DONE = new Set(['answered', 'stopped', 'failed', 'refused']);

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
}

export class Conversation {
  // words is a function that returns the texts of the current language.
  constructor(log, list, newest, words) {
    this.log = log;
    this.list = list;
    this.newest = newest;
    this.words = words;
    this.entries = new Map();  // by id: the item, its element and parts
    this.dirty = new Set();
    this.pauseMs = 0;  // before the next rendering: that of a long answer takes long
    this.isAtEnd = true;
    log.addEventListener('scroll', () => {
      this.isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
      newest.hidden = this.isAtEnd;
    });
    newest.addEventListener('click', () => this.goToNewest());
    new ResizeObserver(() => this.isAtEnd && this.goToNewest()).observe(list);
  }

  get isEmpty() {
    return this.entries.size === 0;
  }

  clear() {
    this.entries.clear();
    this.list.replaceChildren();
  }

  // Adds an item, or replaces the one with its id.
  put(item) {
    this.remove(item.key);
    const known = this.entries.get(item.id);
    const entry = known ?? {element: item.kind === 'turn' ? this.makeTurn() : make('p', 'mark')};
    const wasWaiting = !known || known.item.phase === 'waiting';
    entry.item = item;
    this.entries.set(item.id, entry);
    if (wasWaiting) {
      this.place(entry);
    }
    if (this.entries.size > MOST_ENTRIES) {
      const [[id, oldest]] = this.entries;
      oldest.element.remove();
      this.entries.delete(id);
    }
    this.render(entry);
  }

  // Shows a prompt that the server has not confirmed yet.
  putLocal(key, prompt) {
    if (![...this.entries.values()].some(({item}) => item.key === key)) {
      this.put({id: `local:${key}`, kind: 'turn', phase: 'waiting', prompt, answer: '', key: '',
        resets: [], why: ''});
    }
  }

  // Removes the local item of a prompt that the server has confirmed.
  remove(key) {
    const entry = key && this.entries.get(`local:${key}`);
    if (entry) {
      entry.element.remove();
      this.entries.delete(entry.item.id);
    }
  }

  // Appends text or a reset to an answer; returns false where text before the piece is missing.
  addPiece({id, at, text, reset}) {
    const entry = this.entries.get(id);
    if (!entry || entry.item.answer.length < at) {
      return false;
    }
    entry.item.answer = entry.item.answer.slice(0, at) + text;
    if (reset) {
      entry.item.resets.push([at, reset]);
    } else {
      entry.item.phase = 'answering';
    }
    if (this.dirty.size === 0) {
      setTimeout(() => requestAnimationFrame(() => {
        const began = performance.now();
        this.dirty.forEach(each => this.render(each));
        this.dirty.clear();
        this.pauseMs = 3 * (performance.now() - began);
      }), this.pauseMs);
    }
    this.dirty.add(entry);
    return true;
  }

  // Returns how often each prompt was put to the model.
  countPrompts() {
    const counts = new Map();
    for (const {item} of this.entries.values()) {
      if (item.kind === 'turn' && item.phase !== 'waiting') {
        counts.set(item.prompt, (counts.get(item.prompt) ?? 0) + 1);
      }
    }
    return counts;
  }

  // Returns an item as text for a screen reader.
  textOf(item) {
    const {element, answer} = this.entries.get(item.id);
    return answer ? [answer.textContent, this.noteOf(item)].filter(Boolean).join('. ')
      : element.textContent;
  }

  translate() {
    this.entries.forEach(entry => this.render(entry));
  }

  goToNewest() {
    this.isAtEnd = true;
    this.log.scrollTop = this.log.scrollHeight;
  }

  // Prompts that wait come last; all others in the order in which they arrive.
  place(entry) {
    const waiting = [...this.entries.values()].find(each => each !== entry
      && each.item.phase === 'waiting' && each.element.isConnected);
    const isLast = entry.item.phase === 'waiting' || !waiting;
    this.list.insertBefore(entry.element, isLast ? null : waiting.element);
  }

  makeTurn() {
    return make('article', 'turn', make('h2', 'unseen'), make('p', 'prompt'),
      make('h2', 'unseen'), make('div', 'answer'), make('p', 'note'));
  }

  render(entry) {
    const {item, element} = entry;
    const words = this.words();
    element.dataset.phase = item.phase;
    if (item.kind !== 'turn') {
      element.textContent = item.kind === 'restart' ? words.restart
        : words.resets[item.why] ?? item.why;
      return;
    }
    const [you, prompt, answerTitle, answer, note] = element.children;
    entry.answer = answer;
    you.textContent = words.you;
    prompt.textContent = item.prompt;
    prompt.hidden = you.hidden = !item.prompt;
    answerTitle.textContent = words.answered;
    this.renderAnswer(answer, item);
    answerTitle.hidden = answer.hidden = !answer.childNodes.length;
    answer.setAttribute('aria-busy', String(!DONE.has(item.phase)));
    note.textContent = this.noteOf(item);
    note.hidden = !note.textContent;
  }

  renderAnswer(answer, item) {
    const parts = blocks((item.is_joined_late ? '… ' : '') + item.answer);
    const nodes = parts.map(({node}) => node);
    // A reset in the middle of a block is shown after the block
    for (const [at, reason] of [...item.resets].reverse()) {
      const line = item.answer.slice(0, at).split('\n').length - 1;
      const place = at === 0 ? 0 : parts.filter(part => part.line <= line).length;
      nodes.splice(place, 0, make('p', 'mark', this.words().resets[reason] ?? reason));
    }
    // Unchanged elements stay, and so does a selection in them
    nodes.forEach((node, i) => {
      const old = answer.childNodes[i];
      if (!old) {
        answer.append(node);
      } else if (!old.isEqualNode(node)) {
        old.replaceWith(node);
      }
    });
    while (answer.childNodes.length > nodes.length) {
      answer.lastChild.remove();
    }
  }

  noteOf({phase, why}) {
    const words = this.words();
    switch (phase) {
      case 'waiting':
      case 'reading':
        return `${words[phase]}…`;
      case 'stopped':
        return why ? `${words.stopped}: ${why}` : words.stopped;
      case 'failed':
      case 'refused':
        return `${words[phase]}: ${why}`;
      default:
        return '';
    }
  }
}
