"""From a suite file to the list of cells that it asks for, each with what it needs and why it may be skipped."""
