#!/usr/bin/env python3
"""Draws a dashboard without Grafana: the panels of a JSON file, from the series that a real Prometheus evaluates.

    render.py --prometheus http://127.0.0.1:9090 --minutes 30 --out overview.png dashboards/grafana/dashboards/overview.json

It needs matplotlib. Places, titles, units, thresholds and value mappings are those of the file; fonts and curves are not Grafana's.
"""

import argparse
import json
import math
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import PowerNorm

DARK, PANEL, TEXT, MUTED = "#111217", "#181b1f", "#d8d9da", "#8e8e93"
COLOURS = {"green": "#37872d", "orange": "#e0752d", "red": "#c4162a", "blue": "#3274d9"}
CURVES = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffcb7d", "#96d98d", "#ca95e5"]
MOST_CURVES, MOST_ROWS = 10, 10
HIDDEN = ("__name__", "job", "instance", "alertstate")


def ask(base, path, **parameters):
    url = f"{base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def expression(text):
    words = {"$__rate_interval": "135s", "$__interval": "15s", "$__range": "1h", "$job": ".+", "$instance": ".+"}
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def legend(target, labels):
    text = target["legendFormat"]
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def shown(value, defaults):
    """A number with its unit, as Grafana shortens it."""
    if not math.isfinite(value):
        return "no data"
    for mapping in defaults["mappings"]:
        entry = mapping["options"].get(f"{value:g}")
        if entry:
            return entry["text"]
    unit, decimals = defaults["unit"], defaults.get("decimals")
    if unit == "percentunit":
        if 0 < abs(value) < 0.005:
            return f"{100 * value:.2g} %"
        return f"{100 * value:.{decimals if decimals is not None else 1}f} %"
    if unit == "s":
        for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
            if abs(value) >= size:
                return f"{value / size:.1f} {name}"
        for size, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= size:
                return f"{value / size:.{decimals if decimals is not None and size == 1 else 1}f} {name}"
        return "0 s"
    if unit in ("bytes", "Bps"):
        for size, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.1f} {name}" + ("/s" if unit == "Bps" else "")
        return f"{value:.0f} B" + ("/s" if unit == "Bps" else "")
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.5g}" + (" /s" if unit == "reqps" else "")


def colour(value, defaults):
    for mapping in defaults["mappings"]:
        entry = mapping["options"].get(f"{value:g}")
        if entry:
            return COLOURS[entry["color"]]
    reached = [step for step in defaults["thresholds"]["steps"] if step["value"] is None or value >= step["value"]]
    return COLOURS[reached[-1]["color"]]


def instant(base, panel):
    """(legend, labels, value) of every series now."""
    found = []
    for target in panel["targets"]:
        for series in ask(base, "query", query=expression(target["expr"])):
            found.append((legend(target, series["metric"]), series["metric"], float(series["value"][1])))
    return found


def curves(base, panel, start, end, step):
    for target in panel["targets"]:
        for series in ask(base, "query_range", query=expression(target["expr"]), start=start, end=end, step=step):
            points = [(float(moment), float(value)) for moment, value in series["values"]]
            yield legend(target, series["metric"]), [p[0] for p in points], [p[1] for p in points]


# === panels ===


def draw_stat(axes, base, panel):
    found, defaults = instant(base, panel), panel["fieldConfig"]["defaults"]
    value = found[0][2] if found else math.nan
    is_name = panel["options"]["textMode"] == "name"
    text = found[0][0] if found and is_name else shown(value, defaults)
    if panel["options"]["colorMode"] == "background" and math.isfinite(value):
        axes.set_facecolor(colour(value, defaults))
    axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=15 if is_name else 19, color="white", weight="bold", transform=axes.transAxes)


def draw_lines(axes, base, panel, window):
    drawn = sorted(curves(base, panel, *window), key=lambda curve: -max(v for v in curve[2] if math.isfinite(v)) if any(map(math.isfinite, curve[2])) else 0)
    defaults, now = panel["fieldConfig"]["defaults"], window[1]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    below = {}
    for place, (name, times, values) in enumerate(drawn[:MOST_CURVES]):
        minutes, paint = [(moment - now) / 60 for moment in times], CURVES[place % len(CURVES)]
        label = f"{name}: {shown(values[-1], defaults)}"
        if stacked:
            values = [0 if math.isnan(value) else value for value in values]
            bottom = [below.get(moment, 0) for moment in times]
            top = [low + value for low, value in zip(bottom, values)]
            axes.fill_between(minutes, bottom, top, color=paint, alpha=0.45, linewidth=0)
            axes.plot(minutes, top, color=paint, linewidth=1, label=label)
            below.update(zip(times, top))
        else:
            axes.plot(minutes, values, color=paint, linewidth=1.5, label=label, marker="." if len(values) == 1 else None)
    if not drawn:
        return axes.text(0.5, 0.5, "no data", ha="center", va="center", color=MUTED, transform=axes.transAxes)
    low, high = axes.get_ylim()
    is_below = any(value < 0 for _, _, values in drawn for value in values)
    axes.set_ylim(min(0, low) if is_below else 0, high if any(value > 0 for _, _, values in drawn for value in values) else 1)
    axes.set_xlim((window[0] - now) / 60, 0)
    axes.legend(fontsize=5.5, loc="upper left", labelcolor=TEXT, facecolor=PANEL, edgecolor="none", framealpha=0.7, ncols=2 if len(drawn) > 5 else 1)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, {**defaults, "mappings": [], "decimals": None if defaults["unit"] != "percentunit" else 0}))


def draw_heatmap(axes, base, panel, window):
    found = sorted(((math.inf if name == "+Inf" else float(name), times, values) for name, times, values in curves(base, panel, *window)), key=lambda row: row[0])
    moments = sorted({moment for _, times, _ in found for moment in times})
    if len(moments) < 2:
        return axes.text(0.5, 0.5, "no data", ha="center", va="center", color=MUTED, transform=axes.transAxes)
    cumulated = [[dict(zip(times, values)).get(moment, 0) for moment in moments] for _, times, values in found]
    cells = [[max(0, here - under) for here, under in zip(row, lower)] for row, lower in zip(cumulated, [[0] * len(moments)] + cumulated)]
    axes.pcolormesh([(moment - window[1]) / 60 for moment in moments], range(len(found)), cells, cmap="turbo", shading="nearest", norm=PowerNorm(0.5))
    axes.set_yticks(range(len(found)), [f"≤ {bound:g}" if math.isfinite(bound) else "more" for bound, *_ in found])
    axes.set_xlim((window[0] - window[1]) / 60, 0)


def draw_table(axes, base, panel):
    defaults = panel["fieldConfig"]["defaults"]
    lines = []
    # In the order of the answer: the ends of a topk or bottomk come first.
    for _, labels, value in instant(base, panel)[:MOST_ROWS]:
        told = ", ".join(text if name == "alertname" else f"{name} {text}" for name, text in labels.items() if name not in HIDDEN)
        lines.append((labels.get("alertstate", ""), told, shown(value, defaults)))
    if not lines:
        lines = [("", "nothing", "")]
    for place, (state, told, value) in enumerate(lines):
        y = 0.93 - place * 0.092
        axes.text(0.03, y, " ".join(part for part in (told, state) if part), fontsize=7, color=TEXT, va="center", transform=axes.transAxes)
        axes.text(0.97, y, value, fontsize=7, color=TEXT, va="center", ha="right", transform=axes.transAxes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dashboard")
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", required=True)
    parser.add_argument("--dpi", type=int, default=100)
    arguments = parser.parse_args()
    with open(arguments.dashboard) as file:
        dashboard = json.load(file)
    end = time.time()
    window = (end - 60 * arguments.minutes, end, max(1, arguments.minutes * 60 / 240))
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = plt.figure(figsize=(15, 0.36 * height + 0.5), facecolor=DARK)
    figure.text(0.008, 1 - 0.25 / (0.36 * height + 0.5), dashboard["title"], color=TEXT, fontsize=13, weight="bold", va="center")
    top = 1 - 0.5 / (0.36 * height + 0.5)
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        x, w = place["x"] / 24, place["w"] / 24
        y, h = top * (1 - (place["y"] + place["h"]) / height), top * place["h"] / height
        if panel["type"] == "row":
            figure.text(x + 0.006, y + h / 2, f"⌄ {panel['title']}", color=TEXT, fontsize=10, va="center")
            continue
        is_plain = panel["type"] in ("stat", "table")
        left, bottom = (0.004, 0.006) if is_plain else (0.034, 0.022)
        axes = figure.add_axes([x + left, y + bottom, w - left - 0.006, h - bottom - (0.006 if panel["type"] == "stat" else 0.022)], facecolor=PANEL)
        axes.tick_params(colors=MUTED, labelsize=6)
        for spine in axes.spines.values():
            spine.set_color("#2c3235")
        axes.set_title(panel["title"], color=TEXT, fontsize=8, loc="left", pad=3 if panel["type"] != "stat" else -11, x=0.0 if panel["type"] != "stat" else 0.04)
        if is_plain:
            axes.set_xticks([]), axes.set_yticks([])
        else:
            axes.grid(color="#2c3235", linewidth=0.5)
        if panel["type"] == "stat":
            draw_stat(axes, arguments.prometheus, panel)
        elif panel["type"] == "table":
            draw_table(axes, arguments.prometheus, panel)
        elif panel["type"] == "heatmap":
            draw_heatmap(axes, arguments.prometheus, panel, window)
        else:
            draw_lines(axes, arguments.prometheus, panel, window)
    figure.savefig(arguments.out, dpi=arguments.dpi, facecolor=DARK)


if __name__ == "__main__":
    main()
