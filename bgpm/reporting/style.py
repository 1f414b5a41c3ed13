"""The page's style sheet: light and dark, one column on a phone. Colours are Okabe and Ito's, lightened for dark."""

from __future__ import annotations

CSS = """
:root{color-scheme:light dark;
--bg:#fcfcfa;--card:#fff;--ink:#1c1d1f;--soft:#5b6068;--rule:#e3e3de;--grid:#ecece7;
--arm:#0072b2;--baseline:#c04f00;--other:#6d7178;--good:#00785a;
--p0:#0072b2;--p1:#e69f00;--p2:#009e73;--p3:#cc79a7;--p4:#56b4e9;--p5:#8a8f98;
--q0:#fff;--q1:#1c1d1f;--q2:#fff;--q3:#1c1d1f;--q4:#1c1d1f;--q5:#fff}
@media (prefers-color-scheme:dark){:root{
--bg:#131518;--card:#1b1e22;--ink:#e8e9ea;--soft:#a2a8b0;--rule:#31353b;--grid:#272b30;
--arm:#56b4e9;--baseline:#f09a55;--other:#a2a8b0;--good:#4fc9a2;
--p0:#2f8fc9;--p1:#d99a1c;--p2:#2aa37f;--p3:#c987a9;--p4:#7cc4ec;--p5:#7b818a;
--q0:#0c0e10;--q1:#0c0e10;--q2:#0c0e10;--q3:#0c0e10;--q4:#0c0e10;--q5:#0c0e10}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:break-word}
main{max-width:1040px;margin:0 auto;padding:40px 24px 72px}
h1,h2,h3{line-height:1.25;text-wrap:balance;margin:0}
h1{font-size:15px;font-weight:650}
h1 span{font-weight:400;color:var(--soft)}
h2{font-size:23px;letter-spacing:-.01em;margin:60px 0 6px}
p{margin:8px 0;max-width:72ch}
.soft,figcaption{color:var(--soft);font-size:14.5px;line-height:1.55}
pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.answer{display:grid;grid-template-columns:auto minmax(0,1fr);gap:12px 40px;align-items:center;margin:20px 0 8px}
.big{margin:0;line-height:1}
.big b{display:block;font-size:88px;font-weight:700;letter-spacing:-.045em;color:var(--arm)}
.big.words b{font-size:44px;letter-spacing:-.03em}
.big.muted b{color:var(--soft)}
.big span{display:block;margin-top:10px;color:var(--soft);font-size:15px;line-height:1.4}
.sentence{font-size:21px;line-height:1.45;margin:0;text-wrap:pretty}
.caveats{margin:24px 0 0;padding:0;list-style:none;display:grid;gap:12px 24px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,290px),1fr))}
.caveats li{border-left:3px solid var(--rule);padding:1px 0 1px 14px;color:var(--soft);font-size:14.5px;line-height:1.5}
figure{margin:18px 0 0}
figcaption{margin-top:8px;max-width:80ch}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,310px),1fr));gap:30px 24px;margin-top:18px}
.grid figure{margin:0}
.grid h3{margin:0 0 6px;font-weight:600;font-size:15px}
svg{display:block;max-width:100%}
.chart{width:100%;height:auto;font-size:12px;overflow:visible}
.narrow{display:none}
.chart text{fill:var(--ink)}
.chart .tick,.chart .note{fill:var(--soft)}
.chart .grid{stroke:var(--grid)}
.chart .axis{stroke:var(--soft);stroke-opacity:.6}
.chart .target{stroke:var(--soft);stroke-dasharray:2 4;stroke-linecap:round}
.arm{--c:var(--arm)}
.baseline{--c:var(--baseline)}
.other{--c:var(--other)}
.line{fill:none;stroke:var(--c);stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.line.baseline{stroke-dasharray:7 4}
.line.other{stroke-dasharray:1.5 4;stroke-width:1.6}
.band{fill:var(--c);fill-opacity:.13}
.dot{fill:var(--c)}
.dot.other{fill-opacity:0}
.drop{stroke:var(--c);stroke-width:1.2;stroke-dasharray:3 3}
.ring{fill:var(--card);stroke:var(--c);stroke-width:2.2}
.chart .name{fill:var(--c);font-weight:600}
.chart .name,.chart .note{paint-order:stroke;stroke:var(--bg);stroke-width:4px;stroke-linejoin:round}
.scroll{overflow-x:auto;margin:16px 0}
table{border-collapse:collapse;font-size:15px;line-height:1.4;min-width:min(100%,420px)}
th,td{padding:7px 16px 7px 0;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child{text-align:left;position:sticky;left:0;background:var(--bg)}
th:last-child,td:last-child{padding-right:2px}
thead th{font-weight:600;color:var(--soft);font-size:13.5px;vertical-align:bottom}
tbody th{font-weight:400}
th.arm,th.baseline,th .arm,th .baseline{color:var(--c)}
.asked td,.asked th{font-weight:650}
.mix{width:100%;table-layout:fixed;min-width:0}
.mix th{width:7.5em}
.mix td{padding-right:0}
.mix tr>*{border-bottom:0;padding-top:3px;padding-bottom:3px;vertical-align:middle}
.mix tr.after>*{padding-top:14px}
.shares{width:100%;font-size:12px}
.part{stroke:var(--bg);stroke-width:1.5}
.shares text{text-anchor:middle;font-weight:600}
.p0{fill:var(--p0)}.p1{fill:var(--p1)}.p2{fill:var(--p2)}.p3{fill:var(--p3)}.p4{fill:var(--p4)}.p5{fill:var(--p5)}
.q0{fill:var(--q0)}.q1{fill:var(--q1)}.q2{fill:var(--q2)}.q3{fill:var(--q3)}.q4{fill:var(--q4)}.q5{fill:var(--q5)}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;margin:12px 0;padding:0;list-style:none;font-size:14.5px}
.key svg{display:inline-block;width:12px;height:12px;margin-right:7px;vertical-align:-1px}
.pair{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:18px 20px;margin:16px 0}
.pair>header{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--soft);font-size:14px;margin-bottom:10px}
.pair>header b{color:var(--ink);font-weight:600}
.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;margin:0;max-width:none}
.prompt{font-weight:600;line-height:1.45;margin-bottom:14px}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:16px 28px}
.two>div{border-top:3px solid var(--rule);padding-top:9px;font-size:15px;line-height:1.5}
.two>.won{border-top-color:var(--good)}
.two h3{margin:0 0 4px;font-size:13.5px;font-weight:600;color:var(--soft)}
.two .won h3{color:var(--good)}
summary{cursor:pointer;font-weight:600;margin-top:12px}
pre{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px 18px}
pre{overflow-x:auto;margin:12px 0}
footer{margin-top:60px;padding-top:16px;border-top:1px solid var(--rule)}
@media (max-width:640px){
main{padding:24px 16px 48px}
.answer{grid-template-columns:minmax(0,1fr)}
.big b{font-size:72px}
.big.words b{font-size:38px}
.sentence{font-size:18.5px}
h2{font-size:21px;margin-top:48px}
.wide{display:none}
.narrow{display:block}
.pair{padding:14px}
.mix th{width:6.2em;white-space:normal;padding-right:8px}
table{font-size:14px}
th,td{padding-right:12px}}
@media print{.pair,figure{break-inside:avoid}}
"""
