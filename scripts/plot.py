"""Draws ratio against decode speed of every coder for one file, from the CSV of `scripts/bench.sh codec --record`.

    python3 scripts/plot.py CSV OUT.svg [--file NAME]

NAME is part of a file's name; without it the file with the most coders is drawn. Of several runs the last counts. To the left
is smaller, to the top is faster; speed is logarithmic, one thread. Coders whose ratios are far behind all others' stand at the
right edge as triangles, with their ratio. The picture follows the reader's choice of light or dark.
"""

import argparse
import csv
import math
import sys
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 52, 56

STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: #1f2328; }
  .paper { fill: #ffffff; } .frame { stroke: #d0d7de; fill: none; } .grid { stroke: #eaeef2; }
  .faint { fill: #59636e; } .title { font-weight: 600; font-size: 14px; } .ours { font-weight: 600; }
  .dot { fill: #818b98; } .dot-ours { fill: #0969da; } .line-ours { stroke: #0969da; fill: none; stroke-opacity: 0.5; }
  .memcpy { stroke: #818b98; stroke-dasharray: 5 4; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; } .paper { fill: #0d1117; } .frame { stroke: #3d444d; } .grid { stroke: #21262d; }
    .faint { fill: #9198a1; } .dot { fill: #9198a1; } .dot-ours { fill: #4493f8; } .line-ours { stroke: #4493f8; }
  }
"""


def read(path, wanted):
    """(file, {coder: row}) of the last run of each coder."""
    files = {}
    with open(path, newline="") as lines:
        for row in csv.DictReader(lines):
            if row["dtype"] == "all" and wanted in row["file"]:
                files.setdefault(row["file"], {})[row["coder"]] = row
    if not files:
        sys.exit(f"{path}: no row of a whole file" + (f" whose name holds '{wanted}'" if wanted else ""))
    return max(files.items(), key=lambda item: len(item[1]))


def ticks(low, high):
    """Round numbers 1, 2, 5 of each power of ten that lie between."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [t for power in powers for t in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if low <= t <= high]


def steps(low, high):
    """Round numbers at equal distances, nine at most, and how many decimals they need."""
    sizes = ((0.0005, 4), (0.001, 3), (0.002, 3), (0.005, 3), (0.01, 2), (0.02, 2), (0.05, 2), (0.1, 1), (0.2, 1), (0.5, 1))
    step, decimals = next(s for s in sizes if (high - low) / s[0] <= 9)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)], decimals


def far(ratios):
    """The ratio above which coders stand at the edge: behind a gap that is wider than half of all; else infinity."""
    ratios = sorted(ratios)
    for i in range(3, len(ratios)):
        if ratios[i] - ratios[i - 1] > (ratios[-1] - ratios[0]) / 2:
            return ratios[i - 1]
    return math.inf


def place(points, line):
    """Where each label goes, (x, y, anchor): the first place around its dot that hits no dot, label or line, and is inside."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y, *_ in points]
    for (x, y), (to_x, to_y) in zip(line, line[1:]):
        along = [(x + (to_x - x) * i / 20, y + (to_y - y) * i / 20) for i in range(21)]
        taken += [(a - 1, b - 1, a + 1, b + 1) for a, b in along]
    places = []
    for x, y, label, ours, _ in points:
        width = (7.2 if ours else 6.6) * len(label)
        around = [(x + 9, y + 4, "start"), (x - 9, y + 4, "end"), (x, y - 11, "middle"), (x, y + 20, "middle")]
        around += [(x + 9, y + 4 + dy, "start") for dy in (-14, 16)] + [(x - 9, y + 4 + dy, "end") for dy in (-14, 16)]
        around += [(x + 9, y + 4 + dy, "start") for dy in (-28, 30, -42, 44)]
        best = None
        for at_x, at_y, anchor in around:
            start = at_x - {"start": 0, "middle": width / 2, "end": width}[anchor]
            box = (start, at_y - 10, start + width, at_y + 3)
            hits = sum(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken)
            hits += 10 * (box[0] < LEFT + 2 or box[2] > WIDTH - 4 or box[1] < TOP or box[3] > HEIGHT - BOTTOM)
            if best is None or hits < best[0]:
                best = (hits, (at_x, at_y, anchor), box)
        taken.append(best[2])
        places.append(best[1])
    return places


def draw(name, rows):
    coders = [(float(r["ratio"]), float(r["decode GB/s"]), coder) for coder, r in rows.items()]
    memcpy = [float(r["memcpy GB/s"]) for r in rows.values() if r["memcpy GB/s"] not in ("", "-")]
    memcpy = sorted(memcpy)[len(memcpy) // 2] if memcpy else None
    edge = far([c[0] for c in coders])
    ratios, speeds = [c[0] for c in coders if c[0] <= edge], [c[1] for c in coders] + ([memcpy] if memcpy else [])
    margin = max(0.08 * (max(ratios) - min(ratios)), 0.002)
    x_low, x_high = min(ratios) - margin, max(ratios) + 2 * margin
    y_low, y_high = min(speeds) / 1.5, max(speeds) * 1.5

    def x(ratio):
        return LEFT + (ratio - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(speed):
        return TOP + (math.log(y_high) - math.log(speed)) / (math.log(y_high) - math.log(y_low)) * (HEIGHT - TOP - BOTTOM)

    def text(at_x, at_y, label, kind="", anchor="start", more=""):
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" class="{kind}" text-anchor="{anchor}"{more}>{escape(label)}</text>'

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{escape(name)}: ratio and decode speed</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" class="paper"/>',
        text(LEFT, 30, name, "title"),
        text(WIDTH - RIGHT, 30, "one thread, memory to memory", "faint", "end"),
    ]
    for tick in ticks(y_low, y_high):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" class="grid"/>')
        out.append(text(LEFT - 8, y(tick) + 4, f"{tick:g}", "faint", "end"))
    x_ticks, decimals = steps(x_low, x_high)
    for tick in x_ticks:
        out.append(f'<line y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" class="grid"/>')
        out.append(text(x(tick), HEIGHT - BOTTOM + 18, f"{tick:.{decimals}f}", "faint", "middle"))
    out.append(f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" class="frame"/>')
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "ratio, packed / raw (smaller is better)", "faint", "middle"))
    turned = f' transform="rotate(-90 18 {(TOP + HEIGHT - BOTTOM) / 2})"'
    out.append(text(18, (TOP + HEIGHT - BOTTOM) / 2, "decode, GB/s (log)", "faint", "middle", turned))
    if memcpy:
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(memcpy):.1f}" y2="{y(memcpy):.1f}" class="memcpy"/>')
        out.append(text(WIDTH - RIGHT - 6, y(memcpy) - 6, f"memcpy {memcpy:.1f} GB/s", "faint", "end"))
    points = []
    for ratio, speed, coder in coders:
        inside = ratio <= edge
        label = coder if inside else f"{coder} ({ratio:.3f})"
        points.append((x(ratio) if inside else WIDTH - RIGHT - 10, y(speed), label, coder.startswith("bsfs"), inside))
    points.sort(key=lambda point: (not point[3], point[1]))
    line = sorted(point[:2] for point in points if point[3])
    if len(line) > 1:
        out.append(f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in line)}" class="line-ours"/>')
    for (at_x, at_y, label, mine, inside), (label_x, label_y, anchor) in zip(points, place(points, line)):
        kind = "dot-ours" if mine else "dot"
        if inside:
            out.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="5" class="{kind}"/>')
        else:
            out.append(f'<path d="M{at_x - 4:.1f} {at_y - 5:.1f}l9 5l-9 5z" class="{kind}"/>')
        out.append(text(label_x, label_y, label, "ours" if mine else "", anchor))
    return "\n".join([*out, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv")
    parser.add_argument("out")
    parser.add_argument("--file", default="", metavar="NAME", help="part of the name of the file to draw")
    args = parser.parse_args()
    name, rows = read(args.csv, args.file)
    with open(args.out, "w") as out:
        out.write(draw(name, rows))


if __name__ == "__main__":
    main()
