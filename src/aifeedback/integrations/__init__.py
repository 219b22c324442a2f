"""Doors to other libraries: TRL trainers, and a reward server for OpenRLHF, verl and anything that speaks HTTP."""
