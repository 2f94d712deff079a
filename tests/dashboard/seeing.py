"""What a page looks like to people: contrast, width, names for those who hear it."""

from __future__ import annotations

from typing import Any

from tests.dashboard.browser import Browser

# Every text that is seen, with its colour and what it stands on, as the browser has computed them.
_TEXTS = """
const seen = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const parse = (text) => {
  const parts = text.match(/[\\d.]+/g).map(Number);
  if (!text.startsWith("color(srgb")) return parts;
  return [...parts.slice(0, 3).map((one) => one * 255), parts[3] ?? 1];
};
const over = (top, below) => {
  const share = top[3] ?? 1;
  return [0, 1, 2].map((i) => share * top[i] + (1 - share) * below[i]);
};
const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
const isClipped = (one) => one && getComputedStyle(one).position === "absolute";
for (let node; (node = walker.nextNode());) {
  const one = node.parentElement;
  const isShown = one.checkVisibility({ checkVisibilityCSS: true, checkOpacity: true });
  if (!node.textContent.trim() || !isShown || isClipped(one.closest("thead"))) continue;
  if (one.closest(".unseen, .skip, script, noscript, option")) continue;
  const style = getComputedStyle(one), grounds = [];
  let opacity = 1;
  for (let up = one; up; up = up.parentElement) {
    grounds.push(parse(getComputedStyle(up).backgroundColor));
    opacity *= Number(getComputedStyle(up).opacity);
  }
  let ground = isDark ? [0, 0, 0] : [255, 255, 255];
  for (const layer of grounds.reverse()) ground = over(layer, ground);
  const color = parse(one instanceof SVGElement ? style.fill : style.color);
  const text = node.textContent.trim().slice(0, 40);
  const blended = over([...color.slice(0, 3), opacity * (color[3] ?? 1)], ground);
  seen.push({ text, in: one.tagName, color: blended, ground });
}
return seen;
"""

_TOO_WIDE = """
const width = document.documentElement.clientWidth;
const scrolls = ".scrolls, pre, .unseen, .skip, thead, [aria-hidden=true]";
const wide = [...document.querySelectorAll("body *")].filter((one) => {
  if (one.closest(scrolls) || !one.checkVisibility()) return false;
  const box = one.getBoundingClientRect();
  return box.width > 0 && (box.right > width + 1 || box.left < -1);
});
const found = document.documentElement.scrollWidth > width ? ["the page scrolls sideways"] : [];
for (const one of wide) found.push(`${one.tagName} #${one.id}: ${one.textContent.slice(0, 40)}`);
return found;
"""


def _luminance(color: list[float]) -> float:
    parts = [one / 255 for one in color]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    """The ratio of two colours' luminances, as WCAG 2 has it: 1 to 21."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def texts_seen(browser: Browser) -> list[dict[str, Any]]:
    """Every text that is shown, with its `contrast`."""
    return [
        {**one, "contrast": contrast(one["color"], one["ground"])} for one in browser.js(_TEXTS)
    ]


def too_wide(browser: Browser) -> list[str]:
    """What does not fit into the window's width; what scrolls in itself does."""
    return browser.js(_TOO_WIDE)
