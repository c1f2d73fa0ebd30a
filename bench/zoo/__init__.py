"""Networks under test, and the real images they are tested on. Names can be listed without loading torch."""
