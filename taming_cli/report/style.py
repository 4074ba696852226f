"""How the pages look: on paper-white and in the dark, from 390 pixels to a desk's width; fonts are those at hand."""

STYLE = """
:root {
  --paper: #fcfbf9; --ink: #1d1d1f; --soft: #6a6965; --line: #e4e1db; --panel: #f4f2ee;
  --hue0: #12668f; --hue1: #b2500b; --hue2: #221a2c; --hue3: #8a2be2; --hue4: #5f5a45; --hue5: #14148c; --faint: .42;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L", Georgia, serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #161719; --ink: #e9e7e3; --soft: #9d9b96; --line: #313236; --panel: #1f2023;
    --hue0: #79c1e6; --hue1: #f0a465; --hue2: #d65cff; --hue3: #f4ef4a; --hue4: #6f9786; --hue5: #c6f5d8; --faint: .5;
  }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1120px; margin: 0 auto; padding: clamp(2rem, 6vw, 5rem) clamp(1.1rem, 4vw, 2.5rem) 6rem; }
h1, h2 { font-family: var(--serif); font-weight: 500; line-height: 1.15; text-wrap: balance; }
h1 { font-size: clamp(2.1rem, 6vw, 3.2rem); margin: .1em 0 .25em; overflow-wrap: anywhere; }
h2 { font-size: 1.6rem; margin: 0 0 1.2rem; }
h3 { font-size: .8rem; font-weight: 600; letter-spacing: .07em; text-transform: uppercase; color: var(--soft);
  margin: 2.2rem 0 .9rem; }
p { max-width: 44rem; margin: 0 0 1rem; }
section { margin-top: clamp(3rem, 7vw, 5rem); }
.soft, figcaption, .eyebrow { color: var(--soft); }
.eyebrow { font-family: var(--mono); font-size: .85rem; margin: 0; }
.notice { border-left: 3px solid var(--hue1); padding-left: .9rem; overflow-wrap: anywhere; }
code, pre, .path { font-family: var(--mono); font-size: .85rem; overflow-wrap: anywhere; }
pre { background: var(--panel); border-radius: 6px; padding: .8rem 1rem; margin: .3rem 0 1.4rem;
  white-space: pre-wrap; user-select: all; }

.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: 1.6rem 2rem;
  margin-top: 2.6rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.headline b { display: block; font: 500 2.3rem/1.1 var(--serif); font-variant-numeric: lining-nums tabular-nums; }
.headline b small { font: 400 .95rem system-ui, sans-serif; color: var(--soft); }
.headline span { color: var(--soft); font-size: .9rem; }

figure { margin: 0; }
.sheet img { display: block; max-width: 100%; height: auto; border-radius: 3px; }
.sheet figcaption, .past figcaption { font-size: .9rem; margin-top: .6rem; }
.scroll { overflow-x: auto; }
.pixels img { image-rendering: pixelated; }
.wide .sheet { max-width: var(--wide); }
.wide .sheet img { width: 100%; }
.strip { display: flex; gap: 1.2rem; overflow-x: auto; padding-bottom: .6rem; }
.strip .past { flex: 1 0 9rem; max-width: 17rem; }
.past img { display: block; width: 100%; height: auto; border-radius: 2px; }
.past .band { overflow: hidden; border-radius: 3px; }
.band img { height: 100%; object-fit: cover; object-position: bottom; }
.bands { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, calc(var(--wide) / 2)), 1fr));
  gap: 1.1rem; }
.bands figcaption, .sheet figcaption, .wide h3 { position: sticky; left: 0; width: fit-content; max-width: 86vw; }
@media (max-width: 640px) {
  .scroll > .wide { width: max(100%, min(42rem, .31 * var(--wide))); }
  .cards { grid-template-columns: repeat(auto-fill, minmax(4.6rem, 1fr)); gap: .9rem .5rem; }
}

.cards { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 1.1rem .8rem;
  max-width: calc(var(--columns) * 11rem); align-items: end; }
.cards img, .cells img { display: block; width: 100%; height: auto; border-radius: 2px; }
.cards img + img, .cards .pixels + img, .cards .pixels + .pixels, .cards img + .pixels { margin-top: 2px; }
.cards figcaption { font-size: .82rem; line-height: 1.3; margin-top: .3rem; overflow-wrap: anywhere; }
.beside { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 2.4rem 2rem;
  align-items: start; }
.beside > div > img { display: block; width: 100%; height: auto; border-radius: 3px; }
.beside .whose { margin-bottom: .5rem; }
.runs { width: max-content; }
.runs .row { display: flex; gap: 2px; align-items: end; margin-bottom: 1.1rem; }
.runs .whose { margin-bottom: .4rem; }
.whose { position: sticky; left: 0; width: fit-content; max-width: 86vw; font-size: .9rem; color: var(--soft);
  overflow-wrap: anywhere; }
.whose strong { color: var(--ink); font-weight: 600; }
.row.cells > *, .labels > * { flex: none; width: 7rem; }
.labels > * { font-size: .82rem; line-height: 1.3; color: var(--soft); overflow-wrap: anywhere; padding-right: .5rem; }
.band-of img { display: block; height: var(--height); width: auto; max-width: none; border-radius: 3px; }

.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 2.4rem 1.8rem; }
.chart.wide { grid-column: 1 / -1; }
.chart figcaption { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: baseline; font-size: .8rem; }
.chart figcaption strong { flex: 1 0 100%; color: var(--ink); font-size: .98rem; font-weight: 600; }
.key::before { content: ""; display: inline-block; width: 1.1em; margin-right: .4em; vertical-align: .25em;
  border-top: 2.2px solid currentColor; }
.key.faint::before { border-top-width: 1.5px; }
.plot { position: relative; height: 170px; margin: 1.8rem 3.6rem 1.7rem 3.1rem; font-size: .75rem; line-height: 1; }
.wide .plot { height: 250px; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; stroke-linecap: round; }
.plot .grid { stroke: var(--line); stroke-width: 1; }
.plot span { position: absolute; white-space: nowrap; color: var(--soft); }
.plot .y { right: calc(100% + .6rem); transform: translateY(50%); }
.plot .x { top: calc(100% + .6rem); transform: translateX(-50%); }
.plot .last { left: calc(100% + .45rem); transform: translateY(50%); }
.plot .unit { left: -3.1rem; bottom: calc(100% + .7rem); }
.plot .steps { left: calc(100% + .45rem); top: calc(100% + .6rem); }
.hue0 { --hue: var(--hue0); } .hue1 { --hue: var(--hue1); } .hue2 { --hue: var(--hue2); }
.hue3 { --hue: var(--hue3); } .hue4 { --hue: var(--hue4); } .hue5 { --hue: var(--hue5); }
path[class*=hue] { stroke: var(--hue); }
span[class*=hue], .plot span[class*=hue] { color: var(--hue); }
.dash1 { stroke-dasharray: 8 4.5; } .dash2 { stroke-dasharray: .1 4.6; } .dash3 { stroke-dasharray: 10 4.5 .1 4.5; }
.dash4 { stroke-dasharray: 3 4; }
.strong { stroke-width: 2.2px; } .dash2.strong { stroke-width: 2.8px; }
.plot .dot { stroke-width: 6px; stroke-dasharray: none; }
.swatch { vertical-align: .1em; overflow: visible; }
.swatch path { fill: none; stroke-linecap: round; }
.legend { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; max-height: 30vh;
  overflow-y: auto; padding: .6rem 0; background: var(--paper); border-bottom: 1px solid var(--line);
  font-size: .9rem; overflow-wrap: anywhere; }
.plot span.strong { font-weight: 650; }
.faint { stroke-width: 1.3px; opacity: var(--faint); }
.plot span.faint, .key.faint { opacity: .75; }

table { border-collapse: collapse; width: 100%; font-size: .94rem; }
th, td { text-align: left; vertical-align: baseline; padding: .5rem 1.4rem .5rem 0;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem; }
tbody th { font-weight: 500; }
table.figures td:not(:last-child), table.figures thead th:not(:first-child):not(:last-child) { text-align: right; }
table.figures td:last-child { color: var(--soft); }
table.settings tbody th, table.settings td { font-family: var(--mono); font-size: .84rem; overflow-wrap: anywhere; }
table.settings td:nth-child(n+3) { color: var(--soft); }
table.compared thead th { vertical-align: bottom; overflow-wrap: break-word; }
table.compared thead th:not(:first-child) { min-width: 6.5rem; }
table.compared thead .swatch { display: block; margin: 0 0 .3rem; }
table.compared.figures thead .swatch { margin-left: auto; }
table.compared.settings td { color: inherit; min-width: 9rem; }
table.compared.figures td, table.compared.figures thead th:not(:first-child) { text-align: right; color: var(--ink); }
table.compared tbody th { position: sticky; left: 0; background: var(--paper); min-width: 8rem; max-width: 42vw; }
table.compared th small { display: block; color: var(--soft); font-weight: 400; font-size: .85em; line-height: 1.3; }
table.compared b { font-weight: 650; border-bottom: 2px solid currentColor; }
sup { font-size: .7em; line-height: 0; margin-left: .15em; }
.notes { margin-top: 1rem; font-size: .9rem; color: var(--soft); }
.notes p { margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2.group { font-size: clamp(1.9rem, 5vw, 2.5rem); margin: clamp(4rem, 9vw, 6rem) 0 0; padding-top: 1.4rem;
  border-top: 1px solid var(--line); }
h2.group + section { margin-top: 2rem; }
.scroll + p, details + .charts, p + .charts { margin-top: 1.4rem; }
.drawn { margin-top: 2.4rem; }
.drawn figcaption { font-size: .9rem; margin-top: .4rem; }
.drawn figure { margin-bottom: 1.4rem; }
.drawn img { display: block; max-width: 100%; height: auto; border-radius: 3px; }
details { margin-top: 1.4rem; }
summary { cursor: pointer; color: var(--soft); margin-bottom: .8rem; }
dl { margin: 0; }
dl div { display: grid; grid-template-columns: 11rem 1fr; gap: 0 1.4rem; padding: .45rem 0;
  border-bottom: 1px solid var(--line); }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
@media (max-width: 640px) { dl div { grid-template-columns: 1fr; } th, td { padding-right: .9rem; } }
@media print { pre, .chart, .past { break-inside: avoid; } }
"""
