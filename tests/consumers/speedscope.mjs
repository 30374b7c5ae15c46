// Opens a profile in the speedscope application, in headless Chromium.
//
//   node speedscope.mjs PROFILE TEXT   prints what the application shows of it, as JSON, once that
//                                      text is there
//
// The application is served from its npm package.

import path from 'node:path';

import { withPage } from './page.mjs';

const [profile, wanted] = process.argv.slice(2);
const app = path.join(process.env.OMNIPROF_NODE_MODULES, 'speedscope/dist/release');

await withPage(app, profile, async (page, origin, faults) => {
  await page.goto(`${origin}/#profileURL=${origin}/the-trace`);
  const shown = await page
    .waitForFunction(
      (wanted) => {
        const text = document.body.innerText;
        return text.includes(wanted) || text.includes('Something went wrong') ? text : false;
      },
      {},
      wanted,
    )
    .then((handle) => handle.jsonValue());
  console.log(JSON.stringify({ title: await page.title(), shown, faults }));
});
