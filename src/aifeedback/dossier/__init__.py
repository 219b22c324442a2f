"""The decision file: requirements as data, checked against the files of runs; waivers, a signature, one page."""
