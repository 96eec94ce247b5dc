// Opens an HTML file in headless Chromium from disk and prints what a browser sees, as JSON:
// console messages, requests, horizontal overflow (of the page, and tables that are cut off) and axe-core violations at each width and
// in both colour schemes; what the filter of changed questions leaves to be seen; screenshots where a folder is given.
// Usage: node check.mjs FILE.html AXE.min.js|- [SHOTS_DIR]
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [file, axe, shots] = process.argv.slice(2);
const VIEWS = [375, 768, 1440].flatMap((width) => [[width, "light"], [width, "dark"]]);
const profile = mkdtempSync(join(tmpdir(), "chromium-"));
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank"];
const browser = spawn("chromium", flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const [, , , input, output] = browser.stdio;

let next = 1, rest = "", listener = () => {};
const waiting = new Map();
output.on("data", (data) => {
  const parts = (rest + data).split("\0");
  rest = parts.pop();
  for (const part of parts) {
    const message = JSON.parse(part);
    if (message.id) { waiting.get(message.id)(message); waiting.delete(message.id); } else listener(message);
  }
});
const send = (method, params = {}, sessionId) => new Promise((done) => {
  waiting.set(next, (message) => done(message.result ?? { error: message.error }));
  input.write(JSON.stringify({ id: next++, method, params, sessionId }) + "\0");
});

const { targetId } = await send("Target.createTarget", { url: "about:blank" });
const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
const page = (method, params) => send(method, params, sessionId);
const run = async (expression) => (await page("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true })).result?.value;
const press = async (key, windowsVirtualKeyCode, text) => {
  for (const type of ["keyDown", "keyUp"]) await page("Input.dispatchKeyEvent", { type, key, code: key, windowsVirtualKeyCode, text });
};
const SEEN = "[...document.querySelectorAll('.changed')].filter((one) => one.checkVisibility()).length";
const byKeys = async () => {
  await run("document.getElementById('side-all')?.focus()");
  await press("ArrowRight", 39);
  const filter = await run(`[document.querySelector("[name=side]:checked")?.id, ${SEEN}]`);
  await run("document.getElementById('side-all')?.click(); document.querySelector('button[popovertarget]')?.focus()");
  await press("Enter", 13, "\r");
  const opened = await run("document.querySelectorAll(':popover-open').length");
  await press("Escape", 27);
  return { filter, opened, closed: await run("document.querySelectorAll(':popover-open').length === 0") };
};
const found = { console: [], requests: [], dialogs: 0, pages: [] };
let loaded;
listener = ({ method, params }) => {
  if (method === "Runtime.consoleAPICalled") found.console.push(params.args.map((arg) => arg.value).join(" "));
  if (method === "Log.entryAdded") found.console.push(`${params.entry.level}: ${params.entry.text}`);
  if (method === "Runtime.exceptionThrown") found.console.push(params.exceptionDetails.text);
  if (method === "Network.requestWillBeSent" && !/^(data|file|about):/.test(params.request.url)) found.requests.push(params.request.url);
  if (method === "Page.javascriptDialogOpening") { found.dialogs++; page("Page.handleJavaScriptDialog", { accept: true }); }
  if (method === "Page.loadEventFired") loaded();
};
for (const domain of ["Page", "Runtime", "Log", "Network"]) await page(`${domain}.enable`);
await page("Page.setBypassCSP", { enabled: false });
for (const [width, scheme] of VIEWS) {
  await page("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: false });
  await page("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  const done = new Promise((resolved) => { loaded = resolved; });
  await page("Page.navigate", { url: pathToFileURL(resolve(file)).href });
  await done;
  const overflow = await run("document.documentElement.scrollWidth - document.documentElement.clientWidth");
  const cut = await run(`[...document.querySelectorAll(".wide")].filter((one) => one.scrollWidth > one.clientWidth)
    .map((one) => one.getAttribute("aria-label"))`);
  const filtered = await run(`["side-all", "side-gained", "side-lost", "task-1"].map((id) => { document.getElementById(id)?.click();
    if (id === "task-1") document.getElementById("side-all")?.click();
    return ${SEEN}; })`);
  await run("document.getElementById('task-0')?.click()");
  const keys = await byKeys();
  if (shots) {
    await run("document.querySelector('#responses details')?.setAttribute('open', '')");
    const shot = await page("Page.captureScreenshot", { captureBeyondViewport: true });
    writeFileSync(join(shots, `${width}-${scheme}.png`), Buffer.from(shot.data, "base64"));
  }
  let violations = [];
  if (axe !== "-") {
    await page("Runtime.evaluate", { expression: readFileSync(axe, "utf8") });
    await run("document.querySelectorAll('details').forEach((one) => { one.open = true; })");
    violations = JSON.parse(await run(`axe.run(document).then((found) => JSON.stringify(found.violations.map(
      (one) => ({ id: one.id, impact: one.impact, nodes: one.nodes.length, first: one.nodes[0].html.slice(0, 200) }))))`));
  }
  found.pages.push({ width, scheme, overflow, cut, filtered, keys, violations });
}
await send("Browser.close");
await new Promise((done) => browser.on("close", done));
rmSync(profile, { recursive: true, force: true });
console.log(JSON.stringify(found, null, 1));
process.exit(0);
