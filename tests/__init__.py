"""The project's own tests: a package, because a library that installs one of this name would be found first."""
