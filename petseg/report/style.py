"""How ``report.html`` looks; readable on paper, on a telephone and in the dark."""

STYLE = """
:root { --ink: #1d2228; --faint: #66707a; --line: #dfe3e8; --soft: #f4f6f8; color-scheme: light dark; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 1180px; margin: 2em auto;
  padding: 0 1.2em; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.7em; margin: 0; } h2 { font-size: 1.2em; margin: 2.2em 0 .5em; border-bottom: 1px solid var(--line); }
.faint { color: var(--faint); margin: .2em 0 .8em; } figure { margin: 0; }
.cards { display: flex; flex-wrap: wrap; gap: .7em; margin-top: 1em; }
.cards div { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: .5em 1em;
  flex: 1 1 8em; }
.cards b { display: block; font-size: 1.5em; white-space: nowrap; }
.cards span { color: var(--faint); font-size: .9em; }
.cards div:first-child { background: #004678; color: #fff; } .cards div:first-child span { color: #cfe0ee; }
.curves { background: #fff; } .curves svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; margin: .6em 0; } th, td { padding: .3em .8em; text-align: right; }
th { font-weight: 600; background: var(--soft); } td:first-child, th:first-child, td.text { text-align: left; }
tr + tr { border-top: 1px solid var(--line); }
.side { display: flex; gap: 1em 3em; flex-wrap: wrap; } .side > div { flex: 0 1 auto; }
.swatch { display: inline-block; width: .85em; height: .85em; border: 1px solid #9aa3ab; border-radius: 2px;
  margin-right: .45em; vertical-align: -.05em; }
.bar { display: block; width: 110px; height: .7em; background: var(--line); border-radius: 3px; overflow: hidden; }
.bar i { display: block; height: 100%; }
.confusion td { min-width: 7em; color: #1d2228; text-align: center; } .confusion th { text-align: center; }
.confusion small { display: block; color: #55606a; }
caption { caption-side: bottom; color: var(--faint); font-size: .9em; padding-top: .4em; text-align: left; }
.legend span { margin-right: 1.3em; white-space: nowrap; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 530px), 1fr)); gap: 1em; }
.pictures figure { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: .6em;
  display: grid; grid-template-columns: repeat(4, 1fr); gap: .4em; align-items: center; align-content: start; }
.pictures figcaption { grid-column: 1 / -1; } .pictures code { float: right; }
.pictures img { width: 100%; max-height: 190px; object-fit: contain; }
.best, .median, .worst { color: #fff; border-radius: 4px; padding: .05em .5em; font-weight: 600; margin-right: .3em; }
.best { background: #00805b; } .median { background: #66707a; } .worst { background: #b84a00; }
pre, code { background: var(--soft); font-size: .9em; border-radius: 4px; } code { padding: .1em .3em; }
pre { padding: .8em; white-space: pre-wrap; overflow-wrap: anywhere; } details { margin: .7em 0; }
summary { cursor: pointer; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ea; --faint: #9aa5af; --line: #38414a; --soft: #20262c; } body { background: #14181c; }
  .curves { border-radius: 8px; padding: .5em; }
}
@media print { .pictures figure { break-inside: avoid; } }
"""
