// A page of headless Chromium, and the server of the files that it opens, on a free port of the
// loopback interface. What the page asks of anybody else is not answered.

import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(`${process.env.OMNIPROF_NODE_MODULES}/`);
const puppeteer = require('puppeteer-core');

const TYPES = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.wasm': 'application/wasm',
  '.json': 'application/json',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.woff2': 'font/woff2',
};

function serve(root, trace) {
  return http.createServer((request, response) => {
    const name = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
    const inside = path.join(root, name === '/' ? 'index.html' : path.normalize(name));
    const file = name === '/the-trace' ? trace : inside;
    const stream = fs.createReadStream(file);
    stream.on('error', () => {
      response.statusCode = 404;
      response.end();
    });
    stream.on('open', () => {
      response.setHeader('content-type', TYPES[path.extname(file)] ?? 'application/octet-stream');
      stream.pipe(response);
    });
  });
}

// Calls `use` with a page, the address of `root` and the page's own faults so far; the trace is
// `/the-trace` there.
export async function withPage(root, trace, use) {
  const server = serve(root, trace);
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const origin = `http://127.0.0.1:${server.address().port}`;
  const browser = await puppeteer.launch({
    executablePath: process.env.OMNIPROF_CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars'],
    headless: true,
    // A large trace keeps the page busy for minutes.
    protocolTimeout: 600_000,
  });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(300_000);
    await page.setViewport({ width: 1600, height: 1800 });
    const faults = [];
    page.on('pageerror', (error) => faults.push(String(error)));
    await use(page, origin, faults);
  } finally {
    await browser.close();
    server.close();
  }
}
