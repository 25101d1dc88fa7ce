"""The graph's assets: what exists. How it is made is in the library packages."""
