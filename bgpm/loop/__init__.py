"""The active-learning loop for one seed, in memory: what a stage does between reading and writing files.

One module a step, named like its stage. `stages/` runs one step a process, for the record; `bgpm.study` runs many
loops in one process, for comparison. Both call these functions, so their numbers are the same.

Legend: N pairs of a split, k pairs of a batch. ``rows`` are rows of the table of all pairs.
"""
