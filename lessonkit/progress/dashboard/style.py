"""How the dashboard looks: the front end's own colours, so that dark and light themes both read well."""

from __future__ import annotations

__all__ = ["CLASS", "STYLE"]

CLASS = "lessonkit-dashboard"

# JupyterLab names its colours in variables; elsewhere the text's own colour has to do. Nothing sets a
# background together with a fixed text colour, so the contrast is the theme's.
_RULES = """
.X { color: var(--jp-ui-font-color1, inherit); max-width: 72em; overflow: hidden; padding: 2px; }
.X h3 { margin: .2em 0; font-size: 1.25em; }
.X h4 { margin: .7em 0 .2em; font-size: 1.05em; }
.X p { margin: .25em 0; line-height: 1.45; }
.X .lk-faint { opacity: .8; }
.X .widget-html-content, .X .widget-html > .widget-html-content { line-height: 1.45; font-size: inherit; }
.X .widget-html, .X .widget-output { height: auto; margin: 0 2px; }
.X .lk-card, .X.lk-card { border: 1px solid var(--jp-border-color1, rgba(128, 128, 128, .5)); border-radius: 6px;
  border-left: 5px solid var(--jp-brand-color1, #1f8ecd); padding: .4em .8em; margin: .3em 0; }
.X .lk-next { min-height: 5.6em; }
.X .lk-news { min-height: 2.2em; }
.X .lk-said { border-left: 5px solid var(--jp-success-color1, #1e8e5a); padding: .2em .8em; margin: .3em 0; }
.X .lk-trouble { border-left: 5px solid var(--jp-error-color1, #d9534f); padding: .2em .8em; margin: .3em 0; }
.X ul.lk-steps { margin: .1em 0 .3em; padding-left: 0; list-style: none; }
.X ul.lk-steps li { display: inline-block; margin: 0 1em .1em 0; }
.X.X table { border-collapse: collapse; font-size: inherit; margin: .3em 0; }
.X.X th, .X.X td { text-align: left; padding: .25em .7em; vertical-align: top;
  border-bottom: 1px solid var(--jp-border-color2, rgba(128, 128, 128, .35)); }
.X.X td.lk-text { min-width: 13em; }
.X .lk-wide { overflow-x: auto; }
.X progress { width: min(20em, 100%); height: .8em; vertical-align: middle;
  accent-color: var(--jp-brand-color1, #1f8ecd); }
.X svg { max-width: 100%; height: auto; }
.X .widget-checkbox { height: auto; min-height: 28px; width: auto; max-width: 100%; }
.X .widget-checkbox .widget-label-basic { white-space: normal; overflow: visible; line-height: 1.4;
  display: flex; align-items: flex-start; gap: .5em; padding: .25em 0; cursor: pointer; }
.X.X .widget-checkbox input { margin: 2px 0 0; flex: none; width: 16px; height: 16px; align-self: flex-start;
  accent-color: var(--jp-brand-color1, #1f8ecd); }
.X .widget-checkbox .widget-label { display: none; }
.X :focus-visible { outline: 2px solid var(--jp-brand-color1, #1f8ecd); outline-offset: 2px; }
@media (prefers-reduced-motion: no-preference) {
  .X .lk-cheer { animation: lk-cheer .5s ease-out 1; }
  @keyframes lk-cheer { from { transform: scale(.96); opacity: .3; } to { transform: none; opacity: 1; } }
}
"""
STYLE = "<style>" + _RULES.replace(".X", f".{CLASS}") + "</style>"
