// Bundle the page into one script and one style sheet, and write the licences of what is in them.
// `node build.mjs DIR` writes somewhere else, which the test of the committed bundle uses.
import { build } from "esbuild";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const out = process.argv[2] ?? "../src/rethink/report/web";
mkdirSync(out, { recursive: true });
await build({
  entryPoints: { page: "src/main.tsx" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome100", "firefox115", "safari16.4"],
  charset: "ascii",
  legalComments: "none",
  jsx: "automatic",
  jsxImportSource: "preact",
});

const { dependencies } = JSON.parse(readFileSync("package.json", "utf8"));
const parts = ["page.js and page.css contain the following libraries.\n"];
for (const name of Object.keys(dependencies).sort()) {
  const { version, license } = JSON.parse(readFileSync(join("node_modules", name, "package.json"), "utf8"));
  const text = readFileSync(join("node_modules", name, "LICENSE"), "utf8").trim().replaceAll("\r\n", "\n");
  parts.push(`${name} ${version} (${license})\n\n${text}\n`);
}
writeFileSync(join(out, "LICENSES.txt"), parts.join(`\n${"-".repeat(80)}\n\n`));
