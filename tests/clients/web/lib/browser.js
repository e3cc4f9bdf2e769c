// Headless Chromium, and a static server for the pages it opens.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".json": "application/json",
    ".wasm": "application/wasm", ".svg": "image/svg+xml", ".woff2": "font/woff2", ".woff": "font/woff",
};

/** The browser: SAMTAL_CHROMIUM, or where Debian and others put it. */
function executable() {
    const places = [process.env.SAMTAL_CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    const found = places.find((path) => path && existsSync(path));
    if (!found) throw new Error("no Chromium: install it (apt install chromium), or name it in SAMTAL_CHROMIUM");
    return found;
}

/** Starts a browser with a camera and a microphone that are pretended. */
export function launch() {
    return chromium.launch({
        executablePath: executable(),
        args: ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
    });
}

/** A page in a profile of its own; its complaints are printed if SAMTAL_CLIENT_LOG is set. */
export async function open(browser, address) {
    const context = await browser.newContext({ permissions: ["camera", "microphone"] });
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    if (process.env.SAMTAL_CLIENT_LOG) {
        page.on("console", (message) => console.error(`# ${message.type()}: ${message.text()}`));
        page.on("pageerror", (error) => console.error(`# ${error.stack}`));
    }
    await page.goto(address);
    return page;
}

/**
 * Serves `pages/` at `/`, and packages at `/npm/NAME/…`; `/cjs/NAME/…` is a file of a package in the older form of modules,
 * as a module. `routes` answer first: `{ "/path": (request body) => JSON }`.
 */
export async function serve(routes = {}) {
    const server = createServer(async (request, response) => {
        const cors = { "access-control-allow-origin": "*", "access-control-allow-headers": "*" };
        const path = decodeURIComponent(new URL(request.url, "http://x").pathname);
        try {
            if (request.method === "OPTIONS") return response.writeHead(204, cors).end();
            if (routes[path]) {
                const chunks = [];
                for await (const chunk of request) chunks.push(chunk);
                const body = chunks.length ? JSON.parse(Buffer.concat(chunks).toString()) : {};
                const answer = JSON.stringify(await routes[path](body));
                return response.writeHead(200, { ...cors, "content-type": "application/json" }).end(answer);
            }
            const { file, wrap } = locate(path);
            let content = await readFile(file);
            if (wrap) {
                content = `const module = { exports: {} }; const exports = module.exports;\n${content}\n` +
                    "export default module.exports;\n";
            }
            const type = TYPES[extname(file)] ?? "application/octet-stream";
            response.writeHead(200, { ...cors, "content-type": type }).end(content);
        } catch (error) {
            response.writeHead(404, cors).end(String(error));
        }
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    // Chromium grants media devices and storage to localhost as to a secure origin.
    return { address: `http://localhost:${server.address().port}`, close: () => server.close() };
}

function locate(path) {
    // A service worker stands beside the pages that it serves.
    if (path === "/sw.js") return { file: join(HERE, "node_modules/hydrogen-view-sdk/lib-build/sw.js"), wrap: false };
    const clean = normalize(path).replace(/^(\.\.\/)+/, "");
    const [, kind, ...rest] = clean.split("/");
    if (kind === "npm" || kind === "cjs") return { file: join(HERE, "node_modules", ...rest), wrap: kind === "cjs" };
    return { file: join(HERE, "pages", clean.endsWith("/") ? `${clean}index.html` : clean), wrap: false };
}
