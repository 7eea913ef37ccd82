// usb_host.mjs - a USB host for the emulated Pico: enumerates it as an operating system does,
// opens its serial port, and carries bytes. Strict where hosts are lenient: what breaks USB's
// rules (a data toggle, a length, a descriptor) ends the emulator with an error.
//
// rp2040js has the controller's registers, but takes a packet from the firmware the moment that
// it is ready, and knows no toggles, no NAK and no STALL; its own USBCDC host answers every
// waiting OUT buffer with an empty packet at once, and asks for nothing but what it needs. So the
// buffers are this file's: the firmware's words of control are read when the host asks (IN) or
// sends (OUT), 50 µs a packet, about what 64 bytes take on the wire.
// Not modelled: suspend, errors on the wire, times of the bus other than that.
const PACKET_NANOSECONDS = 50000;
const AVAILABLE = 1 << 10, STALL = 1 << 11, DATA1 = 1 << 13, FULL = 1 << 15, LENGTH = 0x3ff;
const PULLUP = 1 << 16, SETUP_RECEIVED = 1 << 17;
const BUFFERS = 0x80, CONTROL_AT = 0x100, PACKET = 64;
const DEVICE = 1, CONFIGURATION = 2, STRING = 3, ENDPOINT = 5, QUALIFIER = 6;
const ADDRESS = 7; // what this host gives its only device
const CODING = [0x00, 0xc2, 0x01, 0x00, 0, 0, 8]; // 115,200 baud, 8N1
const DTR_RTS = 3;

function require(fact, what) {
  if (!fact) throw new Error(`USB host: ${what}`);
}

export class UsbHost {
  waiting = []; // bytes for the device
  state = { in: 0, out: 0, toggle: new Map() };
  transfer = null; // over endpoint 0: {setup, data, length, got, stage}
  address = 0;
  ready = false; // the port is open
  scheduled = false;
  resetting = false;

  // take(bytes): what the device sent. room(): whether it may send now; a program on this
  // machine that does not read has none. log(text): what enumeration found. wake(): something
  // is to happen, though the processor may sleep.
  constructor(mcu, { take, room, log, wake }) {
    Object.assign(this, { mcu, take, room, log, wake });
    this.usb = mcu.usbCtrl;
    this.view = mcu.usbDPRAMView;
    this.alarm = mcu.clock.createAlarm(() => { this.scheduled = false; this.run(); });
    this.usb.DPRAMUpdated = (offset, value) => {
      if (offset >= BUFFERS && offset < CONTROL_AT && value & (AVAILABLE | STALL)) this.soon();
    };
    const write = this.usb.handleSieCtrlWrite.bind(this.usb);
    this.usb.handleSieCtrlWrite = (value) => {
      const before = this.usb.sieCtrl;
      write(value);
      if (!(value & ~before & PULLUP)) return; // attached: the host resets the bus
      this.resetting = true;
      this.usb.resetDevice();
    };
    this.usb.onResetReceived = () => {
      Object.assign(this, { address: 0, transfer: null, ready: false, resetting: false });
      this.state.toggle.clear();
      this.script = this.enumerate();
      this.next();
    };
  }

  // Whether something happens without the processor and without more bytes.
  get busy() { return this.scheduled || this.resetting; }

  send(bytes) {
    for (const byte of bytes) this.waiting.push(byte);
    this.soon();
  }

  soon() {
    if (this.scheduled) return;
    this.scheduled = true;
    this.alarm.schedule(PACKET_NANOSECONDS);
    this.wake();
  }

  // One packet each way at most, then again as long as packets move.
  run() {
    let moved = this.transfer ? this.control() : false;
    if (this.ready) {
      if (this.room()) {
        const data = this.in(this.state.in);
        if (data) { moved = true; if (data.length) this.take(data); }
      }
      const chunk = this.waiting.slice(0, PACKET);
      if (chunk.length && this.out(this.state.out, chunk)) {
        this.waiting.splice(0, chunk.length);
        moved = true;
      }
    }
    if (moved) this.soon();
  }

  // ---- transactions ----

  word(endpoint, out) { return BUFFERS + 8 * endpoint + (out ? 4 : 0); }

  // The device's buffer for a transaction; null: NAK.
  offered(endpoint, out) {
    require((this.usb.addrEndp & 0x7f) === this.address, 'the device has another address');
    const word = this.view.getUint32(this.word(endpoint, out), true);
    if (word & STALL) {
      require(endpoint || this.usb.epStallArm & (out ? 2 : 1), 'STALL without EP_STALL_ARM');
      return { stall: true };
    }
    if (!(word & AVAILABLE)) return null;
    const key = 2 * endpoint + (out ? 1 : 0), toggle = this.state.toggle.get(key) ?? 0;
    require(Boolean(word & DATA1) === Boolean(toggle), `endpoint ${endpoint}: the data toggle`);
    this.state.toggle.set(key, toggle ^ 1);
    const control = endpoint
      ? this.view.getUint32(8 * endpoint + (out ? 4 : 0), true) : 0x80000000 | CONTROL_AT;
    require(control >>> 31, `endpoint ${endpoint} is not enabled`);
    return { word, at: control & 0xffc0 };
  }

  done(endpoint, out, word) {
    this.view.setUint32(this.word(endpoint, out), word & ~AVAILABLE, true);
    this.usb.indicateBufferReady(endpoint, out);
  }

  in(endpoint) {
    const buffer = this.offered(endpoint, false);
    if (!buffer || buffer.stall) return buffer && null;
    require(buffer.word & FULL, `endpoint ${endpoint}: a packet that is not FULL`);
    const data = this.mcu.usbDPRAM.slice(buffer.at, buffer.at + (buffer.word & LENGTH));
    this.done(endpoint, false, buffer.word & ~FULL);
    return data;
  }

  out(endpoint, bytes) {
    const buffer = this.offered(endpoint, true);
    if (!buffer || buffer.stall) return false;
    require(bytes.length <= (buffer.word & LENGTH), `endpoint ${endpoint}: no room`);
    this.mcu.usbDPRAM.set(bytes, buffer.at);
    this.done(endpoint, true, buffer.word & ~LENGTH | FULL | bytes.length);
    return true;
  }

  // ---- control transfers ----

  // The script's next request, after the answer to the one before.
  next(answer) {
    const { value, done } = this.script.next(answer);
    if (done) return;
    this.transfer = { ...value, got: [], stage: 'setup' };
    this.soon();
  }

  // The next packet of the transfer over endpoint 0. Whether one moved.
  control() {
    const t = this.transfer, inward = t.setup[0] & 0x80 && t.length;
    if (t.stage === 'setup') {
      if (this.usb.sieStatus & SETUP_RECEIVED) return true; // not taken yet
      this.usb.epStallArm = 0;
      this.state.toggle.set(0, 1).set(1, 1); // DATA1 comes next, either way
      this.usb.sendSetupPacket(Uint8Array.from(t.setup));
      t.stage = t.length ? 'data' : 'status';
      return true;
    }
    const out = Boolean(inward) === (t.stage === 'status');
    if (this.usb.sieStatus & SETUP_RECEIVED) return false; // or an old STALL would count
    if (this.view.getUint32(this.word(0, out), true) & STALL) {
      this.offered(0, out);
      return this.end(null);
    }
    if (t.stage === 'status') {
      this.state.toggle.set(out ? 1 : 0, 1);
      const found = out ? this.out(0, []) : this.in(0);
      if (!found) return false;
      require(out || !found.length, 'a status stage with data');
      return this.end(t.got);
    }
    if (out) {
      if (!this.out(0, t.data)) return false;
      t.stage = 'status';
      return true;
    }
    const data = this.in(0);
    if (!data) return false;
    t.got.push(...data);
    require(t.got.length <= t.length, 'more than was asked for');
    if (data.length < PACKET || t.got.length === t.length) t.stage = 'status';
    return true;
  }

  end(result) {
    this.transfer = null;
    this.next(result);
    return true;
  }

  // ---- enumeration ----

  // A request. What comes back are the bytes that came, or null when the device refused it.
  * request(type, request, value, index, lengthOrData = 0) {
    const data = Array.isArray(lengthOrData) ? lengthOrData : [];
    const length = Array.isArray(lengthOrData) ? data.length : lengthOrData;
    const two = (number) => [number & 0xff, number >> 8];
    const setup = [type, request, ...two(value), ...two(index), ...two(length)];
    return yield { setup, data, length };
  }

  * descriptor(type, index, length, language = 0) {
    return yield* this.request(0x80, 6, type << 8 | index, language, length);
  }

  * text(index) {
    const found = yield* this.descriptor(STRING, index, 255, 0x409);
    require(found && found[0] === found.length && found[1] === STRING, `string ${index}`);
    return Buffer.from(found.slice(2)).toString('utf16le');
  }

  * enumerate() {
    const first = yield* this.descriptor(DEVICE, 0, PACKET);
    require(first?.length === 18 && first[7] === PACKET, 'a device descriptor of 18 bytes');
    require(yield* this.request(0x00, 5, ADDRESS, 0), 'SET_ADDRESS');
    this.address = ADDRESS;
    const device = yield* this.descriptor(DEVICE, 0, 18);
    require((yield* this.descriptor(QUALIFIER, 0, 10)) === null, 'full speed has no qualifier');
    const head = yield* this.descriptor(CONFIGURATION, 0, 9);
    const all = yield* this.descriptor(CONFIGURATION, 0, head[2] | head[3] << 8);
    require(all?.length === (head[2] | head[3] << 8), 'wTotalLength');
    yield* this.descriptor(STRING, 0, 255);
    const names = [];
    for (const index of device.slice(14, 17)) names.push(yield* this.text(index));
    for (let at = 0; at < all.length; at += all[at]) {
      require(all[at] >= 2 && at + all[at] <= all.length, 'a descriptor beyond the last');
      if (all[at + 1] !== ENDPOINT || (all[at + 3] & 3) !== 2) continue;
      require(all[at + 4] === PACKET, 'packets of 64 bytes');
      this.state[all[at + 2] & 0x80 ? 'in' : 'out'] = all[at + 2] & 15;
    }
    require(this.state.in && this.state.out, 'a bulk endpoint each way');
    require(yield* this.request(0x00, 9, 1, 0), 'SET_CONFIGURATION');
    require(yield* this.request(0x21, 0x20, 0, 0, CODING), 'SET_LINE_CODING');
    const coding = yield* this.request(0xa1, 0x21, 0, 0, 7);
    require(String(coding) === String(CODING), 'GET_LINE_CODING');
    require(yield* this.request(0x21, 0x22, DTR_RTS, 0), 'SET_CONTROL_LINE_STATE');
    const hex = (at) => (device[at] | device[at + 1] << 8).toString(16).padStart(4, '0');
    this.ready = true;
    this.log(`USB ${hex(8)}:${hex(10)} ${names.join(' ')}`);
    this.soon();
  }
}
