"""How long the browser takes to sort and to filter a board, in milliseconds, round by round."""

from tests.browser.reader import Reader

CLOCK = """
const [css, rounds, text] = arguments, element = document.querySelector(css), times = [];
for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    if (text === null) element.click();
    else {
        element.value = round % 2 ? "" : text;
        element.dispatchEvent(new Event("input", {bubbles: true}));
    }
    document.body.getBoundingClientRect();  // the new layout is part of what a reader waits for
    times.push(performance.now() - start);
}
return times;
"""


def sorting_ms(reader: Reader, board: str, column: int, *, rounds: int = 5) -> list[float]:
    """From a click on the head of a column to the layout of what is seen then."""
    found: list[float] = reader.run(CLOCK, f"{board} thead th:nth-child({column}) button", rounds, None)
    return found


def filtering_ms(reader: Reader, board: str, text: str, *, rounds: int = 5) -> list[float]:
    """From a text in the filter, or none again, to the layout of what is seen then."""
    found: list[float] = reader.run(CLOCK, f"{board} input.filter", rounds, text)
    return found


WHOLE = """
const [css, rows, done] = arguments, start = performance.now();
const isWhole = () => document.querySelectorAll(`${rows}:not(.later)`).length === count;
const look = () => isWhole() ? done(performance.now() - start) : setTimeout(look);
const count = document.querySelectorAll(rows).length;
document.querySelector(css).click();
look();
"""


def whole_ms(reader: Reader, board: str, column: int) -> float:
    """From a click on the head of a column until the rows that are out of sight stand in their places too."""
    return float(reader.run_until_done(WHOLE, f"{board} thead th:nth-child({column}) button", f"{board} tr.row"))
