// rp2040.mjs - a Raspberry Pi Pico on rp2040js, with what that leaves out: flash behind the SSI
// that can be erased and programmed, the boot ROM's way into flash, and a USB host
// (usb_host.mjs). The UART's line is standard input and output; the flash is a file, whose last 8
// bytes are the chip's unique id.
//
// node rp2040.mjs FOLDER FLASH FIRMWARE.bin [CUT]
//   FOLDER has node_modules/rp2040js. FIRMWARE is put at the start of flash, unless it is there.
//   CUT: the power fails in that erase or program (the first is 1), which is left half done.
//   QEDGE_USB in the environment is the number of an open socket: the serial port over USB. Without
//   it no cable is plugged in.
//   QEDGE_COUNT in the environment names a file for what ran: at the end it has a line "address
//   cycles" for every instruction in flash, addresses in hexadecimal.
// Exit: 0 when standard input ends, 75 after a power cut.
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { UsbHost } from './usb_host.mjs';

const [folder, flashName, firmwareName, cutText] = process.argv.slice(2);
const library = path.join(folder, 'node_modules', 'rp2040js', 'dist', 'esm', 'index.js');
const { RP2040, BasePeripheral, ConsoleLogger, LogLevel } = await import(pathToFileURL(library));

const ID_BYTES = 8, PAGE = 256, FIFO = 16;
const NANOSECONDS = 8; // of a cycle at 125 MHz
const SLICE = 200000, TICK_EVERY = 32; // instructions
const CUT_EXIT = 75;

const file = fs.openSync(flashName, 'r+');
const stored = fs.readFileSync(flashName);
const FLASH_BYTES = stored.length - ID_BYTES; // as large as the board's file made it
const identity = stored.subarray(FLASH_BYTES, FLASH_BYTES + ID_BYTES);
const flash = new Uint8Array(16 << 20).fill(0xff);
flash.set(stored.subarray(0, FLASH_BYTES));
const firmware = fs.readFileSync(firmwareName);
if (Buffer.compare(firmware, Buffer.from(flash.buffer, 0, firmware.length)) !== 0) {
  flash.set(firmware, 0);
  save(0, firmware.length);
}
const countName = process.env.QEDGE_COUNT;
const counts = countName ? new Float64Array(FLASH_BYTES / 2) : null;
let operations = 0;
const cut = Number(cutText ?? 0);

function save(at, count) {
  fs.writeSync(file, flash, at, count, at);
}

// Counts an erase or a program; at the cut only every other byte of it gets done.
function operate(at, count, change) {
  operations++;
  const fails = operations === cut;
  for (let i = 0; i < count; i++) if (!fails || i % 2) change(at + i, i);
  save(at, count);
  if (fails) process.exit(CUT_EXIT);
}

// The flash chip's side of the wires: a command is what comes while it is selected.
class Chip {
  selected = false;
  enabled = false; // by Write Enable, for one command
  quad = false;
  bytes = [];

  select(on) {
    if (this.selected && !on) this.finish();
    if (!this.selected && on) this.bytes = [];
    this.selected = on;
  }

  exchange(byte) {
    const n = this.bytes.push(byte) - 1, command = this.bytes[0];
    if (n === 0) return 0xff;
    if (command === 0x05) return this.enabled ? 2 : 0;
    if (command === 0x35) return this.quad ? 2 : 0;
    if (command === 0x4b) return n > 4 ? identity[n - 5] ?? 0xff : 0xff;
    if (command === 0x03) return n > 3 ? flash[(this.address() + n - 4) % FLASH_BYTES] : 0xff;
    return 0xff;
  }

  address() {
    return (this.bytes[1] << 16 | this.bytes[2] << 8 | this.bytes[3]) % FLASH_BYTES;
  }

  finish() {
    const command = this.bytes[0];
    if (command === 0x06) { this.enabled = true; return; }
    if (!this.enabled) return;
    if (command === 0x31) this.quad = Boolean(this.bytes[1] & 2);
    else if (command === 0x02) {
      const page = this.address() & ~(PAGE - 1), first = this.address() % PAGE;
      const data = new Uint8Array(PAGE).fill(0xff);
      this.bytes.slice(4).forEach((byte, i) => { data[(first + i) % PAGE] = byte; });
      operate(page, PAGE, (at, i) => { flash[at] &= data[i]; });
    } else if (command === 0x20) {
      operate(this.address() & ~4095, 4096, (at) => { flash[at] = 0xff; });
    } else return;
    this.enabled = false;
  }
}

class SSI extends BasePeripheral {
  registers = {};
  received = [];
  constructor(rp2040, name, chip) { super(rp2040, name); this.chip = chip; }
  readUint32(offset) {
    if (offset === 0x60) return this.received.shift() ?? 0;
    if (offset === 0x24) return this.received.length;
    if (offset === 0x28) return 6 | (this.received.length ? 8 : 0);
    return this.registers[offset] ?? 0;
  }
  writeUint32(offset, value) {
    if (offset === 0x60) {
      if (this.received.length === FIFO) throw new Error('SSI: receive FIFO overrun');
      if (this.chip.selected) this.received.push(this.chip.exchange(value & 0xff));
    } else {
      if (offset === 0x08 && !value) this.received = [];
      this.registers[offset] = value;
    }
  }
}

class Registers extends BasePeripheral {
  values = {};
  readUint32(offset) { return this.values[offset] ?? 0; }
  writeUint32(offset, value) { this.values[offset] = value; this.changed?.(offset, value); }
}

class SystemInfo extends BasePeripheral {
  readUint32(offset) { return offset === 4 ? 1 : 0; } // not an ASIC: the firmware can tell
}

const waitingBytes = [];
const usbLine = process.env.QEDGE_USB ? new net.Socket({ fd: Number(process.env.QEDGE_USB) }) : null;
const ROOM = 4096; // bytes that a program may leave unread before the host asks for no more
let mcu, chip, host = null;

function bootCrc(bytes) { // CRC-32, most significant bit first, as the boot ROM has it
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte << 24;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x80000000 ? crc << 1 ^ 0x04c11db7 : crc << 1;
  }
  return crc >>> 0;
}

function boot() {
  chip = new Chip();
  mcu = new RP2040();
  mcu.logger = new ConsoleLogger(LogLevel.Error, true);
  mcu.flash = flash;
  mcu.flash16 = new Uint16Array(flash.buffer);
  mcu.flashView = new DataView(flash.buffer);
  const select = new Registers(mcu, 'IO_QSPI');
  select.changed = (offset, value) => {
    if (offset === 0x0c) chip.select((value >> 8 & 3) === 2);
  };
  Object.assign(mcu.peripherals, {
    0x18000: new SSI(mcu, 'SSI', chip),
    0x14000: new Registers(mcu, 'XIP_CTRL'),
    0x40018: select,
    0x40000: new SystemInfo(mcu, 'SYSINFO'),
  });
  mcu.uart[0].onByte = (byte) => sent.push(byte);
  const watchdog = mcu.peripherals[0x40058];
  watchdog.onWatchdogTrigger = () => { resetting = true; watchdog.alarm.enable = false; };
  const write = mcu.ppb.writeUint32.bind(mcu.ppb);
  mcu.ppb.writeUint32 = (offset, value) => {
    if (offset === 0xd0c && value & 4) resetting = true;
    else write(offset, value);
  };
  const second = flash.subarray(0, 252);
  const crc = new DataView(flash.buffer).getUint32(252, true);
  if (bootCrc(second) !== crc) {
    console.error('the boot ROM finds no second stage with a right CRC in flash');
    process.exit(1);
  }
  mcu.sram.set(second, 0x41f00);
  mcu.core.SP = 0x20041f00;
  mcu.core.PC = 0x20041f00;
  if (usbLine) {
    host = new UsbHost(mcu, {
      take: (bytes) => usbLine.write(Buffer.from(bytes)),
      room: () => usbLine.writableLength < ROOM,
      log: (text) => console.error(text),
      wake,
    });
  }
}

function wake() {
  if (asleep) { asleep = false; setImmediate(slice); }
}

let sent = [], resetting = false, ended = false, asleep = false;

function flush() {
  if (!sent.length) return;
  const data = Buffer.from(sent);
  sent = [];
  for (let at = 0; at < data.length;) {
    try {
      at += fs.writeSync(1, data, at);
    } catch (error) {
      if (error.code !== 'EAGAIN') process.exit(0);
    }
  }
}

function feed() {
  const uart = mcu.uart[0];
  while (waitingBytes.length && uart.enabled && !uart.rxFIFO.full)
    uart.feedByte(waitingBytes.shift());
}

// Whether what the processor waits for has come; if not, time passes to what USB has to do.
function woken() {
  const { core, clock } = mcu;
  feed();
  while (mcu.uart[0].rxFIFO.empty && !(core.pendingInterrupts & core.enabledInterrupts)) {
    if (!host?.busy) return false;
    clock.tick(Math.max(1, clock.nanosToNextAlarm));
  }
  return true;
}

function slice() {
  const { core, clock } = mcu;
  for (let n = 0, cycles = 0; n < SLICE; n++) {
    if (core.waiting) { // rp2040js would enter the interrupt, masked or not
      core.waiting = false;
      if (!woken()) { core.waiting = asleep = true; flush(); return; }
    }
    const place = core.PC;
    const taken = core.executeInstruction();
    cycles += taken;
    if (counts && place >>> 24 === 0x10) counts[(place & 0xffffff) >> 1] += taken;
    if (n % TICK_EVERY === 0) {
      clock.tick(cycles * NANOSECONDS);
      cycles = 0;
      if (waitingBytes.length) feed();
      if (resetting) { resetting = false; flush(); boot(); break; }
    }
  }
  flush();
  if (ended && !waitingBytes.length) process.exit(0);
  setImmediate(slice);
}

process.on('exit', () => {
  if (!counts) return;
  const lines = [];
  counts.forEach((count, i) => {
    if (count) lines.push(`${(0x10000000 + 2 * i).toString(16)} ${count}\n`);
  });
  fs.writeFileSync(countName, lines.join(''));
});
process.on('SIGTERM', () => process.exit(0));
process.stdin.on('data', (data) => {
  for (const byte of data) waitingBytes.push(byte);
  wake();
});
usbLine?.on('data', (data) => host.send(data));
usbLine?.on('drain', () => host.soon());
usbLine?.on('error', () => process.exit(0)); // whoever had the other end is gone
process.stdin.on('end', () => { ended = true; if (asleep) process.exit(0); });
boot();
slice();
