// The websocket to the server, which connects again by itself.

const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 4000;
const SILENCE_MS = 10000;  // the server sends a message every 3 s

export class Connection {
  // onOpen is called when the connection is open; onMessage with each message; onLost when the
  // connection is lost.
  constructor({onOpen, onMessage, onLost}) {
    this.handlers = {onOpen, onMessage, onLost};
    this.wait = FIRST_WAIT_MS;
    this.open();
    for (const [target, event] of [[window, 'online'], [document, 'visibilitychange']]) {
      target.addEventListener(event, () => this.hurry());
    }
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  // Returns whether the message was sent; it may still be lost.
  send(message) {
    if (this.isOpen) {
      this.socket.send(JSON.stringify(message));
    }
    return this.isOpen;
  }

  open() {
    clearTimeout(this.retry);
    this.retry = null;
    const address = new URL('ws', location.href);  // a proxy may serve the page below a path
    address.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(address);
    this.socket = socket;
    socket.onopen = () => {
      this.watch(socket);
      this.handlers.onOpen();
    };
    socket.onmessage = event => {
      this.wait = FIRST_WAIT_MS;
      this.watch(socket);
      this.handlers.onMessage(JSON.parse(event.data));
    };
    socket.onclose = () => this.lose(socket);
    this.watch(socket);
  }

  // Gives up a connection without messages: a network that goes away does not close it.
  watch(socket) {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.lose(socket), SILENCE_MS);
  }

  lose(socket) {
    if (socket !== this.socket || this.retry) {
      return;
    }
    clearTimeout(this.silence);
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.handlers.onLost();
    this.retry = setTimeout(() => this.open(), this.wait);
    this.wait = Math.min(LONGEST_WAIT_MS, this.wait * 1.6);
  }

  hurry() {
    if (this.retry && document.visibilityState === 'visible') {
      this.wait = FIRST_WAIT_MS;
      this.open();
    }
  }
}
