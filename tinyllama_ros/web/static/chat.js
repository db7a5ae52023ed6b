// The chat page: receives the conversation from the server, and sends prompts.

import {Connection} from './connection.js';
import {Conversation, DONE} from './conversation.js';
import {LANGUAGES} from './text.js';

const byId = id => document.getElementById(id);
const BUSY = new Set(['reading', 'answering']);
const LIVE_MS = 250;
const NOTICE_MS = 8000;

const storage = {
  // A browser whose storage is disabled raises an exception
  get: name => { try { return localStorage.getItem(name); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(name, value); } catch { /* not kept */ } },
};

let language = LANGUAGES[storage.get('language')] ? storage.get('language')
  : navigator.language.startsWith('zh') ? 'zh-CN' : 'en';
let status = {state: 'connecting'};
let live = null;  // the answer that is being written: its id, when it began here, its pieces since
let isCatchingUp = false;
let countsBefore = null;  // how often each prompt was asked, before a whole log began to arrive
let epoch = '';
let version = 0;
const outbox = new Map();  // prompts by key, until the model has read them

const words = () => LANGUAGES[language];
const conversation = new Conversation(byId('log'), byId('items'), byId('newest'), words);

const connection = new Connection({
  onOpen: () => {
    isCatchingUp = connection.send({type: 'hello', epoch, version});
  },
  onMessage: message => receivers[message.type]?.(message),
  onLost: () => showStatus({state: 'connecting'}),
});

const receivers = {
  log(message) {
    if (message.is_whole) {
      countsBefore = conversation.countPrompts();
      conversation.clear();
      epoch = '';  // if the connection breaks before the last part, the log is needed again
    }
    message.items.forEach(receive);
    if (message.is_last) {
      ({epoch, version} = message);
      isCatchingUp = false;
      deliver(countsBefore);
      countsBefore = null;
    }
    showEmpty();
  },
  item({item}) {
    version = Math.max(version, item.version);
    receive(item);
    announce(item);
    showEmpty();
  },
  piece(piece) {
    if (conversation.addPiece(piece)) {
      version = piece.version;
      if (piece.text && live?.id !== piece.id) {
        live = {id: piece.id, began: performance.now(), pieces: 0};
      }
      if (piece.text) {
        live.pieces += 1;
        showSpeed();
      }
    } else if (!isCatchingUp) {
      isCatchingUp = connection.send({type: 'hello', epoch, version: 0});
    }
  },
  status: showStatus,
  error({what, key, why}) {
    if (what === 'prompt') {
      const text = outbox.get(key);
      outbox.delete(key);
      conversation.remove(key);
      if (text && !byId('prompt').value) {
        setPrompt(text);
      }
      showEmpty();
    }
    notify(words().notDone(why));
  },
};

function receive(item) {
  conversation.put(item);
  if (item.phase !== 'waiting') {
    outbox.delete(item.key);
  }
  if (item.id === live?.id && item.phase !== 'answering') {
    live = null;
  }
}

// Sends prompts again that may not have arrived. The server ignores a key that it knows. A server
// that was restarted knows no keys, but it has the prompts that the model was asked meanwhile.
function deliver(before) {
  const after = before && conversation.countPrompts();
  for (const [key, text] of [...outbox]) {
    if (before && (after.get(text) ?? 0) > (before.get(text) ?? 0)) {
      before.set(text, (before.get(text) ?? 0) + 1);
      outbox.delete(key);
    } else {
      conversation.putLocal(key, text);
      connection.send({type: 'prompt', key, text});
    }
  }
}

function sendPrompt(text) {
  const key = [...crypto.getRandomValues(new Uint32Array(4))].map(n => n.toString(36)).join('-');
  outbox.set(key, text);
  conversation.putLocal(key, text);
  conversation.goToNewest();
  showEmpty();
  connection.send({type: 'prompt', key, text});
}

function stop() {
  if (!byId('stop').hidden) {
    connection.send({type: 'stop'});
  }
}

function showStatus(message) {
  if (message.why && message.why !== status.why) {
    notify(message.why);
  }
  status = message;
  byId('state').title = status.why ?? '';
  const {state, fill, capacity} = status;
  document.body.dataset.state = state;
  byId('state-text').textContent = words()[state] ?? state;
  const isBusy = BUSY.has(state);
  if (!isBusy && document.activeElement === byId('stop')) {
    byId('prompt').focus();
  }
  byId('stop').hidden = !isBusy;
  byId('reset').disabled = !connection?.isOpen || !status.is_ready;
  if (capacity) {
    const gauge = byId('gauge');
    gauge.setAttribute('aria-valuemax', capacity);
    gauge.setAttribute('aria-valuenow', fill);
    gauge.setAttribute('aria-valuetext', words().memoryValue(fill, capacity));
    gauge.dataset.level = fill > 0.9 * capacity ? 'high' : 'low';
    byId('gauge-bar').style.width = `${100 * fill / capacity}%`;
    byId('gauge-text').textContent = `${fill} / ${capacity}`;
  }
  byId('gauge').hidden = !capacity;
  showSpeed();
}

function showSpeed() {
  const seconds = live ? (performance.now() - live.began) / 1000 : 0;
  const speed = seconds * 1000 > LIVE_MS ? (live.pieces - 1) / seconds : status.speed;
  byId('speed').textContent = speed ? words().speed(speed.toFixed(speed < 10 ? 1 : 0)) : '';
}

function showEmpty() {
  byId('empty').hidden = !conversation.isEmpty;
}

// Has a screen reader read a whole answer; single pieces would be too many.
function announce(item) {
  if (DONE.has(item.phase)) {
    byId('announcer').textContent = conversation.textOf(item);
  }
}

function notify(text) {
  const notice = byId('notice');
  notice.textContent = text;
  notice.hidden = false;
  clearTimeout(notify.timer);
  notify.timer = setTimeout(() => { notice.hidden = true; }, NOTICE_MS);
}

function setPrompt(text) {
  byId('prompt').value = text;
  fitPrompt();
}

function fitPrompt() {
  const prompt = byId('prompt');
  prompt.style.height = 'auto';
  prompt.style.height = `${prompt.scrollHeight}px`;
  byId('send').disabled = !prompt.value.trim();
}

function submit() {
  const text = byId('prompt').value.trim();
  if (text) {
    sendPrompt(text);
    setPrompt('');
  }
  byId('prompt').focus();
}

function translate() {
  const text = words();
  document.documentElement.lang = language;
  for (const [name, attribute] of [['label', 'aria-label'], ['title', 'title'],
    ['placeholder', 'placeholder']]) {
    for (const node of document.querySelectorAll(`[data-${name}]`)) {
      node.setAttribute(attribute, text[node.dataset[name]]);
    }
  }
  for (const node of document.querySelectorAll('[data-text]')) {
    node.textContent = text[node.dataset.text];
  }
  byId('suggestions').replaceChildren(...text.suggestions.map(suggestion => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = suggestion;
    button.onclick = () => { sendPrompt(suggestion); byId('prompt').focus(); };
    const entry = document.createElement('li');
    entry.append(button);
    return entry;
  }));
  conversation.translate();
  showStatus(status);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  storage.set('theme', theme);
}

byId('form').addEventListener('submit', event => {
  event.preventDefault();
  submit();
});
byId('prompt').addEventListener('input', fitPrompt);
byId('prompt').addEventListener('keydown', event => {
  // Enter also confirms a Chinese character in an input method
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener('keydown', event => {
  if (event.key === 'Escape' && !event.isComposing) {
    stop();
  }
});
byId('stop').addEventListener('click', stop);
byId('reset').addEventListener('click', () => {
  connection.send({type: 'reset'});
  byId('prompt').focus();
});
byId('language').addEventListener('click', () => {
  language = language === 'en' ? 'zh-CN' : 'en';
  storage.set('language', language);
  translate();
});
byId('theme').addEventListener('click', () => {
  const isDark = getComputedStyle(document.documentElement).colorScheme === 'dark'
    || !document.documentElement.dataset.theme
    && matchMedia('(prefers-color-scheme: dark)').matches;
  setTheme(isDark ? 'light' : 'dark');
});

if (storage.get('theme')) {
  setTheme(storage.get('theme'));
}
translate();
fitPrompt();
