"""Rules that the source of a kernel must keep so that it is right when compiled, too."""
