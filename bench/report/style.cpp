// SPDX-License-Identifier: Apache-2.0
#include "report/page.hpp"

namespace prefixshare::report {

// Eight colours of series after Okabe and Ito, who chose them so that colour-blind readers can tell them apart; darker
// on white and lighter on black than theirs, for contrast.
const char* const kStyle = R"css(
:root {
  --paper: #fdfdfb; --ink: #1b1c1e; --muted: #63666b; --rule: #dcdcd6; --grid: #ebebe6;
  --c0: #0067a5; --c1: #c8500a; --c2: #00805c; --c3: #b0568c; --c4: #8a6a00; --c5: #6b5bb5; --c6: #2f9bd6; --c7: #5c5c5c;
  --gain: #2f7fc1; --loss: #d9741a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --ink: #e4e4e0; --muted: #9a9da3; --rule: #34373c; --grid: #26292d;
    --c0: #62aeea; --c1: #f5914b; --c2: #40c49a; --c3: #e39ac6; --c4: #d9bb4a; --c5: #b1a3f0; --c6: #9fd6f7; --c7: #b4b4b4;
    --gain: #3d8fd6; --loss: #de7a20;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 17px/1.55 Charter, "Bitstream Charter", "Iowan Old Style", Georgia, "DejaVu Serif", serif;
}
h1, h2, h3, h4 { font-weight: 600; line-height: 1.25; margin: 0; }
h1 { font-size: 1.9rem; }
h2 { font-size: 1.5rem; margin-top: 2.5rem; padding-top: 1rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.2rem; margin-top: 3rem; }
h4 { font-size: 1rem; margin: 1.5rem 0 0.4rem; }
p { max-width: 44rem; margin: 0.6rem 0 1.1rem; }
p.missing { color: var(--muted); font-style: italic; }
a { color: inherit; text-decoration-color: var(--muted); text-underline-offset: 0.2em; }
nav ul, ul.legend { list-style: none; padding: 0; margin: 0.8rem 0; display: flex; flex-wrap: wrap; gap: 0.3rem 1.3rem; }
nav, ul.legend, table, summary, dl.facts { font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
nav, summary { font-size: 0.85rem; color: var(--muted); }
ul.legend { font-size: 0.82rem; }
svg.key { width: 12px; height: 12px; margin-right: 0.4rem; vertical-align: -1px; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1.2rem; font-size: 0.85rem; margin: 1rem 0; }
dl.facts dt { color: var(--muted); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
details { margin: 0.9rem 0; }
summary { cursor: pointer; }
.scroll { overflow-x: auto; margin-top: 0.5rem; }
table { border-collapse: collapse; font-size: 0.8rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
thead th { border-top: 1.5px solid var(--ink); border-bottom: 1px solid var(--ink); font-weight: 600; text-align: left;
  vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 1.5px solid var(--ink); }
tbody tr:hover { background: var(--grid); }
th, td { padding: 0.16rem 0.9rem 0.16rem 0; white-space: nowrap; }
th.n, td.n { text-align: right; }
.panels { display: flex; flex-wrap: wrap; gap: 2rem 2.5rem; margin: 1.2rem 0; align-items: flex-start; }
figure { margin: 0; flex: 0 1 31.25rem; min-width: 0; max-width: 100%; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 11px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: var(--ink);
  font-variant-numeric: tabular-nums; }
svg .heading { font-size: 12.5px; font-weight: 600; }
svg .axis, svg .muted { fill: var(--muted); }
svg .small { font-size: 9.5px; paint-order: stroke; stroke: var(--paper); stroke-width: 2.5px; stroke-linejoin: round; }
svg .number { font-size: 11.5px; }
svg line { stroke-width: 1; }
svg .grid { stroke: var(--grid); }
svg .tick, svg .base { stroke: var(--muted); }
svg .level { stroke: var(--ink); stroke-width: 1.2; }
svg .roof { stroke: var(--muted); stroke-width: 1.3; }
svg .border { stroke: var(--ink); stroke-width: 2.5; stroke-linecap: square; }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
svg .whisker { stroke-width: 1.2; }
svg .bound { stroke: var(--muted); stroke-dasharray: 5 4; }
svg .cell { fill: var(--muted); stroke: var(--paper); stroke-width: 1.5; }
svg .gain { fill: var(--gain); }
svg .loss { fill: var(--loss); }
svg .mark { stroke-width: 1.4; stroke-linejoin: round; fill-opacity: 0.7; }
.c0 { fill: var(--c0); stroke: var(--c0); } .c1 { fill: var(--c1); stroke: var(--c1); }
.c2 { fill: var(--c2); stroke: var(--c2); } .c3 { fill: var(--c3); stroke: var(--c3); }
.c4 { fill: var(--c4); stroke: var(--c4); } .c5 { fill: var(--c5); stroke: var(--c5); }
.c6 { fill: var(--c6); stroke: var(--c6); } .c7 { fill: var(--c7); stroke: var(--c7); }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); }
.s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); } .s6 { stroke: var(--c6); } .s7 { stroke: var(--c7); }
svg .t0 { fill: var(--c0); } svg .t1 { fill: var(--c1); } svg .t2 { fill: var(--c2); } svg .t3 { fill: var(--c3); }
svg .t4 { fill: var(--c4); } svg .t5 { fill: var(--c5); } svg .t6 { fill: var(--c6); } svg .t7 { fill: var(--c7); }
svg .mark.hollow { fill: var(--paper); fill-opacity: 1; }
svg .bar { stroke-width: 1; }
svg .bar.hollow { fill-opacity: 0.15; }
@media (max-width: 40rem) {
  body { padding: 1.2rem 1rem 3rem; font-size: 16px; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.25rem; }
  .panels { gap: 1.6rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  section { break-inside: avoid-page; } figure { break-inside: avoid; }
}
)css";

}  // namespace prefixshare::report
