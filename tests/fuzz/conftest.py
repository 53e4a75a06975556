"""Say at the end how many cases of each kind were tried."""

from fuzz.budget import TRIED


def pytest_terminal_summary(terminalreporter):
    if TRIED:
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(TRIED.items()))
        terminalreporter.write_line(f"fuzz cases: {told}")
