"""What the demo shows: headings, facts, streamed words and progress bars; plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from agent.core.text import plain

_MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "bad": ("✗", "bold red"), "do": ("▸", "cyan")}
_LABEL_WIDTH = 12
_COLUMN = _LABEL_WIDTH + 5
Report = Callable[[str, int, int], None]
"""(what, bytes done, bytes in all)"""


class Screen:
    """Everything goes through `plain`: engines and drivers have no say over the terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._act = 0
        self._answering = False
        """Whether the cursor stands in streamed output."""

    def title(self, text: str) -> None:
        """The first line."""
        self._print(Text(text, style="bold"))

    def act(self, text: str) -> None:
        """A numbered heading."""
        self._act += 1
        self._print(Text(f"\n{self._act}  {text}", style="bold"))

    def fact(self, label: str, text: str, mark: str = "ok") -> None:
        """One thing that is now so."""
        sign, style = _MARKS[mark]
        body = " ".join(plain(text, 2000).split("\n"))
        self._print(Text.assemble("   ", (sign, style), f" {label:<{_LABEL_WIDTH}}", body))

    def words(self, text: str) -> None:
        """A piece of streamed output, at once and without a line break; its own lines keep to the column."""
        body = plain(text, 10_000).replace("\n", "\n" + " " * _COLUMN)
        self._console.print(Text(body, style="cyan"), end="")
        self._console.file.flush()

    def indent(self) -> None:
        """Where streamed output begins."""
        self._answering = True
        self._console.print(" " * _COLUMN, end="")

    def line(self, text: str = "") -> None:
        """A plain line; ends what `words` began."""
        self._print(Text(text))

    @contextlib.contextmanager
    def progress(self) -> Iterator[Report]:
        """A bar for each thing that reports; nothing but its end is shown where there is no terminal."""
        if not self._console.is_terminal:
            yield lambda _what, _done, _total: None
            return
        columns = (TextColumn("     {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as bars:
            rows = {}

            def report(what: str, done: int, total: int) -> None:
                if what not in rows:
                    rows[what] = bars.add_task(what, total=total)
                bars.update(rows[what], completed=done)

            yield report

    def _print(self, text: Text) -> None:
        if self._answering and text:
            self._console.print()
        self._answering = False
        self._console.print(text)
