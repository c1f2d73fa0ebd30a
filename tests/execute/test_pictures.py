"""The suite's sheets show whole rows of pictures."""

import pytest
from PIL import Image

from bench.execute.pictures import SHEET_ROW, _first_rows


@pytest.mark.parametrize(("row", "rows", "kept"), [(66, 4, 4), (131, 4, 2), (116, 4, 2), (226, 4, 1), (400, 2, 1)])
def test_a_sheet_is_cut_between_two_rows(row, rows, kept):
    cut = _first_rows(Image.new("RGB", (600, row * rows)), rows)
    assert cut.size == (600, row * kept)
    assert cut.height <= SHEET_ROW or kept == 1
