"""The state machine as SVG: the states of a module in a column, moves onwards on its right, moves back on its left."""

from html import escape

from salmon.routing import ROUTE_FIRST_STATE

CHARACTER = 7.5  # the width of a character, in pixels, as everything here
LINE = 16
GAP = 56  # from box to box
LANE = 20  # from a box to the first arc, and from arc to arc
MARGIN = 20
TURN = 8

HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">
<title>The states of the handlers, and which state returns which</title>
<style>
text {{ font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #57606a }}
.name {{ font-weight: bold; fill: #1f2328 }}
.state {{ fill: #eef4ff; stroke: #3b6fd4 }}
.stateless {{ fill: #f6f8fa; stroke: #8c959f }}
.move {{ fill: none; stroke: #57606a; marker-end: url(#head) }}
</style>
<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M1,1 L7,4 L1,7" fill="none" stroke="#57606a"/></marker>
<rect width="100%" height="100%" fill="#ffffff"/>
"""


def draw(machine, counts=None):
    """Return the picture of a `Machine`; `counts` are numbers of senders by `(module, name)`."""
    left, height, parts = MARGIN, 0, []
    for module in machine.modules():
        column = _Column(machine, module, counts)
        parts += column.parts(left)
        left += column.width + 2 * MARGIN
        height = max(height, column.height)
    return HEAD.format(width=left - MARGIN, height=height + MARGIN) + "\n".join(parts) + "\n</svg>\n"


class _Column:
    """The states of one module, from the START on in the order in which they are reached."""

    def __init__(self, machine, module, counts):
        self.module = module
        self.states = _in_order_of_reach(machine.in_module(module))
        self.lines = {state.key: _lines(machine, state, counts) for state in self.states}
        self.box = max(map(_width, sum(self.lines.values(), []))) + 2 * LANE
        self.tops, self.height = {}, MARGIN + 3 * LINE
        for state in self.states:
            self.tops[state.key] = self.height
            self.height += self._box_height(state.key) + GAP
        self.height -= GAP
        moves = [
            (state.key, target, machine.label(state, target))
            for state in self.states
            for target in state.moves
            if target in self.tops and target != state.key
        ]
        order = list(self.tops)
        self.steps = [move for move in moves if order.index(move[1]) == order.index(move[0]) + 1]
        beside = max([_width(label) + LANE - self.box / 2 for _, _, label in self.steps] + [LANE])
        onwards = [move for move in moves if order.index(move[1]) > order.index(move[0]) + 1]
        back = [move for move in moves if order.index(move[1]) < order.index(move[0])]
        self.onwards = _in_lanes(onwards, order, beside)
        self.back = _in_lanes(back, order, LANE)
        self.left = _lanes_width(self.back)
        self.width = max(self.left + self.box + max(_lanes_width(self.onwards), beside), _width(module))

    def parts(self, x):
        """Return the elements of the column, with its left edge at `x`."""
        parts = [_text(x, MARGIN, self.module, "name")]
        x += self.left
        middle, right = x + self.box / 2, x + self.box
        for state in self.states:
            top, height = self.tops[state.key], self._box_height(state.key)
            if state.name == ROUTE_FIRST_STATE:
                parts.append(f'<circle cx="{middle:.1f}" cy="{top - 26:.1f}" r="5" fill="#1f2328"/>')
                parts.append(_move(f"M{middle:.1f},{top - 20:.1f} V{top:.1f}"))
            kind = "stateless" if state.stateless else "state"
            size = f'width="{self.box:.1f}" height="{height:.1f}" rx="{TURN}"'
            parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" {size}/>')
            for number, line in enumerate(self.lines[state.key]):
                parts.append(_text(middle, top + 22 + number * LINE, line, "" if number else "name", "middle"))
            if state.key in state.moves:
                y = top + height / 2
                parts.append(_move(f"M{right:.1f},{y - 5:.1f} c16,-8 16,18 0,10"))
        for source, target, label in self.steps:
            start, end = self.tops[source] + self._box_height(source), self.tops[target]
            parts.append(_move(f"M{middle:.1f},{start:.1f} V{end:.1f}"))
            parts.append(_text(middle + 8, (start + end) / 2 + 4, label))
        for lanes, edge, way, anchor in ((self.onwards, right, 1, "start"), (self.back, x, -1, "end")):
            for (source, target, label), offset in lanes:
                lane = edge + way * offset
                start, end = (self.tops[key] + self._box_height(key) / 2 for key in (source, target))
                start, end = start + way * 11, end - way * 11
                corner = way * TURN
                parts.append(
                    _move(
                        f"M{edge:.1f},{start:.1f} H{lane - corner:.1f} q{corner},0 {corner},{corner}"
                        f" V{end - corner:.1f} q0,{corner} {-corner},{corner} H{edge:.1f}"
                    )
                )
                parts.append(_text(lane + way * 6, (start + end) / 2 + 4, label, anchor=anchor))
        return parts

    def _box_height(self, key):
        return 18 + LINE * len(self.lines[key])


def _lines(machine, state, counts):
    """Return what stands in the box of a state: its name, where its mail comes in, and moves to other modules."""
    lines = [state.name + machine.number(state, counts)]
    if machine.is_entry(state):
        lines.append(state.route)
    for target in state.moves:
        if target[0] != state.module:
            lines.append(f"to {machine.title(machine.states[target])}  {machine.label(state, target)}".rstrip())
    return lines


def _in_order_of_reach(states):
    by_key = {state.key: state for state in states}
    found = [state for state in states if state.name == ROUTE_FIRST_STATE] or states[:1]
    for state in found:  # grows while it is walked through
        found += [by_key[key] for key in state.moves if key in by_key and by_key[key] not in found]
    return found + [state for state in states if state not in found]


def _in_lanes(moves, order, distance):
    """Return `(move, distance from the boxes)`: arcs that overlap lie beside each other, the shorter nearer."""
    lanes = []
    for move in sorted(moves, key=lambda move: abs(order.index(move[0]) - order.index(move[1]))):
        span = range(*sorted((order.index(move[0]), order.index(move[1]))))
        free = (lane for lane in lanes if not any(set(span) & set(other) for other, _ in lane))
        lane = next(free, None)
        if lane is None:
            lanes.append(lane := [])
        lane.append((span, move))
    placed = []
    for lane in lanes:
        placed += [(move, distance) for _, move in lane]
        distance += max(_width(move[2]) for _, move in lane) + LANE
    return placed


def _lanes_width(placed):
    return max((distance + _width(move[2]) + TURN for move, distance in placed), default=0)


def _width(text):
    return len(text) * CHARACTER


def _move(path):
    return f'<path class="move" d="{path}"/>'


def _text(x, y, text, kind="", anchor="start"):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
