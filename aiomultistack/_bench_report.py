"""How a benchmark's result looks to people."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from aiomultistack._bench import Cell, Result
from aiomultistack._ui import microseconds

_NAMES = {
    "multistack": "aiomultistack",
    "multistack-xdp": "aiomultistack, xdp:",
    "uvloop": "uvloop, kernel",
    "asyncio": "asyncio, kernel",
}


def tables(result: Result) -> list[Table]:
    """One table for each mode."""
    return [_table(result, mode) for mode in result.plan.modes]


def _table(result: Result, mode: str) -> Table:
    what = "Keep-alive" if mode == "keep-alive" else "One connection per transaction"
    title = f"{what}, {result.plan.connections} connections at a time"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.collapse_padding = True
    for name in ("KB", "server", "req/s", "CPU/req", "/uvloop", "wrk's CPU", "p50", "p99"):
        table.add_column(name, justify="left" if name == "server" else "right", no_wrap=True)
    for size in result.plan.sizes:
        row = [cell for cell in result.cells if cell.mode == mode and cell.size == size * 1024]
        for number, cell in enumerate(row):
            table.add_row(
                str(size) if number == 0 else "",
                _NAMES[cell.flavour],
                f"{cell.median('requests_per_s'):,.0f}",
                microseconds(cell.median("cpu_us")),
                _ratio(result, cell),
                microseconds(cell.median("client_us")),
                microseconds(cell.median("p50_us")),
                microseconds(cell.median("p99_us")),
                style="bold" if _ours(cell.flavour) else "",
                end_section=number == len(row) - 1,
            )
    return table


def markdown(result: Result) -> str:
    """The result as one Markdown table, for a README."""
    flavours = result.plan.flavours
    heads = ["connections", "KB", *(f"CPU/req: {name}" for name in flavours)]
    ours = [name for name in flavours if _ours(name)]
    heads += ["/uvloop"] if len(ours) < 2 else [f"{name}/uvloop" for name in ours]
    heads += [*(f"and wrk's: {name}" for name in flavours), *(f"req/s: {name}" for name in flavours)]
    lines = [_line(heads), _line(["---", *["--:"] * (len(heads) - 1)])]
    cells = {(cell.mode, cell.size, cell.flavour): cell for cell in result.cells}
    for mode in result.plan.modes:
        for size in result.plan.sizes:
            row = [cells[mode, size * 1024, flavour] for flavour in flavours]
            ratios = [result.ratio(cell) for cell in row if _ours(cell.flavour)]
            lines.append(
                _line(
                    [
                        "kept alive" if mode == "keep-alive" else "one for each request",
                        str(size),
                        *(microseconds(cell.median("cpu_us")) for cell in row),
                        *(f"**{value:.2f}**" if value is not None else "" for value in ratios or [None]),
                        *(microseconds(cell.median("cpu_us") + cell.median("client_us")) for cell in row),
                        *(f"{cell.median('requests_per_s'):,.0f}" for cell in row),
                    ]
                )
            )
    return "\n".join([*lines, "", *notes(result)])


def _ours(flavour: str) -> bool:
    return flavour.startswith("multistack")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(result: Result, cell: Cell) -> Text:
    value = result.ratio(cell)
    if value is None:
        return Text("")
    return Text(f"{value:.2f} x", style="" if not _ours(cell.flavour) else "green" if value <= 1 else "red")


def notes(result: Result) -> list[str]:
    """Sentences that belong below the tables: what was measured how, and what went wrong."""
    plan, machine = result.plan, result.machine
    lines = [
        f"Medians of {plan.rounds} rounds of {plan.seconds} s.  CPU/req is user and system time of the server process;"
        " wrk's is the client's.  On a veth pair each side runs a part of the other's stack, on a TAP only the server"
        " does.",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']},"
        f" uvloop {machine.get('uvloop', 'absent')}.",
    ]
    for cell in result.cells:
        if cell.errors:
            kinds = ", ".join(f"{number} {kind}" for kind, number in cell.errors.items())
            lines.append(f"Errors that wrk saw: {cell.flavour}, {cell.mode}, {cell.size // 1024} KB: {kinds}.")
    if result.cores[0] == result.cores[1]:
        lines.append("Server and wrk shared one core: req/s say little, CPU/req stays meaningful.")
    return lines
